"""Sessions that are told in words what to show: beginnings without a past, and prompts that change in mid-stream."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ALL_POLICIES, CHOOSING, RULES, STATEFUL, tiny_checkpoint, tiny_config, tiny_manifest, tiny_model, tiny_starts
from fakes import POLICIES as MEMORIES
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Window, state_of
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.rollout import session as sessions
from mutoscope.rollout.executor import drive
from mutoscope.rollout.generate import advancing
from mutoscope.rollout.planner import commit_chunk
from mutoscope.rollout.recent import RECOMMITTED_FRAMES
from mutoscope.rollout.session import Session, SessionConfig
from mutoscope.rollout.speed import CommitName, Speed
from mutoscope.rollout.static import StaticStep

TEXT_DIM = 6
PRESS = np.zeros(0, np.float32)
SPOKEN = WorldSpec("spoken", 12, 20, 16.0, NO_ACTIONS)


def prompt(seed: int, tokens: int = 3) -> Tensor:
    """A prompt's embedding, `[1, token, TEXT_DIM]`."""
    return normal((1, tokens, TEXT_DIM), stream(seed, "fake prompt"), torch.float64)


def spoken(policy: PolicyConfig, chunk: int = 1) -> Checkpoint:
    """A tiny student in float64 that is told in words what to show, and takes no keys."""
    config = tiny_config(action_dim=0, travel=False, text_dim=TEXT_DIM, recall=state_of(policy))
    manifest = tiny_manifest(chunk_frames=chunk, world=SPOKEN, model=config, memory=policy, beginning="nothing", conditions=("text",))
    return replace(tiny_checkpoint(chunk_frames=chunk), manifest=manifest, model=freeze(tiny_model(config).float()), starts=None)


def begun(policy: PolicyConfig, chunk: int = 1, says: int = 0, rows: int = 1) -> Session:
    """A session after its beginning from nothing under a prompt."""
    session = Session(spoken(policy, chunk), SessionConfig(2, 4, policy), rows)
    session.say(prompt(says), prompt(9))
    session.reset(None, 7)
    return session


def play(session: Session, chunks: int) -> Tensor:
    """The latents of the next chunks."""
    made = []
    for _ in range(chunks):
        session.step(PRESS)
        assert session.pending is not None
        made.append(session.pending.clone())
    return torch.cat(made, dim=1)


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_world_begins_from_nothing(chunk):
    session = Session(spoken(Full(40), chunk), SessionConfig(2, 4, Full(40)))
    session.say(prompt(0), prompt(9))
    first = session.reset(None, 7)
    assert first.shape == (chunk, 12, 20, 3) and session.num_frames == chunk and session.generated_chunks == 1
    again, other = begun(Full(40), chunk), begun(Full(40), chunk, says=1)
    assert np.array_equal(again.reset(None, 7), first) and not np.array_equal(again.reset(None, 8), first)
    assert not np.array_equal(other.reset(None, 7), first), "the prompt is heard from the first frame on"


def test_what_is_told_in_words_must_be_told():
    session = Session(spoken(Window(4)), SessionConfig(2, 4, Window(4)))
    with pytest.raises(ConfigError, match="say a prompt first"):
        session.reset(None, 7)
    for wrong, words in [
        (torch.zeros(1, 3, 5), r"must be \[1 or 1, token, 6\]"),
        (torch.zeros(2, 3, 6), "must be"),
        (torch.zeros(1, 0, 6), "must be"),
        (torch.full((1, 3, 6), float("nan")), "NaN"),
    ]:
        with pytest.raises(ConfigError, match=words):
            session.say(wrong, prompt(9))
    with pytest.raises(ConfigError, match="takes no prompt"):
        Session(tiny_checkpoint(), SessionConfig(2, 4, Window(4))).say(prompt(0), prompt(9))


def switched(policy: PolicyConfig, how: sessions.PromptSwitch, before: int = 5, chunk: int = 1) -> tuple[Session, Tensor]:
    """A session whose prompt changed after some frames, and all its latents from the second chunk on."""
    session = begun(policy, chunk)
    made = play(session, before)
    session.say(prompt(1), prompt(9), how)
    return session, torch.cat([made, play(session, 3)], dim=1)


FRAME_WISE = {**ALL_POLICIES, **{name: policy for name, policy in CHOOSING.items() if "place" not in name}}
CHUNKS = {**MEMORIES, **RULES, "window+fast-mlp": STATEFUL["window+fast-mlp"], "full": Full(40)}
SCRIPTS = [(name, policy, 1) for name, policy in FRAME_WISE.items()] + [(name, policy, 3) for name, policy in CHUNKS.items()]


@pytest.mark.parametrize(("name", "policy", "chunk"), SCRIPTS)
def test_a_change_of_the_prompt_leaves_what_was_and_changes_what_comes(name, policy, chunk):
    plain = play(begun(policy, chunk), 8)
    session, recommitted = switched(policy, "recommit", chunk=chunk)
    _, kept = switched(policy, "keep", chunk=chunk)
    border = 5 * chunk
    assert torch.equal(recommitted[:, :border], plain[:, :border]) and torch.equal(kept[:, :border], plain[:, :border])
    assert not torch.allclose(recommitted[:, border:], plain[:, border:]) and not torch.allclose(kept[:, border:], plain[:, border:])
    # Three sinks and a window of one chunk: nothing that was committed again is read again.
    deaf = name == "deep-sink" and chunk == 3
    assert torch.allclose(recommitted[:, border:], kept[:, border:]) == deaf, "the memory speaks another prompt"
    assert session.memory_bytes == begun(policy, chunk).memory_bytes


def speaks_only(session: Session, text: Tensor, frames: int) -> bool:
    """Whether the cache is that of a session whose last `frames` frames, and nothing before them, were committed under `text`."""
    fresh = Session(session.checkpoint, session.config)
    fresh.say(text, prompt(9))
    fresh._begin(session.seeds)
    chunks = [chunk for chunk in session.recent.chunks if chunk.start >= session.num_frames - frames]
    for chunk in chunks:
        (rows,) = fresh.groups
        drive(fresh.executor, [commit_chunk(fresh.store, rows, chunk.latents, fresh._told(chunk.conditions))])
    fresh.num_frames, fresh.generated_chunks = sum(chunk.latents.shape[1] for chunk in chunks), 1
    # Only the noise of the next chunk depends on how old the session is.
    shift = session.num_frames - fresh.num_frames
    draw, fresh._noise = fresh._noise, lambda frame, number: draw(frame + shift, number)  # type: ignore[method-assign]
    return torch.allclose(play(fresh, 1), play(session, 1), atol=1e-4)


@pytest.mark.parametrize("policy", [Window(4), Window(9), Full(40)], ids=str)
def test_the_cache_speaks_the_new_prompt(policy):
    session = begun(policy)
    play(session, 10)
    session.say(prompt(1), prompt(9))
    assert speaks_only(session, prompt(1), 11 if isinstance(policy, Full) else policy.window)


@pytest.mark.parametrize("policy", [Window(4), Window(9), Full(40)], ids=str)
def test_the_cache_speaks_the_new_prompt_broken_twin_that_keeps_it(policy):
    session = begun(policy)
    play(session, 10)
    session.say(prompt(1), prompt(9), "keep")
    assert not speaks_only(session, prompt(1), 11 if isinstance(policy, Full) else policy.window)


def test_what_is_older_than_the_recommitted_frames_keeps_speaking_the_old_prompt():
    session = begun(Window(16))
    play(session, 20)
    session.commit()
    before = session.store.keys.clone()
    session.say(prompt(1), prompt(9))
    ledger, changed = session.store.ledgers[0], set()
    for frame, slot in ledger.slot_of.items():
        if not torch.equal(session.store.keys[..., session.store.span(slot), :], before[..., session.store.span(slot), :]):
            changed.add(frame)
    assert changed == set(range(21 - RECOMMITTED_FRAMES, 21)) and set(ledger.slot_of) == set(range(5, 21))


@pytest.mark.parametrize("policy", STATEFUL.values(), ids=STATEFUL.keys())
def test_a_learned_memory_is_not_told_twice(policy):
    session = begun(policy)
    play(session, 9)
    session.commit()
    before = session.store.states.clone()
    waiting, values = session.store.waiting.clone(), session.store.waiting_values.clone()
    session.say(prompt(1), prompt(9))
    assert torch.equal(session.store.states, before)
    state = state_of(policy)
    assert state is not None
    told_anew = state.written_at == "eviction" and state.written_from == "commit"
    assert torch.equal(session.store.waiting, waiting) != told_anew and torch.equal(session.store.waiting_values, values)


@pytest.mark.parametrize("policy", [Window(4), SinkWindow(2, 4), Anchored(1, 1, 4), *STATEFUL.values()], ids=str)
def test_parking_right_after_a_switch_is_bit_exact(policy):
    session = begun(policy)
    play(session, 6)
    session.say(prompt(1), prompt(9))
    parked = session.snapshot()
    expected = play(session, 3)
    fresh = Session(session.checkpoint, session.config)
    fresh.restore(parked)
    assert torch.equal(play(fresh, 3), expected)
    session.restore(parked)
    session.say(prompt(2), prompt(9))
    told_again = play(session, 3)
    fresh.restore(parked)
    fresh.say(prompt(2), prompt(9))
    assert torch.equal(play(fresh, 3), told_again) and not torch.equal(told_again, expected)


@pytest.mark.parametrize("forgotten", ["prompt", "recent"])
def test_parking_broken_twins_that_forget_what_was_said(forgotten):
    session = begun(Window(4))
    play(session, 6)
    session.say(prompt(1), prompt(9))
    parked = session.snapshot()
    session.say(prompt(2), prompt(9))
    expected = play(session, 2)
    session.restore(replace(parked, **{forgotten: begun(Window(4)).prompt if forgotten == "prompt" else ()}))
    if forgotten == "recent":
        session.say(prompt(2), prompt(9))
    assert not torch.equal(play(session, 2), expected)


def test_rows_hear_prompts_of_their_own():
    batch = Session(spoken(Window(4)), SessionConfig(2, 4, Window(4)), rows=2)
    batch.say(torch.cat([prompt(0), prompt(1)]), prompt(9))
    batch.reset(None, 7)
    both = play(batch, 3)
    batch.say(torch.cat([prompt(1), prompt(1)]), prompt(9))
    after = play(batch, 2)
    alone = Session(spoken(Window(4)), SessionConfig(2, 4, Window(4)))
    for row in range(2):
        alone.say(prompt(row), prompt(9))
        alone.reset_from_nothing(batch.seeds[row : row + 1])
        assert torch.allclose(play(alone, 3), both[row : row + 1], atol=1e-5)
        alone.say(prompt(1), prompt(9))
        assert torch.allclose(play(alone, 2), after[row : row + 1], atol=1e-5)


def test_anchors_are_kept_from_the_switch_on():
    session, _ = switched(Anchored(1, 2, 4), "recommit", before=5)
    play(session, 6)
    assert set(session.store.ledgers[0].slot_of) >= {0, 6, 7}, "sink and the first two frames after the switch"
    twin, _ = switched(SinkWindow(3, 4), "recommit", before=5)
    play(twin, 6)
    assert not set(twin.store.ledgers[0].slot_of) >= {0, 6, 7}


def test_an_image_is_the_first_frame():
    session = Session(spoken(Window(4)), SessionConfig(2, 4, Window(4)))
    session.say(prompt(0), prompt(9))
    image = np.full((1, 1, 12, 20, 3), 200, np.uint8)
    session.reset_from(image, np.zeros((1, 1, 0)), np.zeros((1, 1), bool), (3,))
    seen = play(session, 1)
    session.reset_from(255 - image, np.zeros((1, 1, 0)), np.zeros((1, 1), bool), (3,))
    assert session.num_frames == 1 and not torch.allclose(play(session, 1), seen)


def follows_the_plain_runner(how: sessions.PromptSwitch) -> bool:
    """Whether passes whose tensors stay where they are show what the plain ones do, through two changes of the prompt."""
    checkpoint, made = spoken(Window(4)), []
    for runner in ("plain", "static"):
        session = Session(checkpoint, SessionConfig(2, 4, Window(4), speed=Speed(runner=runner)))
        session.say(prompt(0), prompt(9))
        session.reset(None, 7)
        parts = [play(session, 6)]
        for number in (1, 2):
            session.say(prompt(number), prompt(9), how)
            parts.append(play(session, 2))
        made.append(torch.cat(parts, dim=1))
    return torch.allclose(*made, atol=1e-5)


@pytest.mark.parametrize("how", ["recommit", "keep"])
def test_static_passes_hear_the_new_prompt(how):
    assert follows_the_plain_runner(how)


def test_static_passes_broken_twin_that_is_deaf(monkeypatch):
    monkeypatch.setattr(StaticStep, "_hear", lambda self, text: None)
    assert not follows_the_plain_runner("recommit")


def with_clips(policy: PolicyConfig) -> Checkpoint:
    """A world that begins from nothing, beside which clips lie, as they do when it was trained on somebody's own."""
    clips = tiny_starts(count=2, context=3)
    return replace(spoken(policy), starts=replace(clips, actions=clips.actions[:, :, :0], ways=clips.ways[:, :, :0]))


def beginning(checkpoint: Checkpoint, start: int | None) -> np.ndarray:
    """The first pixel frames of a session."""
    session = Session(checkpoint, SessionConfig(2, 4, Window(4)))
    session.say(prompt(0), prompt(9))
    return session.reset(start, 7)


def test_a_world_that_begins_from_nothing_does_so_beside_clips_and_they_are_a_choice():
    checkpoint = with_clips(Window(4))
    assert checkpoint.starts is not None
    assert np.array_equal(beginning(checkpoint, None), beginning(spoken(Window(4)), None))
    for start in range(2):
        assert np.array_equal(beginning(checkpoint, start), checkpoint.starts.frames[start].numpy())
    real = replace(checkpoint, manifest=replace(checkpoint.manifest, beginning="real frames"))
    assert np.array_equal(beginning(real, None), beginning(real, 0)), "elsewhere the first clip is the world's own beginning"


def test_a_start_that_a_world_from_nothing_has_not_is_refused():
    with pytest.raises(ConfigError, match=r"start 0 does not exist: .* has no start clips, and begins from nothing; name no start"):
        beginning(spoken(Window(4)), 0)


def advanced(commits: CommitName, forgetful: bool = False) -> Tensor:
    """Latents of chunks under a prompt and, after a second commit of the past, under another."""
    config = SessionConfig(2, 4, Window(6), speed=Speed(commits=commits))
    session, made = Session(spoken(Window(6)), config), []
    session.say(prompt(0), prompt(9))
    session.reset(None, 7)
    advance = advancing(session)
    for chunk in range(8):
        if chunk == 4:
            session.recent.chunks = () if forgetful else session.recent.chunks
            session.say(prompt(1), prompt(9))
        advance(np.zeros((1, 1, 0), np.float32))
        assert session.pending is not None
        made.append(session.pending.clone())
    return torch.cat(made, dim=1)


def test_fused_commits_are_the_same_before_and_after_a_switch():
    assert torch.allclose(advanced("own"), advanced("fused"), atol=1e-5)


def test_fused_commits_broken_twin_that_does_not_know_what_was_committed():
    assert not torch.allclose(advanced("own")[:, 4:], advanced("fused", forgetful=True)[:, 4:], atol=1e-3)
