"""Learned memories in the transformer: silent when added, taught through the whole clip, refused where they do not fit."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from fakes import STATEFUL, model_for, scatter_parameters, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import TokenGrid
from mutoscope.core.streams import normal, stream
from mutoscope.memory import states
from mutoscope.memory.kinds import STATES, FastWeights, StateConfig
from mutoscope.memory.policy import PolicyConfig, Window, cache_of, state_of
from mutoscope.models.denoise import bidirectional, clip_layout, teacher_forced
from mutoscope.models.recall import FIRST_RATE, MOST_RATE, FastRecall, recall_layer
from mutoscope.models.rope import address_turns, rotations, screen_addresses
from mutoscope.models.transformer import VideoTransformer

FRAMES, WRITES = 9, 2000
# sigmoid(-3) / 2 = 0.024: at ten times as much, thousands of random keys drive fast weights about so that rounding grows.
GENTLE = -3.0


def forced(model: VideoTransformer, policy: PolicyConfig) -> Tensor:
    """Teacher-forced velocities of a random clip, frame-wise."""
    clean, noisy, conditions = tiny_latents(FRAMES), tiny_latents(FRAMES, seed=1), tiny_conditions(FRAMES)
    sigma = torch.full((2, FRAMES), 0.5).double()
    return teacher_forced(model, clean, noisy, sigma, conditions, conditions, clip_layout(model, policy, (1,) * FRAMES, "cpu"))


def added(policy: PolicyConfig) -> tuple[VideoTransformer, VideoTransformer]:
    """A trained model, and the same one with a fresh memory."""
    plain = tiny_model()
    grown = VideoTransformer(tiny_config(recall=state_of(policy))).initialise(stream(1, "added")).double()
    missing = grown.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(".recall." in name for name in missing)
    return plain, grown


@pytest.mark.parametrize("policy", STATEFUL)
def test_a_fresh_memory_changes_nothing_and_a_trained_one_something(policy):
    plain, grown = added(STATEFUL[policy])
    with torch.no_grad():
        before, after = forced(plain, cache_of(STATEFUL[policy])), forced(grown, STATEFUL[policy])
        assert torch.equal(before, after)
        model = model_for(STATEFUL[policy])
        silent = {name: value * (not name.endswith("out")) for name, value in model.state_dict().items() if ".recall." in name}
        heard = forced(model, STATEFUL[policy])
        model.load_state_dict(silent, strict=False)
        assert not torch.allclose(forced(model, STATEFUL[policy]), heard, atol=1e-4)


def taught(model: VideoTransformer, policy: PolicyConfig, frame: int) -> dict[str, float]:
    """Norm of the gradient of one frame's velocity with respect to each of a memory's parameters."""
    names, weights = zip(*((name, value) for name, value in model.named_parameters() if ".recall." in name), strict=True)
    velocity = forced(model, policy)[:, frame]
    gradients = torch.autograd.grad(velocity.square().sum(), weights, materialize_grads=True)
    return {name: float(gradient.norm()) for name, gradient in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("policy", STATEFUL)
def test_gradient_reaches_every_part_of_a_memory_through_its_writes(policy):
    norms = taught(model_for(STATEFUL[policy]), STATEFUL[policy], FRAMES - 1)
    assert min(norms.values()) > 0


def test_a_window_that_evicts_nothing_teaches_a_memory_of_evicted_frames_nothing():
    policy = replace(STATEFUL["window+linear"], cache=Window(FRAMES))
    assert max(taught(model_for(policy), policy, FRAMES - 1).values()) == 0


def test_a_fast_memory_starts_at_its_gate_with_a_gradient():
    """At A = 0 nothing is heard, but A itself must learn, or it never opens."""
    policy = STATEFUL["window+fast-mlp"]
    norms = taught(added(policy)[1], policy, FRAMES - 1)
    assert all((value > 0) == name.endswith("out") for name, value in norms.items())


@torch.no_grad()
def farthest_row(rate: float) -> float:
    """How far a write of loud keys and values moves the row that it moves farthest, whatever rate was learned."""
    memory = FastRecall(FastWeights("swiglu", 1), 2, 12).double()
    memory.initialise(stream(0, "rates"))
    assert torch.allclose(memory.rates, torch.full_like(memory.rates, FIRST_RATE))
    torch.nn.init.constant_(memory.raw_rate, rate)
    keys, values = (100 * normal((2, 1, 2, 5, 12), stream(0, "rates"), torch.float64)).unbind(0)
    turn, start = torch.ones(5, 6).to(torch.complex128), memory.start(1)
    moved = memory.writer()(start, memory.address(keys, turn), values) - start
    return float(moved.unflatten(-1, (-1, 12)).norm(dim=-1).max())


def test_no_write_moves_a_row_by_more_than_the_largest_rate_allows(monkeypatch):
    """A step of spectral norm eta, and the way back to the row's norm, which is no longer than that. The twin takes plain steps."""
    assert 0 < farthest_row(0.0) < farthest_row(50.0) <= 2 * MOST_RATE
    monkeypatch.setattr(states, "swiglu_step", states.swiglu_gradient)
    assert farthest_row(50.0) > 2 * MOST_RATE


def test_a_look_ahead_reads_a_fork_and_leaves_the_memory_alone():
    model = model_for(STATEFUL["window+fast-mlp"])
    memory = model.memories[0]
    state = memory.start(2)
    before = state.clone()
    noise = torch.randn(3, 2, 2, 15, 12, generator=stream(0, "fork")).double()
    turn = torch.ones(15, 6).to(torch.complex128)
    fork = memory.writer()(state, memory.address(noise[0], turn), noise[1])
    asked = memory.address(noise[2], turn)
    assert torch.equal(state, before)
    assert not torch.allclose(memory.read(fork, asked), memory.read(state, asked))


def test_memories_are_refused_where_they_do_not_fit():
    with pytest.raises(ConfigError, match="learned memory"):
        tiny_model().new_store(STATEFUL["window+linear"], 1, 1, torch.zeros(0))
    with pytest.raises(ConfigError, match="learned memory"):
        model_for(STATEFUL["window+linear"]).new_store(Window(4), 1, 1, torch.zeros(0))
    model, latents = model_for(STATEFUL["window+linear"]), tiny_latents(3)
    with pytest.raises(ConfigError, match="bidirectional"):
        bidirectional(model, latents, latents.new_ones(2, 3), tiny_conditions(3))


def test_the_size_of_fast_weights_is_declared():
    for policy in STATEFUL.values():
        memory = model_for(policy).memories[0]
        state = state_of(policy)
        assert state is not None and memory.start(2).shape == (2, 2, state.floats(12))
    assert FastRecall(STATEFUL["fast-swiglu alone"].state, 2, 12).rates.min() > 0


def errors_of_the_newest(kind: StateConfig, kept_in: torch.dtype) -> float:
    """Error of what is read for the newest keys after WRITES writes of bounded ones, against a state in float64; relative."""
    narrow = recall_layer(kind, 1, 6)
    narrow.initialise(stream(0, "recall weights"))
    scatter_parameters(narrow, 0)
    if isinstance(narrow, FastRecall):
        narrow.raw_rate.fill_(GENTLE)
    wide = deepcopy(narrow).double()
    turn = screen_addresses(1, TokenGrid(1, 2), 6, torch.float64, torch.device("cpu"))
    state, right = narrow.start(1).to(kept_in), wide.start(1)
    for index in range(WRITES):
        keys, values = normal((2, 1, 1, 2, 6), stream(0, "recall writes", index), torch.float64)
        own, exact = narrow.address(keys.float(), turn.to(torch.complex64)), wide.address(keys, turn)
        state = narrow.writer()(state.float(), own, values.float()).to(kept_in)
        right = wide.writer()(right, exact, values)
    wanted, found = wide.read(right, exact), narrow.read(state.float(), own)
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.long
@pytest.mark.parametrize("kind", STATES)
def test_thousands_of_writes_leave_the_newest_association_right(kind):
    """States in float32; the twin in bfloat16 loses what is small beside what it holds."""
    with torch.no_grad():
        assert errors_of_the_newest(STATES[kind], torch.float32) < 1e-5
        assert errors_of_the_newest(STATES[kind], torch.bfloat16) > 1e-3


def found_again(kind: StateConfig, turns: Callable[[Tensor], Tensor]) -> float:
    """Share of columns whose value, one of eight, is the nearest to what is read there after a walk past twelve of them.

    Frames show four columns and move by one; half of the walk the viewer stands, so that what is seen then is told again and again. What
    a token shows says nothing of its value.
    """
    memory, size = recall_layer(kind, 1, 64).double(), 64
    memory.initialise(stream(0, "walk weights"))
    memory.out.copy_(torch.eye(size))
    kinds = normal((8, size), stream(0, "walk kinds"), torch.float64)
    map_of = torch.randint(8, (12,), generator=stream(0, "walk map"))
    state = memory.start(1)
    write = memory.writer()
    for start in [*range(9), *[8] * 9]:
        columns = torch.arange(start, start + 4)
        shown = normal((1, 1, 4, size), stream(0, "walk keys", start), torch.float64)
        state = write(state, memory.address(shown, turns(columns)), kinds[map_of[columns]][None, None])
    asking = normal((1, 1, 12, size), stream(0, "walk queries"), torch.float64)
    read = memory.read(state, memory.address(asking, turns(torch.arange(12))))[0, 0]
    return float(((read @ kinds.T - kinds.square().sum(-1) / 2).argmax(-1) == map_of).double().mean())


def as_addresses(columns: Tensor) -> Tensor:
    """As models turn them."""
    return address_turns(torch.stack([torch.zeros(len(columns)), columns], dim=-1), 64, torch.float64)


def as_rotary(columns: Tensor) -> Tensor:
    """As a token's rotary position."""
    return rotations(torch.zeros(1), TokenGrid(1, 12), 64, torch.float64)[columns]


@pytest.mark.parametrize("kind", STATES)
def test_what_was_told_at_a_place_is_found_there(kind):
    """The twin is as a token's rotary position: all places are nearly one. A linear state has no other address, and finds nothing."""
    with torch.no_grad():
        assert (found_again(STATES[kind], as_addresses) >= 0.9) == (recall_layer(STATES[kind], 1, 6).addressed_by == "place")
        assert found_again(STATES[kind], as_rotary) < 0.4


def written_after_a_change(memory: FastRecall) -> Tensor:
    """The state after one write under weights that moved since the write before."""
    keys, values = normal((2, 1, 2, 3, 12), stream(0, "kept writer"), torch.float64)
    with torch.no_grad():
        memory.writer()(memory.start(1), keys, values)
        memory.raw_rate.add_(1.0)
        memory.outward.mul_(1.5)
        return memory.writer()(memory.start(1), keys, values)


def test_what_a_write_takes_from_the_weights_follows_them():
    """While nobody learns it is worked out once; the twin keeps it when the weights have moved."""
    memory = model_for(STATEFUL["window+fast-mlp"]).memories[0]
    assert isinstance(memory, FastRecall)
    fresh, stale = deepcopy(memory), deepcopy(memory)
    stale.writer = partial(lambda kept: kept, stale._new_writer())
    found = written_after_a_change(memory)
    with torch.no_grad():
        fresh.raw_rate.add_(1.0)
        fresh.outward.mul_(1.5)
        keys, values = normal((2, 1, 2, 3, 12), stream(0, "kept writer"), torch.float64)
        right = fresh._new_writer()(fresh.start(1), keys, values)
        assert memory.writer() is memory.writer()
    assert torch.equal(found, right)
    assert not torch.allclose(written_after_a_change(stale), right)
