"""What lies in the slots, held against a plain list of what is remembered."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mutoscope.memory.contents import SlotContent, slot_contents
from mutoscope.memory.kinds import GatedDelta
from mutoscope.memory.policy import Full, PolicyConfig, SinkWindow, Stateful, Window
from mutoscope.memory.store import CacheSpec, MemoryStore

policies = st.one_of(
    st.integers(24, 30).map(Full),
    st.integers(3, 6).map(Window),
    st.tuples(st.integers(1, 3), st.integers(3, 5)).map(lambda sizes: SinkWindow(*sizes)),
)
Tell = Callable[[MemoryStore], tuple[SlotContent, ...]]


def visible(policy: PolicyConfig, frames: int, chunk: int) -> list[int]:
    """Frames before the last `chunk` of `frames` that a list which obeys the policy still holds while those are denoised."""
    past = range(frames - chunk)
    if isinstance(policy, Full):
        return list(past)
    sink = policy.sink if isinstance(policy, SinkWindow) else 0
    return [frame for frame in past if frame < sink or frame >= frames - policy.window]


def tells_the_truth(tell: Tell, policy: PolicyConfig, lengths: list[int]) -> bool:
    """Whether slots, kinds, frames, ages and bytes are right while every chunk is open, and slots stay what they were."""
    store = MemoryStore(CacheSpec(2, 2, 4, 3, policy, max_chunk=3), dtype=torch.float16)
    frames, homes = 0, {}
    for length in lengths:
        store.open_chunk(slice(0, 1), length)
        frames += length
        told = tell(store)
        past = visible(policy, frames, length)
        sink = policy.sink if isinstance(policy, SinkWindow) else 0
        wanted = [("sink" if frame < sink else "frame", frame, frames - 1 - frame) for frame in past]
        wanted += [("open", frame, frames - 1 - frame) for frame in range(frames - length, frames)]
        wanted += [("empty", None, None)] * (store.spec.slots - len(wanted))
        if [(content.kind, content.frame, content.age) for content in told] != wanted:
            return False
        if any(homes.get(content.frame, content.slot) != content.slot for content in told if content.frame is not None):
            return False
        if {content.slot for content in told} != set(range(store.spec.slots)) or sum(content.bytes for content in told) != store.bytes:
            return False
        homes = {content.frame: content.slot for content in told if content.frame is not None}
        store.commit(slice(0, 1))
    return True


@settings(deadline=None)
@given(policies, st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_contents_are_what_a_list_would_hold(policy, lengths):
    assert tells_the_truth(slot_contents, policy, lengths)


def by_slot(store: MemoryStore) -> tuple[SlotContent, ...]:
    return tuple(sorted(slot_contents(store), key=lambda content: content.slot))


def without_the_open_chunk(store: MemoryStore) -> tuple[SlotContent, ...]:
    return tuple(replace(content, kind="empty") if content.kind == "open" else content for content in slot_contents(store))


def ages_from_the_past(store: MemoryStore) -> tuple[SlotContent, ...]:
    return tuple(content if content.age is None else replace(content, age=content.age + 1) for content in slot_contents(store))


def without_originals(store: MemoryStore) -> tuple[SlotContent, ...]:
    least = min(content.bytes for content in slot_contents(store))
    return tuple(replace(content, bytes=least) for content in slot_contents(store))


@pytest.mark.parametrize("broken", [by_slot, without_the_open_chunk, ages_from_the_past, without_originals])
def test_contents_broken_twins(broken):
    assert tells_the_truth(slot_contents, SinkWindow(2, 3), [1] * 8)
    assert not tells_the_truth(broken, SinkWindow(2, 3), [1] * 8)


def test_between_chunks_all_that_is_remembered_is_told_with_the_newest_at_age_0():
    store = MemoryStore(CacheSpec(1, 1, 2, 1, Window(4), max_chunk=1))
    assert {content.kind for content in slot_contents(store)} == {"empty"}
    for _ in range(6):
        store.open_chunk(slice(0, 1), 1)
        store.commit(slice(0, 1))
    told = slot_contents(store)
    assert {content.frame: content.slot for content in told} == store.ledgers[0].slot_of
    assert [content.age for content in told] == [3, 2, 1, 0]


def test_a_state_stands_behind_the_slots_with_its_bytes():
    store = MemoryStore(CacheSpec(2, 2, 4, 3, Stateful(Window(3), GatedDelta()), max_chunk=1))
    *slots, state = slot_contents(store)
    assert [content.kind for content in slots] == ["empty"] * 3 and (state.slot, state.kind, state.frame) == (3, "state", None)
    assert state.bytes >= 2 * 2 * (4 * 4 + 4) * 4 and sum(content.bytes for content in (*slots, state)) == store.bytes
