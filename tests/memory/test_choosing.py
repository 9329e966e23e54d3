"""Policies that choose by content, against plain lists: whatever the ranks, what is kept, where it stands, in which slot or shelf."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import CHOOSING
from mutoscope.core.errors import ConfigError
from mutoscope.memory.choosing import Different, Grain, Merging, Participative, Retrieval
from mutoscope.memory.frames import Sift
from mutoscope.memory.ledger import ChunkPlan, Ledger, SlotSource, Transfer
from mutoscope.memory.policy import ChoosingConfig, SinkWindow, Window, archive_bytes, integer_base, sinks_of, training_base
from mutoscope.memory.scoring import best_first, difference, nearness, participation, similarity, token_sums
from mutoscope.memory.store import CacheSpec, MemoryStore

participatives = st.builds(
    lambda sink, recent, chosen, room, grain: Participative(sink + recent + chosen, recent, sink, room, grain),
    st.integers(0, 3), st.integers(1, 3), st.integers(0, 3), st.integers(3, 5), st.sampled_from(get_args(Grain)),
)  # fmt: skip
mergings = st.builds(lambda recent, more: Merging(recent + more, recent), st.integers(0, 3), st.integers(4, 7))
differents = st.builds(lambda recent, more: Different(recent + more, recent), st.integers(0, 3), st.integers(4, 7))
differents |= st.builds(lambda recent, more: Different(recent + more, recent, "tokens"), st.integers(1, 3), st.integers(4, 7))
retrievals = st.builds(Retrieval, st.integers(1, 4), st.integers(3, 6))
lengths = st.lists(st.integers(1, 3), min_size=1, max_size=14)
tastes = st.permutations(range(42))


def best_of(frames: list[int], count: int, taste: list[int]) -> list[int]:
    """The `count` frames that come first in `taste`, in order of time."""
    return sorted(sorted(frames, key=taste.index)[:count])


def keep_of(policy: ChoosingConfig, frames: list[int], count: int, taste: list[int]) -> list[int]:
    """The same, or where single tokens are chosen the first `count`, whose slots take them, whatever the taste."""
    return frames[:count] if policy.criterion.startswith("tokens'") else best_of(frames, count, taste)


def listed(policy: ChoosingConfig, remembered: list[int], length: int, taste: list[int]) -> list[int]:
    """What a chunk of `length` reads of a list of frames."""
    if isinstance(policy, Retrieval):
        border = max(0, len(remembered) - (policy.window - length))
        return best_of(remembered[:border], policy.recalled, taste) + remembered[border:]
    if isinstance(policy, Merging):
        spare = max(0, len(remembered) + length - policy.frames)
        gone = best_of(remembered[1 : len(remembered) - policy.recent], spare, taste)
        return [frame for frame in remembered if frame not in gone]
    if isinstance(policy, Different):
        spare, newest = max(0, len(remembered) + length - policy.frames), remembered[len(remembered) - policy.recent :]
        older = remembered[: len(remembered) - policy.recent]
        return keep_of(policy, older, len(older) - spare, taste) + newest if spare else remembered
    if len(remembered) + length <= policy.budget + policy.room:
        return remembered
    sinks, newest = remembered[: policy.sink], remembered[-policy.recent :]
    between = [frame for frame in remembered if frame not in (*sinks, *newest)]
    return sinks + keep_of(policy, between, policy.budget - policy.sink - policy.recent, taste) + newest


@dataclass
class Cupboard:
    """What really lies in slots and on shelves, moved about as plans say: all that comes back is taken before anything is put away."""

    slots: dict[int, int]
    shelves: dict[int, int]

    def follow(self, plan: ChunkPlan) -> bool:
        """Carry out a plan; whether everything lay where it says."""
        taken = {item.slot: self.shelves.get(item.shelf) for item in plan.recalled}
        honest = all(taken[item.slot] == item.frame for item in plan.recalled)
        honest &= all(self.slots.get(item.slot) == item.frame for item in plan.stored)
        self.shelves |= {item.shelf: self.slots[item.slot] for item in plan.stored if item.slot in self.slots}
        self.slots |= taken
        honest &= all(self.slots.get(source.slot) == source.frame for source in plan.sources)
        self.slots |= dict(zip(plan.write_slots, plan.chunk.frames, strict=True))
        return honest and len(set(plan.read_slots)) == len(plan.read_slots)


def follows_the_list(ledger: Ledger, rule: ChoosingConfig, chunks: list[int], taste: list[int]) -> bool:
    """Play chunks through a ledger and through two lists: frames in slots, and the newest frames that ever left them."""
    held: list[int] = []
    away: list[int] = []
    cupboard, start = Cupboard({}, {}), 0
    for length in chunks:
        wanted = listed(rule, sorted({*held, *away}), length, taste)
        ranks, heirs, picks = tuple(sorted(ledger.candidates(length), key=taste.index)), ledger.heirs(length), torch.zeros(1)
        plan = ledger.open_chunk(length, ranks, picks if heirs else None)
        if plan.sifts != ((Sift(tuple(sorted(ranks)), heirs, picks),) if heirs else ()):
            return False
        positions = range(start - len(wanted), start)
        if [(source.frame, source.position) for source in plan.sources] != list(zip(wanted, positions, strict=True)):
            return False
        away = sorted({*away, *(frame for frame in held if frame not in wanted)})[-ledger.num_shelves :] if ledger.num_shelves else []
        held = [*wanted, *plan.chunk.frames]
        if not cupboard.follow(plan) or ledger.candidates(length) or ledger.open_chunk(length) is not plan:
            return False
        ledger.commit()
        if ledger.mosaics - {*wanted} or {*heirs} - ledger.mosaics:
            return False
        if sorted(ledger.slot_of) != sorted(held) or sorted(ledger.shelf_of) != away:
            return False
        start += length
    return True


@given(participatives | retrievals | mergings | differents, st.integers(1, 9), lengths, tastes)
def test_what_is_chosen_is_what_a_list_would_keep(policy, shelves, chunks, taste):
    shelves = shelves if isinstance(policy, Retrieval) else 0
    assert follows_the_list(Ledger(policy, policy.capacity(3), num_shelves=shelves), policy, chunks, taste)


class StoresTwice(Ledger):
    """Twin: a frame that was brought back goes to a second shelf when it is given back."""

    def _shelve(self, lost: tuple[SlotSource, ...]) -> tuple[Transfer, ...]:
        known = {source.frame: self.shelf_of.pop(source.frame) for source in lost if source.frame in self.shelf_of}
        spare = sorted(set(range(self.num_shelves)) - set(self.shelf_of.values()) - set(known.values()))
        again = tuple(Transfer(source.frame, source.slot, shelf) for source, shelf in zip(lost, spare, strict=False))
        self.shelf_of |= known
        return again + super()._shelve(lost)


class ForgetsTheNewest(Ledger):
    """Twin: a full archive takes in nothing more."""

    def _shelve(self, lost: tuple[SlotSource, ...]) -> tuple[Transfer, ...]:
        return super()._shelve(lost) if len(self.shelf_of) < self.num_shelves else ()


class LeavesGaps(Retrieval):
    def past(self, chunk, remembered, ranks):
        return tuple(replace(source, position=source.frame) for source in super().past(chunk, remembered, ranks))


class TakesTheWorst(Participative):
    def past(self, chunk, remembered, ranks):
        return super().past(chunk, remembered, ranks[::-1])


class KeepsTheAlike(Different):
    def past(self, chunk, remembered, ranks):
        return super().past(chunk, remembered, ranks[::-1])


class GivesUpSinks(Participative):
    def past(self, chunk, remembered, ranks):
        return super().past(chunk, tuple(frame for frame in remembered if frame or chunk.start < 9), ranks)


class LastHeirs(Participative):
    def heirs(self, chunk, remembered):
        return self.candidates(chunk, remembered)[-(self.budget - self.sink - self.recent) :]


ODD_TASTE = [*range(0, 42, 2), *range(1, 42, 2)]


@pytest.mark.parametrize(
    ("ledger", "rule"),
    [
        (ForgetsTheNewest(Retrieval(2, 4), 6, num_shelves=3), Retrieval(2, 4)),
        (Ledger(LeavesGaps(2, 4), 6, num_shelves=3), Retrieval(2, 4)),
        (Ledger(Retrieval(1, 4), 6, num_shelves=3), Retrieval(2, 4)),
        (Ledger(Merging(7, 2), 7), Merging(7, 3)),
        (Ledger(KeepsTheAlike(7, 2), 7), Different(7, 2)),
        (Ledger(Different(7, 2), 7), Different(7, 3)),
        (Ledger(TakesTheWorst(6, 1, 1, 3, "frames"), 9), Participative(6, 1, 1, 3, "frames")),
        (Ledger(GivesUpSinks(6, 1, 1, 3, "frames"), 9), Participative(6, 1, 1, 3, "frames")),
        (Ledger(Participative(6, 2, 1, 3, "frames"), 9), Participative(6, 1, 1, 3, "frames")),
        (Ledger(LastHeirs(6, 1, 1, 3), 9), Participative(6, 1, 1, 3)),
        (Ledger(Participative(6, 1, 1, 3, "frames"), 9), Participative(6, 1, 1, 3)),
    ],
    ids=[
        "full archive takes nothing",
        "not placed anew",
        "one too few",
        "merges recent ones",
        "the most alike",
        "one recent frame less",
        "the worst",
        "sink given up",
        "one more recent",
        "newest heirs",
        "whole frames",
    ],
)
def test_what_is_chosen_broken_twins(ledger, rule):
    assert not follows_the_list(ledger, rule, [1] * 20, ODD_TASTE)


def test_frames_merge_into_those_before_them_by_hand():
    """A chunk of two comes to five full slots: 2 and 1 go, and what was in 2 is in 0 by way of 1. For the next, 4 goes."""
    ledger = Ledger(Merging(5, 0), 5)
    for _ in range(5):
        ledger.open_chunk(1)
        ledger.commit()
    plan = ledger.open_chunk(2, (2, 1, 3, 4))
    assert [(item.blend.frame, item.blend.heir, item.blend.keep) for item in plan.blends] == [(2, 1, 1 / 2), (1, 0, 1 / 3)]
    assert [(source.frame, source.position, round(math.exp(source.bias), 9)) for source in plan.sources] == [
        (0, 2, 3),
        (3, 3, 1),
        (4, 4, 1),
    ]
    ledger.commit()
    plan = ledger.open_chunk(1, (4, 3, 5, 6))
    assert [(item.blend.frame, item.blend.heir, item.blend.keep) for item in plan.blends] == [(4, 3, 1 / 2)]
    assert ledger.counts == {0: 3, 3: 2} and ledger.copy() == ledger


def moves(ledger: Ledger, chunks: int) -> list[int]:
    """Frames in the order in which they were stored, under a taste that asks for old frames again and again."""
    stored = []
    for number in range(chunks):
        taste = sorted(range(42), key=lambda frame: (frame + number) % 5)
        plan = ledger.open_chunk(1, tuple(sorted(ledger.candidates(1), key=taste.index)))
        stored += [item.frame for item in plan.stored]
        ledger.commit()
    return stored


def test_a_frame_that_is_given_back_is_not_stored_twice():
    stored = moves(Ledger(Retrieval(2, 4), 6, num_shelves=30), 24)
    assert len(stored) == len(set(stored)) > 10
    again = moves(StoresTwice(Retrieval(2, 4), 6, num_shelves=30), 24)
    assert len(again) > len(set(again))


def test_the_published_sizes_by_hand():
    """Deep Forcing: 21 slots are compressed to 16: 10 sinks, 4 recent ones, and two for the best tokens of the rest; or the best frames."""
    assert opened(Participative()) == ([*range(12), 17, 18, 19, 20], [((10, 11, 12, 13, 14, 15, 16), (10, 11))])
    assert opened(Participative(grain="frames")) == ([*range(10), 12, 15, 17, 18, 19, 20], [])
    assert Participative.of_frames(21) == Participative() and sinks_of(Participative()) == 10
    assert training_base(Participative()) == SinkWindow(10, 11) and training_base(Participative(4, 4, 0, 3)) == Window(7)
    assert integer_base(Retrieval(2, 5)) == Window(5) and integer_base(Window(3)) == Window(3)


def opened(policy: Participative) -> tuple[list[int], list]:
    """What frame 21 reads of the published sizes, and what is sifted for it."""
    ledger = Ledger(policy, policy.capacity(1))
    for _ in range(21):
        assert ledger.candidates(1) == ()
        ledger.open_chunk(1)
        ledger.commit()
    assert ledger.num_slots == 21 and ledger.candidates(1) == tuple(range(10, 17))
    plan = ledger.open_chunk(1, (12, 15, 10, 11, 13, 14, 16), torch.zeros(1) if ledger.heirs(1) else None)
    assert [source.position for source in plan.sources] == list(range(5, 21))
    return [source.frame for source in plan.sources], [(item.frames, item.heirs) for item in plan.sifts]


def test_ranks_of_other_frames_are_refused():
    ledger = Ledger(Retrieval(1, 2), 3, num_shelves=4)
    for _ in range(3):
        ledger.open_chunk(1)
        ledger.commit()
    with pytest.raises(ConfigError, match="open its chunks where its scorer is asked"):
        ledger.open_chunk(1)
    assert ledger.candidates(1) == (0, 1) and ledger.open_plan is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Participative(8), "of 8 frames cannot keep 10 sinks and 4 recent ones"),
        (lambda: Participative(4, 0, 1), "recent of at least 1"),
        (lambda: Participative(4, 2, -1), "cannot keep -1 sinks"),
        (lambda: Participative(room=2).capacity(3), "room for 2 cannot hold a chunk of 3"),
        (lambda: Merging(4, 3), "of 4 frames cannot keep 3 recent ones and another"),
        (lambda: Merging(5, 2).capacity(3), "of 5 frames, 2 of them recent, cannot hold a chunk of 3"),
        (lambda: Different(4, 3), "'different' of 4 frames cannot keep 3 recent ones and another"),
        (lambda: Different(5, 2).capacity(3), "of 5 frames, 2 of them recent, cannot hold a chunk of 3"),
        (lambda: Retrieval(0), "recalled of at least 1"),
        (lambda: Retrieval(2, 2).capacity(3), "of 2 frames cannot hold a chunk of 3"),
        (lambda: Retrieval(2, 2, "smell"), "unknown way to choose what is brought back 'smell'; known: place, similarity"),
        (lambda: Retrieval(host_mib=0), "host_mib above 0"),
    ],
)
def test_choosing_memories_that_cannot_be_are_refused(make: Callable[[], object], message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_scores_by_hand():
    keys = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]], [[-3.0, 0.0]]]).double()[:, None]
    queries = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]]]).double()[:, None]
    assert participation(keys, queries).tolist() == [2.0, 2.0, -6.0]
    assert similarity(keys, keys[:1]).tolist() == [1.0, 0.0, -1.0]
    assert nearness(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.zeros(1, 2)).tolist() == [0.0, -5.0]
    assert token_sums(torch.arange(8.0).view(1, 1, 8, 1), 2).flatten().tolist() == [6.0, 22.0]
    assert best_first((3, 5, 9), {3: 1.0, 5: 2.0, 9: 1.0}) == (5, 9, 3), "the newer of equal ones first"


def test_the_most_different_by_hand():
    """Keys of one layer and head at angles of 0, 10, 90, 10, 180 and 175 degrees; the last is recent.

    The farthest from 175 is 0 (and 10 is next, but for what comes after); then 90 is 85 away from the nearest; then 10 is 10 away from 0,
    and as far as that is the other 10, which is then alike it entirely; 180 is 5 away from 175.
    """
    angles = torch.tensor([0.0, 10.0, 90.0, 10.0, 180.0, 175.0]).double().deg2rad()
    keys = torch.stack([angles.cos(), angles.sin()], dim=-1)[:, None, None]
    assert difference(keys, recent=1).tolist() == [-1, -3, -2, -5, -4, 0]
    assert difference(3.0 * keys, recent=1).tolist() == [-1, -3, -2, -5, -4, 0], "directions count, not lengths"
    assert difference(keys[:2], recent=0).tolist() == [-1, -2] and difference(keys[:2], recent=2).tolist() == [0, 0]


class LikeTheWay:
    """Likes notes that are like where the chunk leads."""

    def asking(self, recent, travelled):
        return travelled[None]

    def scores(self, notes, positions, asking, asking_positions):
        return nearness(notes, asking)


def holds_its_frames(store: MemoryStore, chunks: int) -> bool:
    """Whether every source's keys, values and note are those with which its frame was written, however often it came and went."""
    row, spec = slice(0, 1), store.spec
    for number in range(chunks):
        plan = store.choose_chunk(0, 1, torch.tensor([number * 3 % 5, 0.0]))
        for source in plan.sources:
            held = (store.originals[:, 0, :, store.span(source.slot)], store.values[:, 0, :, store.span(source.slot)])
            if not all((tensor == source.frame).all() for tensor in held) or store.notes[0, source.slot, 0] != source.frame * 7 % 5:
                return False
        frame = torch.full((1, spec.heads, spec.tokens, spec.head_dim), float(number))
        for layer in range(spec.layers):
            store.write(layer, row, plan.write_slots, frame, frame, frame)
        store.note(row, plan.write_slots, torch.full((1, 1, 2), float(number * 7 % 5)) * torch.tensor([1.0, 0.0]))
        store.note_positions(0, plan)
        store.commit(row)
    return True


def chosen_store(shelves: int, kind: type[MemoryStore] = MemoryStore) -> MemoryStore:
    """A small store that brings frames back by what LikeTheWay likes."""
    spec = CacheSpec(2, 2, 6, 3, Retrieval(2, 3, "place", host_mib=(shelves * 592 + 1) / 2**20), max_chunk=1)
    return kind(spec, scorer=LikeTheWay())


class PutsAwayFirst(MemoryStore):
    """Twin: reads shelves after they were written."""

    def _exchange(self, row, plan):
        super()._exchange(row, replace(plan, recalled=()))
        super()._exchange(row, replace(plan, stored=()))


@pytest.mark.parametrize("shelves", [1, 2, 3, 20])
def test_frames_come_back_as_they_went(shelves):
    assert chosen_store(shelves).archive.keys.shape[1] == shelves and holds_its_frames(chosen_store(shelves), 30)


def test_a_broken_twin_that_puts_away_before_it_takes():
    assert not all(holds_its_frames(chosen_store(shelves, PutsAwayFirst), 30) for shelves in (1, 2, 3))


ONE_LEDGER = [policy for policy in CHOOSING.values() if isinstance(policy, ChoosingConfig)]


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from(ONE_LEDGER), st.booleans())
def test_bytes_on_device_and_host_are_what_is_allocated(layers, tokens, rows, policy, half):
    dtype = torch.float16 if half else torch.float32
    spec = CacheSpec(layers, 2, 6, tokens, policy, max_chunk=3, rows=rows)
    store = MemoryStore(spec, dtype=dtype)
    tensors = [value for value in vars(store).values() if isinstance(value, torch.Tensor)]
    assert spec.bytes(dtype) == store.bytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert spec.bytes(dtype) == rows * sum(spec.slot_bytes(slot, dtype) for slot in range(spec.slots)) + spec.state_bytes(dtype)
    assert spec.host_bytes(dtype) == store.archive.bytes <= rows * archive_bytes(policy)
    assert spec.host_bytes(dtype) > rows * archive_bytes(policy) - rows * spec.shelf_bytes(dtype)


def test_an_archive_too_small_for_a_frame_is_refused_before_anything_is_allocated(monkeypatch):
    spec = CacheSpec(30, 12, 128, 1560, Retrieval(8, 13), 3)
    monkeypatch.setattr(torch, "zeros", None)
    with pytest.raises(ConfigError, match=r"takes 287,907,840 bytes on the host, and the archive may take 268,435,456 .* host_mib=275"):
        MemoryStore(spec, dtype=torch.bfloat16)
