"""The gradient pass of a rollout: one replay equals the rollout, and its gradient equals autograd with a detached cache.

The reference is a rollout of its own kind: one differentiable pass after the other, keys and values in plain lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from fakes import ALL_POLICIES, LAST_PASS, STATEFUL, model_for, tiny_conditions, tiny_latents, tiny_model
from grids import pairs, taking_turns
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.ledger import ChunkSources, chunk_lengths, layout
from mutoscope.memory.policy import Full, Window
from mutoscope.models.attention import ClipLayout, Context, Place
from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import clip_layout, denoise_given_context, denoise_last, encode_context, replay, replay_since
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate, rotations, screen_addresses
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import few_step_levels, x0_from_velocity
from mutoscope.rollout.training import Rollout, RolloutPlan, roll_out, score_window

FRAMES, CONTEXT = 11, 2
LEVELS = tuple(few_step_levels(4, 5.0).tolist())
# The levels of the first generated chunk and of the others, cut at their exit step.
EXITS = {"first step": (LEVELS[:1], LEVELS[:1]), "middle": (LEVELS[:3], (1.0, 5 / 6)), "last step": (LEVELS, (1.0, 5 / 6))}


def noise(frame: int, draw: int) -> Tensor:
    """Fresh noise for a chunk of three frames or, frame-wise, its first."""
    return normal((2, 3, *tiny_latents(1).shape[2:]), stream(0, "rollout", frame, draw), torch.float64)


@dataclass
class ListMemory:
    """Attention over per-layer dicts frame -> (unrotated keys, values), softmax written out."""

    model: VideoTransformer
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    chunk: ChunkSources | None = None
    writes: bool = False
    last: bool = False
    place: Place | None = None
    detached: bool = True
    taught: bool = False
    blended: set[tuple[int, int]] = field(default_factory=set)
    told: dict[tuple[int, tuple[int, ...]], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)

    def placed(self, place: Place) -> "ListMemory":
        """The same dicts; queries and keys are first turned to their places, by a rotation of its own."""
        return replace(self, place=place)

    def at(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """x rotated to the positions of its frames."""
        return rotate(x, rotations(torch.tensor(positions), self.model.config.grid, self.model.config.head_dim, x.dtype))

    def turn(self, frames: Sequence[int], memory: RecallLayer) -> Tensor:
        """Where the tokens of frames stand on the screen and in the world, as a memory is told."""
        grid, size = self.model.config.grid, self.model.config.head_dim
        if memory.addressed_by == "rotary":
            still = rotations(torch.zeros(len(frames)), grid, size, torch.float64)
            return still if self.place is None else still * self.place.rotation
        still = screen_addresses(len(frames), grid, size, torch.float64, torch.device("cpu"))
        return still if self.place is None else still * self.place.address

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The state written anew from the whole past at every reading: from evicted frames one by one, or from whole chunks."""
        assert self.chunk is not None
        frames, from_last = tuple(self.chunk.chunk.frames), memory.written_from == "last pass"
        if self.writes and (layer, frames) not in self.told:
            self.told[layer, frames] = (keys, values, self.turn(frames, memory))
        if self.writes and from_last:
            return torch.zeros_like(queries)
        sources = {source.frame for source in self.chunk.sources}
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detached):
            state = self.state(layer, memory, frames[0], sources, len(queries))
        if self.last and from_last:
            self.told[layer, frames] = (keys, values, self.turn(frames, memory))
        return memory.read(state, memory.address(queries, self.turn(frames, memory)))

    def state(self, layer: int, memory: RecallLayer, now: int, sources: set[int], rows: int) -> Tensor:
        """All that was told, one after the other."""
        state = memory.start(rows)
        for (at, told), (key, value, turn) in sorted(self.told.items(), key=lambda item: item[0]):
            pieces = zip(told, *(part.chunk(len(told), dim=-2) for part in (key, value, turn)), strict=True)
            if at == layer and memory.written_at == "chunk":
                state = memory.writer()(state, memory.address(key, turn), value)
            elif at == layer:
                for frame, one, what, where in pieces:
                    if frame not in sources and frame < now:
                        state = memory.writer()(state, memory.address(one, where), what)
        return state

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        assert self.chunk is not None
        if self.place is not None:
            queries, keys = rotate(queries, self.place.rotation), rotate(keys, self.place.rotation)
        frames = list(self.chunk.chunk.frames)
        self.blend(layer)
        past = [(self.kept[layer, source.frame], source.position) for source in self.chunk.sources]
        if self.taught and not self.writes:
            past = [((key.detach(), value.detach()), position) for (key, value), position in past]
        seen = [*((self.at(key, [position]), value) for (key, value), position in past), (self.at(keys, frames), values)]
        if self.writes:
            pieces = zip(frames, keys.chunk(len(frames), dim=2), values.chunk(len(frames), dim=2), strict=True)
            self.kept.update({(layer, frame): (key, value) for frame, key, value in pieces})
        all_keys, all_values = (torch.cat(parts, dim=2) for parts in zip(*seen, strict=True))
        logits = self.at(queries, frames) @ all_keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
        biases = torch.tensor([*(source.bias for source in self.chunk.sources), *(0.0 for _ in frames)]).double()
        return (logits + biases.repeat_interleave(self.model.config.grid.tokens)).softmax(dim=-1) @ all_values

    def blend(self, layer: int) -> None:
        """What left enters its sink, once per layer and chunk."""
        assert self.chunk is not None
        if (layer, self.chunk.chunk.start) in self.blended:
            return
        self.blended.add((layer, self.chunk.chunk.start))
        for item in self.chunk.blends:
            pairs = zip(self.kept[layer, item.heir], self.kept[layer, item.frame], strict=True)
            own, new = (item.keep * sink + (1 - item.keep) * gone for sink, gone in pairs)
            self.kept[layer, item.heir] = (own, new)


def reference(model: VideoTransformer, plan: RolloutPlan, real: Tensor, detached: bool, taught: bool = False) -> Tensor:
    """Samples `[B, F, ...]` of a rollout whose exit steps carry gradient, and with them its commits unless `detached`.

    `taught`: commits carry gradient into what they write into a learned memory, but not into frames that exit steps read.
    """
    conditions, memory, clips = tiny_conditions(FRAMES), ListMemory(model, detached=detached, taught=taught), []
    for index, part in enumerate(layout(plan.policy, chunk_lengths(FRAMES, plan.chunk_frames, plan.context))):
        start, length = part.chunk.start, part.chunk.length
        own, memory.chunk, memory.writes = conditions.frames(start, start + length), part, False
        clean = real[:, start : start + length]
        if index >= plan.context:
            clean = sample(model, memory, start, plan.first_levels if index == plan.context else plan.levels, own)
        clips.append(clean)
        memory.writes = True
        with torch.set_grad_enabled(not detached):
            model(clean.detach() if taught else clean, torch.zeros(2, length).double(), own, memory)
    return torch.cat(clips, dim=1)


def sample(model: VideoTransformer, memory: ListMemory, start: int, levels: tuple[float, ...], own: Conditions) -> Tensor:
    """Few-step sampling of a chunk that stops at the last level, with gradient in that step alone."""
    length = own.known.shape[1]
    x = noise(start, 0)[:, :length]
    for index, sigma in enumerate(levels):
        memory.last = index + 1 == len(levels)
        with torch.set_grad_enabled(memory.last):
            x0 = x - sigma * model(x, x.new_full(x.shape[:2], sigma), own, memory)
        if index + 1 < len(levels):
            x = (1 - levels[index + 1]) * x0 + levels[index + 1] * noise(start, index + 1)[:, :length]
    memory.last = False
    return x0


def rolled_out(model: VideoTransformer, plan: RolloutPlan, real: Tensor) -> Rollout:
    """The rollout of the package, with the same noise."""
    return roll_out(model, plan, real, tiny_conditions(FRAMES), lambda frame, draw: noise(frame, draw)[:, : plan.chunk_frames])


def replayed(model: VideoTransformer, plan: RolloutPlan, rollout: Rollout) -> Tensor:
    """The samples as the replay gives them, with gradient."""
    parts = clip_layout(model, plan.policy, rollout.lengths, "cpu", rollout.context)
    velocity = replay(model, rollout.clean, rollout.noisy, rollout.sigma, tiny_conditions(FRAMES), parts)
    return x0_from_velocity(rollout.noisy, velocity, rollout.sigma)


def replayed_and_taught(model: VideoTransformer, plan: RolloutPlan, rollout: Rollout) -> Tensor:
    """The same with gradient into what the commits write into a learned memory."""
    parts, conditions = clip_layout(model, plan.policy, rollout.lengths, "cpu", rollout.context), tiny_conditions(FRAMES)
    velocity = replay_since(model, rollout.clean, rollout.noisy, rollout.sigma, conditions, parts, 0, "taught")
    return x0_from_velocity(rollout.noisy, velocity, rollout.sigma)


def gradients(model: VideoTransformer, samples: Tensor, start: int = CONTEXT) -> Tensor:
    """Gradient of a random linear function of the generated frames from `start` on, the last of `samples`, with respect to all weights."""
    direction = tiny_latents(FRAMES, seed=7)[:, start:]
    weights = list(model.parameters())
    parts = torch.autograd.grad((samples[:, start - FRAMES :] * direction).sum(), weights, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def relative(first: Tensor, second: Tensor) -> float:
    """Relative distance."""
    return float((first - second).norm() / second.norm())


def plan_of(policy: str, chunk: int, exit_step: str) -> RolloutPlan:
    """A plan by names."""
    return RolloutPlan(ALL_POLICIES[policy], CONTEXT, chunk, *EXITS[exit_step])


@pytest.mark.parametrize(("policy", "chunk", "exit_step"), taking_turns(pairs(ALL_POLICIES, [1, 3]), EXITS))
def test_the_replay_is_the_rollout(policy, chunk, exit_step):
    model, plan, real = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, exit_step), tiny_latents(FRAMES, seed=3)
    rollout = rolled_out(model, plan, real)
    samples, expected = replayed(model, plan, rollout), reference(model, plan, real, detached=True)
    assert torch.equal(rollout.clean[:, :CONTEXT], real[:, :CONTEXT])
    assert rollout.generated[0].tolist() == [0.0] * CONTEXT + [1.0] * (FRAMES - CONTEXT)
    assert torch.allclose(rollout.clean, expected, atol=1e-9)
    assert torch.allclose(samples, rollout.clean, atol=1e-9)
    assert relative(gradients(model, samples), gradients(model, expected)) < 1e-9


@pytest.mark.parametrize(("policy", "chunk"), taking_turns(ALL_POLICIES, [1, 3]))
def test_the_replay_broken_twin_whose_context_is_not_detached(policy, chunk):
    model, plan, real = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, "middle"), tiny_latents(FRAMES, seed=3)
    samples, attached = replayed(model, plan, rolled_out(model, plan, real)), reference(model, plan, real, detached=False)
    assert torch.allclose(samples, attached, atol=1e-9)
    assert relative(gradients(model, samples), gradients(model, attached)) > 0.01


@pytest.mark.parametrize("policy", [*STATEFUL, "sink"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_replay_that_teaches_the_writes_is_autograd_through_them_alone(policy, chunk):
    model, plan, real = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, "middle"), tiny_latents(FRAMES, seed=3)
    rollout = rolled_out(model, plan, real)
    samples, expected = replayed_and_taught(model, plan, rollout), reference(model, plan, real, detached=False, taught=True)
    found, frozen = gradients(model, samples), gradients(model, replayed(model, plan, rollout))
    assert torch.allclose(samples, expected, atol=1e-9)
    assert relative(found, gradients(model, expected)) < 1e-9
    assert (relative(found, frozen) > 1e-4) == (policy in STATEFUL), "frozen writes would show, and without a memory there are none"


@pytest.mark.parametrize("policy", LAST_PASS)
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_replay_broken_twin_that_tells_a_memory_what_commits_made(policy, chunk):
    model, plan = model_for(LAST_PASS[policy]), plan_of(policy, chunk, "middle")
    rollout = rolled_out(model, plan, tiny_latents(FRAMES, seed=3))
    assert not torch.allclose(replayed(model, plan, replace(rollout, context=FRAMES)), rollout.clean, atol=1e-6)


def test_the_replay_broken_twin_under_another_policy():
    model, real = tiny_model(), tiny_latents(FRAMES, seed=3)
    rollout = rolled_out(model, plan_of("sink", 1, "middle"), real)
    assert not torch.allclose(replayed(model, plan_of("window", 1, "middle"), rollout), rollout.clean, atol=1e-6)


@pytest.mark.parametrize(("long", "exact"), [(Window(21), Window(FRAMES)), (Full(21), Full(FRAMES))], ids=["window", "full"])
def test_a_rollout_has_no_slots_that_it_never_fills(long, exact, monkeypatch):
    model, made, stores = tiny_model(), [], []
    plain = VideoTransformer.new_store
    monkeypatch.setattr(VideoTransformer, "new_store", lambda *given: stores.append(plain(*given)) or stores[-1])
    for policy in (long, exact):
        made.append(rolled_out(model, RolloutPlan(policy, CONTEXT, 1, *EXITS["last step"]), tiny_latents(FRAMES)))
    assert torch.equal(made[0].clean, made[1].clean) and made[0].sources == made[1].sources
    assert stores[0].bytes == stores[1].bytes == plain(model, exact, 1, 2, tiny_latents(FRAMES)).bytes


def test_a_rollout_leaves_no_graph_and_repeats():
    model, plan, real = tiny_model(), plan_of("window", 1, "last step"), tiny_latents(FRAMES, seed=3)
    first, again = (rolled_out(model, plan, real) for _ in range(2))
    assert not first.clean.requires_grad and torch.equal(first.clean, again.clean)
    assert first.sigma[0].tolist() == [0.0] * CONTEXT + [LEVELS[-1]] + [5 / 6] * (FRAMES - CONTEXT - 1)


# Windows of a rollout: from the context frame on, from the first own chunk on, and from where all caches have forgotten its beginning.
STARTS = [1, 2, 8]


def samples_since(model: VideoTransformer, plan: RolloutPlan, rollout: Rollout, start: int) -> Tensor:
    """The samples of the frames from `start` on, as the window's replay gives them."""
    parts = clip_layout(model, plan.policy, rollout.lengths, "cpu", rollout.context)
    velocity = replay_since(model, rollout.clean, rollout.noisy, rollout.sigma, tiny_conditions(FRAMES), parts, start)
    return x0_from_velocity(rollout.noisy[:, start:], velocity, rollout.sigma[:, start:])


@pytest.mark.parametrize(("policy", "chunk", "start"), taking_turns(pairs(ALL_POLICIES, [1, 3]), STARTS))
def test_a_windows_replay_is_the_end_of_the_rollout(policy, chunk, start):
    model, plan, real = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, "middle"), tiny_latents(FRAMES, seed=3)
    rollout = rolled_out(model, plan, real)
    samples, expected = samples_since(model, plan, rollout, start), reference(model, plan, real, detached=True)
    assert torch.allclose(samples, rollout.clean[:, start:], atol=1e-9)
    scored = max(start, CONTEXT)
    assert relative(gradients(model, samples, scored), gradients(model, expected, scored)) < 1e-9


@pytest.mark.parametrize("policy", ALL_POLICIES)
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_windows_replay_broken_twin_whose_window_is_all_there_is(policy, chunk):
    """A clip of its own, cut out of the rollout."""
    model, plan, start = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, "middle"), 8
    rollout = rolled_out(model, plan, tiny_latents(FRAMES, seed=3))
    parts = clip_layout(model, plan.policy, (chunk,) * (3 // chunk), "cpu")
    clean, noisy, sigma = (tensor[:, start:] for tensor in (rollout.clean, rollout.noisy, rollout.sigma))
    velocity = replay(model, clean, noisy, sigma, tiny_conditions(FRAMES).frames(start, FRAMES), parts)
    assert not torch.allclose(x0_from_velocity(noisy, velocity, sigma), clean, atol=1e-6)


def forgetful(model: VideoTransformer, plan: RolloutPlan, rollout: Rollout, start: int) -> Tensor:
    """A window's samples when of all that lies further back than a cache of four frames nothing is left: no sinks, and no states."""
    parts, conditions = clip_layout(model, plan.policy, rollout.lengths, "cpu", rollout.context), tiny_conditions(FRAMES)
    context, oldest = encode_context(model, rollout.clean, conditions, parts), start - (4 - plan.chunk_frames)
    chunks = [replace(chunk, sources=tuple(one for one in chunk.sources if one.frame >= oldest)) for chunk in parts.chunks]
    fresh = {layer: {chunk.chunk.start: memory.start(2) for chunk in chunks} for layer, memory in enumerate(model.memories)}
    end, own = replace(parts, chunks=tuple(chunks)).since(start), conditions.frames(start, FRAMES)
    noisy, sigma = rollout.noisy[:, start:], rollout.sigma[:, start:]
    return x0_from_velocity(noisy, denoise_given_context(model, noisy, sigma, own, end, Context(context.layers, fresh)), sigma)


@pytest.mark.parametrize("policy", ALL_POLICIES)
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_windows_replay_broken_twin_that_forgets_the_distant_past(policy, chunk):
    """A window has no distant past to forget, however it counts positions; all others are found out."""
    model, plan = model_for(ALL_POLICIES[policy]), plan_of(policy, chunk, "middle")
    rollout = rolled_out(model, plan, tiny_latents(FRAMES, seed=3))
    assert torch.allclose(forgetful(model, plan, rollout, 8), rollout.clean[:, 8:], atol=1e-6) == (policy in ("window", "rolling"))


@pytest.mark.parametrize("policy", ALL_POLICIES)
def test_the_windows_replay_broken_twin_that_forgets_what_entered_the_sinks_before_it(policy, monkeypatch):
    def since(self: ClipLayout, frame: int) -> ClipLayout:
        return replace(self, chunks=tuple(chunk for chunk in self.chunks if chunk.chunk.start >= frame))

    model, plan = model_for(ALL_POLICIES[policy]), plan_of(policy, 1, "middle")
    rollout = rolled_out(model, plan, tiny_latents(FRAMES, seed=3))
    monkeypatch.setattr(ClipLayout, "since", since)
    assert torch.allclose(samples_since(model, plan, rollout, 8), rollout.clean[:, 8:], atol=1e-9) == (policy != "ema-sink")


def test_a_window_begins_where_a_chunk_begins():
    parts = clip_layout(tiny_model(), ALL_POLICIES["window"], chunk_lengths(FRAMES, 3, CONTEXT), "cpu")
    with pytest.raises(ConfigError, match="no chunk begins at frame 4; the chunks of this clip begin at 0, 1, 2, 5, 8"):
        parts.since(4)
    with pytest.raises(ConfigError, match="begins at its frame 0, not at 5: what came before would be forgotten"):
        encode_context(tiny_model(), tiny_latents(6), tiny_conditions(6), parts.since(5))
    with pytest.raises(ConfigError, match="from the beginning of a clip on, not from its frame 5"):
        denoise_last(tiny_model(), tiny_latents(6), torch.ones(2, 6), tiny_conditions(6), parts.since(5), Context())


@pytest.mark.parametrize(
    ("chunk", "frames", "first", "scored"),
    [
        (1, FRAMES, 0, "00111111111"),
        (3, FRAMES, 0, "00111111111"),
        (1, 10, 1, "0111111111"),
        (3, 10, 1, "0111111111"),
        (1, 7, 4, "1111111"),
        (3, 7, 5, "0111111"),  # a clip is one frame and whole chunks; that frame is the last one of a chunk that the window cuts
        (3, 4, 8, "0111"),
    ],
)
def test_a_window_scores_the_whole_chunks_of_the_student(chunk, frames, first, scored):
    rollout = rolled_out(tiny_model(), plan_of("window", chunk, "middle"), tiny_latents(FRAMES, seed=3))
    conditions = tiny_conditions(FRAMES)
    window = score_window(rollout, conditions, frames)
    assert (window.start, window.first) == (FRAMES - frames, first)
    assert all("".join(str(int(value)) for value in row) == scored for row in window.scored)
    assert torch.equal(window.clean, rollout.clean[:, -frames:])
    assert torch.equal(window.conditions.travel, conditions.travel[:, -frames:])
    assert rollout.generated.sum() == 2 * (FRAMES - CONTEXT), "the rollout's own mask must stay as it was"
