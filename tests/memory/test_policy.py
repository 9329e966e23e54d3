"""Policies against a list: what is remembered, where it stands, and what is refused."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Criterion, Different, Grain, Merging, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import STATES
from mutoscope.memory.ledger import Ledger, sources_of
from mutoscope.memory.policy import (
    POLICIES,
    AnyMemory,
    ChoosingConfig,
    Chunk,
    DeepSink,
    EmaSink,
    Full,
    Policy,
    RecencyBias,
    RollingWindow,
    SinkWindow,
    Source,
    Stateful,
    Window,
    blends_of,
    chunk_position,
    head_parts,
    policy_by_name,
    policy_name,
    state_of,
)

policies = st.one_of(
    st.integers(1, 30).map(Full),
    st.integers(3, 9).map(Window),
    st.tuples(st.integers(1, 4), st.integers(3, 8)).map(lambda sizes: SinkWindow(*sizes)),
    st.integers(6, 12).map(DeepSink),
    st.tuples(st.integers(1, 4), st.integers(3, 8)).map(lambda sizes: EmaSink(*sizes)),
    st.integers(3, 9).map(RollingWindow),
    st.tuples(st.integers(3, 9), st.sampled_from([1.0, 12.0]), st.sampled_from([0.5, 1.0])).map(lambda sizes: RecencyBias(*sizes)),
)
lengths = st.lists(st.integers(1, 3), min_size=1, max_size=12)


def still_visible(policy: Policy, frame: int, chunk: Chunk) -> bool:
    """The rule in one line per policy, written without reference to what is remembered."""
    last = chunk.start + chunk.length
    if isinstance(policy, Full):
        return True
    if isinstance(policy, DeepSink):
        sink = max(1, round(policy.frames * 10 / 21))
        return frame < sink or frame >= last - (policy.frames - sink)
    if isinstance(policy, RollingWindow):
        return frame >= last - policy.frames
    if isinstance(policy, (Window, RecencyBias)):
        return frame >= last - policy.window
    return frame < policy.sink or frame >= last - policy.window


def wanted_sources(rule: Policy, visible: list[int], chunk: Chunk) -> tuple[Source, ...]:
    """Places are counted back from the chunk's start, or from 0 where the cache is numbered; old frames are biased by that rule."""
    first = 0 if isinstance(rule, RollingWindow) else chunk.start - len(visible)
    x = [max(0, chunk.start - frame - 3) / 12 for frame in visible]
    biases = [-rule.strength * value**rule.power for value in x] if isinstance(rule, RecencyBias) else [0.0] * len(visible)
    return tuple(Source(frame, first + place, bias) for place, (frame, bias) in enumerate(zip(visible, biases, strict=True)))


def follows_the_rule(policy: Policy, rule: Policy, chunks: Sequence[int]) -> bool:
    """Play `chunks` through `policy` and through a plain list that obeys `rule`."""
    remembered: list[int] = []
    start = 0
    for length in chunks:
        chunk = Chunk(start, length)
        visible = [frame for frame in remembered if still_visible(rule, frame, chunk)]
        if policy.past(chunk, tuple(remembered)) != wanted_sources(rule, visible, chunk):
            return False
        remembered = [*visible, *chunk.frames]
        start += length
    return True


def first_chunks_that_fit(policy: Policy, chunks: list[int]) -> list[int]:
    """All of them, except for 'full': those before its capacity is passed."""
    if not isinstance(policy, Full):
        return chunks
    return [length for index, length in enumerate(chunks) if sum(chunks[: index + 1]) <= policy.frames]


class ForgetsSinks(SinkWindow):
    def past(self, chunk, remembered):
        return tuple(source for source in super().past(chunk, remembered) if source.frame >= self.sink or chunk.start < 6)


class NeverMovesSinks(SinkWindow):
    def past(self, chunk, remembered):
        return tuple(Source(source.frame, source.frame) for source in super().past(chunk, remembered))


class IgnoresTheChunk(Window):
    def past(self, chunk, remembered):
        return tuple(Source(frame, frame) for frame in remembered[-self.window :])


@given(policies, lengths)
def test_policies_remember_what_a_list_would(policy, chunks):
    assert follows_the_rule(policy, policy, first_chunks_that_fit(policy, chunks))


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Window(4), Window(5)),
        (IgnoresTheChunk(4), Window(4)),
        (ForgetsSinks(2, 3), SinkWindow(2, 3)),
        (NeverMovesSinks(2, 3), SinkWindow(2, 3)),
        (SinkWindow(1, 3), SinkWindow(2, 3)),
        (Window(8), Full(16)),
        (SinkWindow(2, 5), DeepSink(7)),
        (Window(6), RollingWindow(6)),
        (RecencyBias(9, strength=11.0), RecencyBias(9)),
        (Window(9), RecencyBias(9)),
    ],
    ids=[
        "short",
        "chunk not counted",
        "sink evicted",
        "sink not moved",
        "one sink too few",
        "full that drops",
        "shallow sink",
        "not numbered anew",
        "biased too little",
        "not biased",
    ],  # fmt: skip
)
def test_policies_broken_twins(broken, rule):
    assert not follows_the_rule(broken, rule, [1, 3, 3, 3, 3])


@given(st.integers(1, 20), lengths)
def test_full_refuses_the_first_frame_that_does_not_fit(capacity, chunks):
    policy, held = Full(capacity), 0
    for length in chunks:
        if held + length > capacity:
            with pytest.raises(CapacityError, match=f"holds {capacity} frames and frame {held + length - 1} does not fit"):
                policy.past(Chunk(held, length), tuple(range(held)))
            return
        policy.past(Chunk(held, length), tuple(range(held)))
        held += length


def test_a_sink_stands_right_before_the_window():
    sources = SinkWindow(2, 3).past(Chunk(20, 1), (0, 1, 17, 18, 19))
    assert sources == (Source(0, 16), Source(1, 17), Source(18, 18), Source(19, 19))


def test_published_rules_by_hand():
    assert DeepSink().parts == SinkWindow(10, 11)  # Deep Forcing: 10 of 21
    assert EmaSink() == EmaSink(3, 6, 0.999) and EmaSink().capacity(3) == 9  # Reward Forcing: 9 in all
    blends = blends_of(EmaSink(), (7, 8))
    assert [(blend.heir, round(blend.keep**3, 12)) for blend in blends] == [(1, 0.999), (2, 0.999)]
    assert RollingWindow().past(Chunk(50, 1), tuple(range(44, 50))) == tuple(Source(45 + place, place) for place in range(5))
    biased = RecencyBias().past(Chunk(30, 1), tuple(range(10, 30)))
    assert {source.frame: source.bias for source in biased if source.frame in (10, 15, 27, 29)} == {10: -17.0, 15: -12.0, 27: 0.0, 29: 0.0}
    assert blends_of(SinkWindow(3, 6), (7, 8)) == ()


def chosen(policy: ChoosingConfig, criterion: Criterion) -> tuple:
    """The plans of twelve frames where odd frames are the better ones, and what says so."""
    ledger, plans = Ledger(policy, policy.capacity(1), num_shelves=12 if isinstance(policy, Retrieval) else 0), []
    for _ in range(12):
        ranks = tuple(sorted(ledger.candidates(1), key=lambda frame: (-(frame % 2), frame)))
        plans.append(sources_of(ledger.open_chunk(1, ranks, np.zeros(1) if ledger.heirs(1) else None)))
        ledger.commit()
    return (*plans, criterion)


def trace(policy: AnyMemory) -> tuple:
    """All that a policy decides in a script of twelve frames: sources, positions, biases, what becomes of evicted frames, states."""
    if isinstance(policy, HeadWise):
        return tuple((trace(part), heads) for part, heads in head_parts(policy, 2, 2))
    if isinstance(policy, ChoosingConfig):
        return chosen(policy, policy.criterion)
    state, ledger, plans = state_of(policy), Ledger(policy, policy.capacity(1)), []
    for frame in range(12):
        if frame == 4:
            ledger.mark_switch()
        plans.append(sources_of(ledger.open_chunk(1)))
        ledger.commit()
    return (
        *plans,
        *(chunk_position(policy, Chunk(start, 1), policy.past(Chunk(start, 1), ())) for start in range(12)),
        state,
    )


def test_no_two_policies_differ_in_name_only():
    caches = [kind.of_frames(6) if kind is not Full else Full(12) for kind in POLICIES.values()]
    caches += [replace(kind.of_frames(6), grain=grain) for kind in (Participative, Different) for grain in get_args(Grain)]
    caches = list(dict.fromkeys(caches))
    caches += [
        Retrieval(2, 4, "place"),
        HeadWise(0, frames=6, grain="frames"),
        HeadWise(1, frames=6, heads=((1,), (0,))),
        HeadWise(2),
        HeadWise(0, frames=6),
    ]
    traces = [trace(policy) for policy in (*caches, *(Stateful(Window(6), state) for state in STATES.values()))]
    assert all(first != second for index, first in enumerate(traces) for second in traces[:index])
    assert trace(Retrieval(2, 4))[:-1] == trace(Retrieval(2, 4, "place"))[:-1], "two ways to judge; with one judgement they are the same"
    assert trace(SinkWindow(1, 5)) == trace(SinkWindow.of_frames(6)), "the same rule twice would show"
    assert trace(Anchored(1, 1, 4)) != trace(SinkWindow(1, 4)), "a change of the prompt tells them apart"


@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_that_is_no_share_is_refused(decay):
    with pytest.raises(ConfigError, match="decay must be in 0 .. 1"):
        EmaSink(decay=decay)


def test_capacity_is_what_the_policy_declares():
    assert (Full(7).capacity(3), Window(5).capacity(3), SinkWindow(2, 5).capacity(3)) == (7, 5, 7)


def has_the_frames(kind: type, frames: int) -> bool:
    """Whether a policy of that kind "of so many frames" has just so many slots."""
    return kind.of_frames(frames).capacity(1) == frames


class SinkBesideTheWindow(SinkWindow):
    @classmethod
    def of_frames(cls, frames):
        return cls(1, frames)


@given(st.integers(2, 40))
def test_a_policy_of_so_many_frames_has_so_many(frames):
    assert all(has_the_frames(kind, frames) for kind in POLICIES.values())
    assert not has_the_frames(SinkBesideTheWindow, frames)


@pytest.mark.parametrize("policy", [Window(2), SinkWindow(5, 2)])
def test_a_chunk_longer_than_the_window_is_refused(policy):
    with pytest.raises(ConfigError, match="2 frames cannot hold a chunk of 3"):
        policy.capacity(3)


@pytest.mark.parametrize("make", [lambda: Full(0), lambda: Window(-1), lambda: SinkWindow(0, 3), lambda: SinkWindow(3, 0)])
def test_empty_memories_are_refused(make):
    with pytest.raises(ConfigError, match="at least 1"):
        make()


def test_policies_by_name():
    for policy in (
        Full(4),
        Window(4),
        SinkWindow(1, 4),
        DeepSink(8),
        EmaSink(1, 4),
        RollingWindow(5),
        RecencyBias(4),
        Participative(),
        Retrieval(2),
        Merging(6),
        Different(6),
        HeadWise(1),
        HeadWise(2, heads=((0, 2), (1, 3))),
    ):
        assert policy_by_name(policy_name(policy), **vars(policy)) == policy
    known = "anchored, deep-sink, different, ema-sink, full, head-wise, merging, participative, recency, retrieval, rolling, sink, window"
    with pytest.raises(ConfigError, match=f"known: {known}"):
        policy_by_name("forever")
    with pytest.raises(ConfigError, match="takes sink, window"):
        policy_by_name("sink", length=4)


def runs_without_torch(module: str) -> bool:
    """Whether `module` can be imported in an interpreter in which importing torch fails."""
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    return subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.DEVNULL).returncode == 0


def test_policies_and_ledgers_import_no_torch():
    assert runs_without_torch("mutoscope.memory.policy, mutoscope.memory.ledger, mutoscope.memory.contents")
    assert not runs_without_torch("mutoscope.memory.store")
