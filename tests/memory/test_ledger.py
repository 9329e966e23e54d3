"""The ledger against a brute-force book: slots are never shared, frames never move, chunks open and commit in order."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.ledger import ChunkPlan, Ledger, chunk_lengths, layout
from mutoscope.memory.policy import Chunk, EmaSink, Full, Policy, RollingWindow, SinkWindow, Source, Window

policies = st.one_of(
    st.just(Full(40)),
    st.integers(3, 9).map(Window),
    st.tuples(st.integers(1, 4), st.integers(3, 8)).map(lambda sizes: SinkWindow(*sizes)),
    st.tuples(st.integers(1, 4), st.integers(3, 8)).map(lambda sizes: EmaSink(*sizes)),
    st.integers(3, 9).map(RollingWindow),
    st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(3, 6)).map(lambda sizes: Anchored(*sizes)),
)
lengths = st.lists(st.integers(1, 3), min_size=1, max_size=12)


def keeps_its_book(ledger: Ledger, chunks: list[int]) -> bool:
    """Replay in a plain dict frame -> slot what every plan claims; slots must be real, apart, and constant for a frame's life."""
    book: dict[int, int] = {}
    start = 0
    for length in chunks:
        plan = ledger.open_chunk(length)
        sources = ledger.policy.past(Chunk(start, length), tuple(book))
        claimed = [(source.frame, source.position, source.slot) for source in plan.sources]
        if claimed != [(source.frame, source.position, book[source.frame]) for source in sources]:
            return False
        if len(set(plan.read_slots)) != len(plan.read_slots) or not set(plan.read_slots) <= set(range(ledger.num_slots)):
            return False
        if plan.chunk != Chunk(start, length) or ledger.open_chunk(length) != plan:
            return False
        book = {source.frame: book[source.frame] for source in sources} | dict(zip(plan.chunk.frames, plan.write_slots, strict=True))
        ledger.commit()
        start += length
    return True


class SharesSlots(Ledger):
    """Writes where the newest source lies."""

    def open_chunk(self, length: int) -> ChunkPlan:
        plan = super().open_chunk(length)
        taken = tuple(source.slot for source in plan.sources)[-length:]
        self.open_plan = replace(plan, write_slots=(*taken, *plan.write_slots)[:length])
        return self.open_plan


class MovesFrames(Ledger):
    """Shuffles the book at every commit."""

    def commit(self) -> None:
        super().commit()
        self.slot_of = dict(zip(self.slot_of, sorted(self.slot_of.values(), reverse=True), strict=True))


class Leaks(Ledger):
    """Opens chunks one frame late."""

    def commit(self) -> None:
        super().commit()
        self.next_frame += 1


@given(policies, lengths)
def test_the_ledger_keeps_its_book(policy, chunks):
    assert keeps_its_book(Ledger(policy, policy.capacity(3)), chunks)


@pytest.mark.parametrize("broken", [SharesSlots, MovesFrames, Leaks])
@pytest.mark.parametrize("policy", [Full(40), Window(6), SinkWindow(2, 4), EmaSink(2, 4), RollingWindow(6)])
def test_the_ledger_broken_twins(broken: Callable[[Policy, int], Ledger], policy):
    assert not keeps_its_book(broken(policy, policy.capacity(3)), [1, 1, 3, 3, 3])


@given(st.integers(1, 4), st.integers(3, 6), lengths)
def test_sinks_stay_in_the_slots_of_their_names(sink, window, chunks):
    ledger = Ledger(SinkWindow(sink, window), sink + window)
    for length in [*chunks, 1]:
        plan = ledger.open_chunk(length)
        past = {source.frame: source.slot for source in plan.sources}
        assert all(past[frame] == frame for frame in range(min(sink, plan.chunk.start)))
        assert all(slot >= sink for frame, slot in past.items() if frame >= sink)
        ledger.commit()


@given(policies, lengths)
def test_the_layout_of_training_is_what_streaming_plans(policy, chunks):
    ledger = Ledger(policy, policy.capacity(3))
    for chunk in layout(policy, tuple(chunks)):
        plan = ledger.open_chunk(chunk.chunk.length)
        shift = plan.chunk.start - plan.position
        moved = [Source(source.frame, source.position + shift, source.bias) for source in plan.sources]
        assert (plan.chunk, moved) == (chunk.chunk, list(chunk.sources))
        assert isinstance(policy, RollingWindow) or shift == 0
        ledger.commit()


def test_slots_that_do_not_suffice_are_an_error():
    ledger = Ledger(Window(4), 3)
    for _ in range(3):
        ledger.open_chunk(1)
        ledger.commit()
    with pytest.raises(CapacityError, match="3 slots cannot hold 3 remembered frames and a chunk of 1"):
        ledger.open_chunk(1)


def test_a_refused_chunk_leaves_the_ledger_as_it_was():
    ledger = Ledger(Full(2), 2)
    ledger.open_chunk(2)
    ledger.commit()
    before = ledger.copy()
    with pytest.raises(CapacityError):
        ledger.open_chunk(1)
    assert ledger == before


def test_chunks_open_and_commit_in_turn():
    ledger = Ledger(Window(4), 4)
    with pytest.raises(ConfigError, match="no open chunk"):
        ledger.commit()
    ledger.open_chunk(2)
    with pytest.raises(ConfigError, match="a chunk of 2 frames is open"):
        ledger.open_chunk(1)
    ledger.drop_open()
    assert ledger.open_chunk(1).chunk == Chunk(0, 1)


def test_a_copy_is_independent():
    ledger = Ledger(Window(4), 4)
    ledger.open_chunk(2)
    copied = ledger.copy()
    ledger.commit()
    assert copied.open_plan is not None and copied.slot_of == {} and copied.next_frame == 0


@given(st.integers(0, 5), st.integers(1, 4), st.integers(0, 5))
def test_clips_are_cut_into_context_and_chunks(first, chunk, count):
    cut = chunk_lengths(first + chunk * count, chunk, first)
    assert cut == (1,) * first + (chunk,) * count


@pytest.mark.parametrize(("frames", "chunk", "first"), [(8, 3, 1), (2, 1, 3)])
def test_clips_that_do_not_divide_are_refused(frames, chunk, first):
    with pytest.raises(ConfigError, match="do not divide"):
        chunk_lengths(frames, chunk, first)


def tells_what_left(ledger: Ledger, chunks: list[int]) -> bool:
    """Whether plans name every frame that the past lost, once, in its slot, oldest first, and sinks that take it in."""
    book: dict[int, int] = {}
    for length in chunks:
        plan = ledger.open_chunk(length)
        kept = {source.frame for source in plan.sources}
        left = [(frame, slot) for frame, slot in sorted(book.items()) if frame not in kept]
        if [(source.frame, source.slot) for source in plan.evicted] != left:
            return False
        sinks = [(frame, slot, frame % ledger.policy.sink) for frame, slot in left] if isinstance(ledger.policy, EmaSink) else []
        if [(item.blend.frame, item.slot, item.blend.heir) for item in plan.blends] != sinks:
            return False
        if any(book[item.blend.heir] != item.heir_slot for item in plan.blends):
            return False
        book = {frame: slot for frame, slot in book.items() if frame in kept} | dict(zip(plan.chunk.frames, plan.write_slots, strict=True))
        ledger.commit()
    return True


class TellsTwice(Ledger):
    """Names what left again after the commit."""

    def commit(self) -> None:
        lost = self.evicted
        super().commit()
        self.evicted = lost


@given(policies, lengths)
def test_plans_say_what_left_and_where_it_went(policy, chunks):
    assert tells_what_left(Ledger(policy, policy.capacity(3)), chunks)


def test_a_broken_twin_that_tells_twice():
    assert not tells_what_left(TellsTwice(Window(3), 3), [1, 1, 1, 1, 1])


def test_a_dropped_chunk_keeps_what_its_opening_evicted():
    """Nobody has taken those frames in yet: the next opening must name them again."""
    ledger = Ledger(EmaSink(1, 3), 4)
    for _ in range(4):
        ledger.open_chunk(1)
        ledger.commit()
    first = ledger.open_chunk(1)
    ledger.drop_open()
    again = ledger.open_chunk(1)
    assert [source.frame for source in first.evicted] == [1] and again.evicted == first.evicted and again.blends == first.blends
