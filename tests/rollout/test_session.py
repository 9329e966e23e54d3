"""Sessions: batched equals alone, parking is bit-exact, players do not disturb each other, and nothing looks ahead."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ACTIONS, ALL_POLICIES, LAST_PASS, POLICIES, WORLD, model_for, tiny_checkpoint, tiny_manifest
from grids import pairs, taking_turns
from mutoscope.core.errors import CapacityError, CheckpointError, ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Window
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.rollout import executor
from mutoscope.rollout.session import Session, SessionConfig, default_config, step_together, with_steps

WINDOW = SessionConfig(2, 4, POLICIES["window"])


def keys(count: int, seed: int = 0) -> np.ndarray:
    """Random held buttons, float32 `[count, dim]`."""
    return numpy_stream(seed, "keys").integers(0, 2, (count, ACTIONS.dim)).astype(np.float32)


def started(checkpoint: Checkpoint, config: SessionConfig = WINDOW, start: int = 0, seed: int = 5) -> Session:
    """A session after its reset."""
    session = Session(checkpoint, config)
    session.reset(start, seed)
    return session


def play(session: Session, actions: np.ndarray) -> np.ndarray:
    """The pictures under some actions."""
    return np.array([session.step(action) for action in actions])


def latest(session: Session) -> Tensor:
    """The newest latents, which tell more than rounded pixels."""
    assert session.pending is not None
    return session.pending


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("stage", ["autoregressive", "ode", "consistency", "matching"])
def test_every_stage_that_can_stream_plays(stage, chunk):
    session = started(tiny_checkpoint(stage, chunk))
    frames = play(session, keys(4))
    assert frames.shape == (4, chunk, WORLD.height, WORLD.width, 3) and frames.dtype == np.uint8
    assert session.num_frames == 2 + 4 * chunk and len({frame.tobytes() for frame in frames.reshape(-1, *frames.shape[2:])}) == 4 * chunk


CONFIGS = [SessionConfig(1, 4, Window(5)), SessionConfig(2, 4, SinkWindow(1, 4)), SessionConfig(4, 4, Full(40))]


def differences_in_company(
    checkpoint: Checkpoint, configs: list[SessionConfig], together: Callable[[list[Session], list[np.ndarray]], object]
) -> list[float]:
    """Largest difference of latents between three sessions (ages 0, 3 and 7; 1, 2 and 4 steps) alone and together, per session."""
    chunk, actions = checkpoint.manifest.chunk_frames, [keys(12, seed) for seed in range(3)]
    alone, company = ([started(checkpoint, config, seed=seed) for seed, config in enumerate(configs)] for _ in range(2))
    ages = (0, 3, 7)
    for sessions in (alone, company):
        for session, age, held in zip(sessions, ages, actions, strict=True):
            play(session, held[:age])
    worst = [0.0] * 3
    for turn in range(5):
        now = [held[age + turn] for held, age in zip(actions, ages, strict=True)]
        together(company, [np.broadcast_to(action, (1, chunk, len(action))) for action in now])
        for index, (single, other, action) in enumerate(zip(alone, company, now, strict=True)):
            single.step(action)
            worst[index] = max(worst[index], float((latest(single) - latest(other)).abs().max()))
    return worst


@pytest.mark.parametrize("chunk", [1, 3])
def test_three_sessions_of_any_age_and_step_count_play_together_as_alone(chunk):
    assert max(differences_in_company(tiny_checkpoint("matching", chunk), CONFIGS, step_together)) < 1e-4


@pytest.mark.parametrize("policy", LAST_PASS)
def test_memories_told_by_last_passes_play_together_as_alone(policy):
    """Of passes that share a forward one may be a chunk's last, and another not."""
    configs = [replace(config, policy=LAST_PASS[policy]) for config in CONFIGS]
    assert max(differences_in_company(remembering(LAST_PASS[policy]), configs, step_together)) < 1e-4


def test_together_broken_twin_with_swapped_players():
    assert (
        min(
            differences_in_company(tiny_checkpoint(), CONFIGS, lambda sessions, actions: step_together(sessions, actions[1:] + actions[:1]))
        )
        > 1e-3
    )


def test_sessions_of_different_checkpoints_cannot_share_a_forward():
    first, second = started(tiny_checkpoint()), started(tiny_checkpoint())
    with pytest.raises(ConfigError, match="same loaded checkpoint"):
        step_together([first, second], [np.zeros((1, 1, 3), np.float32)] * 2)
    with pytest.raises(ConfigError, match="same row of a store"):
        step_together([first, first], [np.zeros((1, 1, 3), np.float32)] * 2)


def remembering(policy: PolicyConfig, chunk: int = 1) -> Checkpoint:
    """A tiny checkpoint with the learned memory that a policy wants."""
    return replace(tiny_checkpoint("matching", chunk), model=freeze(model_for(policy).float()))


@pytest.mark.parametrize(
    ("policy", "chunk", "committed"), taking_turns(pairs([Full(60), *list(ALL_POLICIES.values())[1:]], [1, 3]), [False, True]), ids=str
)
def test_parking_and_resuming_is_bit_exact(policy, chunk, committed):
    checkpoint, actions, config = remembering(policy, chunk), keys(12), SessionConfig(2, 4, policy)
    session = started(checkpoint, config)
    play(session, actions[:5])
    if committed:
        session.commit()
    parked = session.snapshot()
    expected, end = play(session, actions[5:]), latest(session).clone()
    fresh = Session(checkpoint, config)
    for resumed in (session, fresh, session):
        resumed.restore(parked)
        assert np.array_equal(play(resumed, actions[5:]), expected) and torch.equal(latest(resumed), end)


@pytest.mark.parametrize("forgotten", ["pending", "generated_chunks", "seeds", "memory", "travel"])
def test_parking_broken_twins_that_forget_something(forgotten):
    checkpoint, actions, other = tiny_checkpoint(), keys(8), started(tiny_checkpoint(), seed=6)
    session = started(checkpoint)
    play(session, actions[: 0 if forgotten == "generated_chunks" else 4])
    play(other, actions[2:6])
    wrong = {
        "pending": None,
        "generated_chunks": 3,
        "seeds": (9,),
        "memory": other.snapshot().memory,
        "travel": torch.zeros_like(session.travel),
    }[forgotten]
    parked = session.snapshot()
    session.step(actions[4])
    expected = latest(session).clone()
    session.restore(replace(parked, **{forgotten: wrong}))
    session.step(actions[4])
    assert not torch.equal(latest(session), expected)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_session_reckons_where_it_stands(chunk):
    checkpoint, actions = tiny_checkpoint("matching", chunk), keys(6)
    session = started(checkpoint)
    assert checkpoint.starts is not None
    before = (checkpoint.starts.actions[0] * checkpoint.starts.known[0][:, None]).sum(dim=0).numpy()
    assert np.allclose(session.travel[0].numpy(), before)
    play(session, actions)
    assert np.allclose(session.travel[0].numpy(), before + chunk * actions.sum(axis=0))
    session.reset(0, 5)
    assert np.allclose(session.travel[0].numpy(), before)


def test_sessions_do_not_disturb_each_other():
    checkpoint, actions = tiny_checkpoint(), keys(8)
    alone = play(started(checkpoint), actions)
    first, second = started(checkpoint), started(checkpoint, start=1, seed=8)
    seen, other = [], []
    for index, action in enumerate(actions):
        seen.append(first.step(action))
        other.append(second.step(actions[-index - 1]))
        if index == 4:
            second.reset(0, 3)
    assert np.array_equal(np.stack(seen), alone) and not np.array_equal(np.stack(other), alone)


def test_commit_may_be_repeated_or_left_to_the_next_step():
    checkpoint, actions = tiny_checkpoint(), keys(6)
    lazy, eager = started(checkpoint), started(checkpoint)
    expected = play(lazy, actions)
    for action, frame in zip(actions, expected, strict=True):
        assert np.array_equal(eager.step(action), frame)
        eager.commit()
        before = eager.store.keys.clone()
        eager.commit()
        assert torch.equal(eager.store.keys, before)


def test_a_reset_forgets_everything_but_what_it_is_given():
    session, actions = started(tiny_checkpoint()), keys(6)
    expected = play(session, actions)
    session.reset(1, 9)
    assert not np.array_equal(play(session, actions), expected)
    session.reset(0, 5)
    assert np.array_equal(play(session, actions), expected)


class EarlyKeys(Session):
    """Twin: the frame shows the key that comes next."""

    upcoming: np.ndarray

    def step(self, action: np.ndarray) -> np.ndarray:
        following = self.upcoming[(self.num_frames - 2) // self.chunk_frames + 1 :][:1]
        return super().step(following[0] if len(following) else action)


class OtherNoise(Session):
    """Draws other noise from frame 8 on."""

    def _noise(self, frame: int, draw: int) -> Tensor:
        return super()._noise(frame, draw + 100 * (frame >= 8))


def first_change(kind: type[Session], policy: str, chunk: int, change: int) -> int:
    """Index of the first chunk that differs when the actions from chunk `change` on are others; 8 when none does."""
    frames = []
    for future in (0, 1):
        actions = np.concatenate([keys(8)[:change], (keys(8) + future)[change:] % 2])
        session = kind(tiny_checkpoint("matching", chunk), SessionConfig(2, 4, {**POLICIES, "full": Full(40)}[policy]))
        session.upcoming = actions  # type: ignore[attr-defined]
        session.reset(0, 5)
        frames.append(play(session, actions))
    return next((index for index in range(8) if not np.array_equal(frames[0][index], frames[1][index])), 8)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_future_keys_change_nothing_before_them_and_something_at_once(policy, chunk):
    assert [first_change(Session, policy, chunk, change) for change in (0, 3, 7)] == [0, 3, 7]


def test_future_keys_broken_twin_that_shows_them_early():
    assert first_change(EarlyKeys, "window", 1, 3) < 3


@pytest.mark.parametrize("policy", POLICIES)
def test_future_noise_changes_nothing_before_it(policy):
    frames = []
    for kind in (Session, OtherNoise):
        session = kind(tiny_checkpoint(), SessionConfig(2, 4, POLICIES[policy]))
        session.reset(0, 5)
        frames.append(play(session, keys(10)))
    same = [np.array_equal(first, second) for first, second in zip(*frames, strict=True)]
    assert same == [True] * 6 + [False] * 4


def test_rows_have_their_own_seeds_and_actions():
    checkpoint = tiny_checkpoint()
    both, alone = Session(checkpoint, WINDOW, rows=2), Session(checkpoint, WINDOW)
    starts = checkpoint.starts
    frames, actions, known = (value[:1].numpy() for value in (starts.frames, starts.actions, starts.known))
    both.reset_from(frames.repeat(2, 0), actions.repeat(2, 0), known.repeat(2, 0), (7, 8))
    alone.reset_from(frames, actions, known, (8,))
    first, second = keys(5, 1), keys(5, 2)
    for one, two in zip(first, second, strict=True):
        both.step_rows(np.stack([one, two])[:, None])
        alone.step(two)
        assert torch.allclose(latest(both)[1], latest(alone)[0], atol=1e-4) and not torch.allclose(
            latest(both)[0], latest(alone)[0], atol=1e-2
        )


def test_guidance_of_teachers_costs_a_pass_and_changes_the_picture():
    checkpoint = tiny_checkpoint("autoregressive")
    plain, same, guided = (started(checkpoint, replace(WINDOW, guidance=weight)) for weight in (1.0, 1.0 + 1e-7, 3.0))
    for session in (plain, same, guided):
        session.step(np.ones(3, np.float32))
    assert torch.allclose(latest(plain), latest(same), atol=1e-4) and not torch.allclose(latest(plain), latest(guided), atol=1e-2)


def test_memory_is_what_was_declared_for_ever():
    session = started(tiny_checkpoint())
    declared = session.checkpoint.model.config.cache(WINDOW.policy, 1).bytes()
    sizes = set()
    for action in keys(30):
        session.step(action)
        sizes.add(session.memory_bytes)
    assert sizes == {declared}


def slow(act: Callable, seconds: float) -> Callable:
    """The same act, that many seconds later."""

    def wait(*arguments: object) -> object:
        time.sleep(seconds)
        return act(*arguments)

    return wait


def counts_memory_alone(kind: type[Session], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether `memory_seconds` grows by what a commit and the move of a sink take, and not by what denoising takes."""
    session = kind(tiny_checkpoint(), SessionConfig(1, 1, SinkWindow(1, 2)))
    session.reset(0, 5)
    play(session, keys(3))
    session.commit()
    seconds = [session.memory_seconds]
    with monkeypatch.context() as patch:
        patch.setattr(session, "_noise", slow(session._noise, 0.3))
        patch.setattr(executor, "rotations", slow(executor.rotations, 0.02))
        session.step(keys(1)[0])
    seconds.append(session.memory_seconds)
    with monkeypatch.context() as patch:
        patch.setattr(session, "_commit", slow(session._commit, 0.04))
        session.commit()
    seconds.append(session.memory_seconds)
    moving, committing = np.diff(seconds)
    return 0.02 <= moving < 0.3 and committing >= 0.04


class CountsDenoising(Session):
    def step(self, action):
        began = time.perf_counter()
        frames = super().step(action)
        self.commit_seconds += time.perf_counter() - began
        return frames


class CountsNoMoves(Session):
    @property
    def memory_seconds(self):
        return self.commit_seconds


def test_memory_seconds_count_commits_and_moves_and_no_denoising(monkeypatch):
    assert counts_memory_alone(Session, monkeypatch)
    assert not counts_memory_alone(CountsDenoising, monkeypatch)
    assert not counts_memory_alone(CountsNoMoves, monkeypatch)


def test_full_says_when_it_is_full_and_the_others_play_past_the_training_length():
    checkpoint = tiny_checkpoint()
    session = started(checkpoint, SessionConfig(2, 4, Full(5)))
    play(session, keys(3))
    with pytest.raises(CapacityError, match="holds 5 frames and frame 5 does not fit; use 'window' or 'sink'"):
        session.step(keys(1)[0])
    session.reset(0, 5)
    play(session, keys(3))
    for policy in (Window(5), SinkWindow(1, 4)):
        assert np.isfinite(play(started(checkpoint, SessionConfig(2, 4, policy)), keys(30))).all()


@pytest.mark.parametrize(
    "action",
    [np.zeros(4, np.float32), np.zeros(0, np.float32), np.array([np.nan, 0, 0], np.float32)],
    ids=["too many", "none", "NaN"],
)
def test_wrong_actions_are_refused_and_the_session_plays_on(action):
    checkpoint = tiny_checkpoint()
    session, untouched = started(checkpoint), started(checkpoint)
    for each in (session, untouched):
        play(each, keys(2))
    with pytest.raises(ConfigError, match="must be finite"):
        session.step(action)
    assert np.array_equal(session.step(keys(3)[2]), untouched.step(keys(3)[2]))


def test_what_cannot_be_is_refused_in_words():
    checkpoint = tiny_checkpoint()
    with pytest.raises(ConfigError, match="reset the session"):
        Session(checkpoint, WINDOW).step(keys(1)[0])
    with pytest.raises(ConfigError, match=r"start 2 does not exist; there are starts 0..1"):
        Session(checkpoint, WINDOW).reset(2, 0)
    with pytest.raises(CheckpointError, match="has no start clips"):
        Session(replace(checkpoint, starts=None), WINDOW).reset(0, 0)
    with pytest.raises(CheckpointError, match="'bidirectional' checkpoint cannot be played"):
        Session(tiny_checkpoint("bidirectional"), WINDOW)
    with pytest.raises(ConfigError, match="2 frames cannot hold a chunk of 3"):
        Session(tiny_checkpoint(chunk_frames=3), SessionConfig(2, 4, Window(2)))
    with pytest.raises(ConfigError, match="at least 1"):
        SessionConfig(0, 4, Window(2))


def test_a_parked_session_of_another_policy_or_size_is_refused():
    checkpoint = tiny_checkpoint()
    parked = started(checkpoint).snapshot()
    for policy in (Full(4), Window(5)):
        with pytest.raises(ConfigError, match="parked memory"):
            Session(checkpoint, replace(WINDOW, policy=policy)).restore(parked)


def test_configs_from_manifests():
    assert default_config(tiny_manifest()) == WINDOW
    assert with_steps(WINDOW, 1) == SessionConfig(1, 4, WINDOW.policy) and with_steps(WINDOW, 8) == SessionConfig(8, 8, WINDOW.policy)
    with pytest.raises(CheckpointError, match="has no memory policy"):
        default_config(tiny_manifest("codec", memory=None))
