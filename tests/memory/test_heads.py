"""Head-wise memories: which heads are where, what each group keeps, exactly the declared bytes, parking of all groups."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.choosing import Different, Grain
from mutoscope.memory.contents import most_frames, shelved_frames, slot_contents
from mutoscope.memory.head_store import HeadSpec, HeadStore, cache_spec
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.ledger import HeadPlan, Ledger, row_sources
from mutoscope.memory.policy import SinkWindow, Window, head_parts, integer_base, training_base
from mutoscope.memory.scoring import NO_SCORER
from mutoscope.memory.store import MemoryStore
from mutoscope.models.scorers import Difference

POLICY = HeadWise(1, sink=1, window=3, frames=5, recent=1, heads=((1,), (0,)), grain="frames")
SPEC = HeadSpec(layers=2, heads=3, head_dim=2, tokens=3, policy=POLICY, max_chunk=1)
ROW = slice(0, 1)


def made(spec: HeadSpec = SPEC, dtype: torch.dtype = torch.float32) -> HeadStore:
    """A store whose dynamic heads really compare what they noted."""
    policies = [part.policy for part in spec.parts]
    return HeadStore(spec, [Difference(policy.recent) if isinstance(policy, Different) else NO_SCORER for policy in policies], dtype=dtype)


def fill(store: HeadStore, angle: float, seed: int = 0) -> HeadPlan:
    """Commit a frame whose mean keys point at `angle` degrees in all layers and heads; what is opened for it."""
    plan = store.choose_chunk(0, 1, torch.zeros(1))
    for part, own in zip(store.parts, plan.parts, strict=True):
        spec, slots = part.spec, own.write_slots
        for layer in range(spec.layers):
            original, keys, values = normal((3, 1, spec.heads, spec.tokens, spec.head_dim), stream(seed, "frame", own.chunk.start, layer))
            part.write(layer, ROW, slots, original, keys, values)
            if spec.note_bytes:
                mean = torch.tensor([angle]).double().deg2rad()
                pointing = torch.stack([mean.cos(), mean.sin()], dim=-1).expand(1, 1, 1, spec.heads, 2)
                part.note_layer(layer, ROW, slots, pointing)
        part.note_positions(0, own)
    store.commit(ROW)
    return plan


def test_static_heads_are_the_first_ones_or_those_that_are_named():
    assert HeadWise(1).groups(2, 3) == (((0,), (0,)), ((1, 2), (1, 2)))
    assert POLICY.groups(2, 3) == (((1,), (0,)), ((0, 2), (1, 2)))
    assert head_parts(POLICY, 2, 3) == ((SinkWindow(1, 3), ((1,), (0,))), (Different(5, 1), ((0, 2), (1, 2))))
    assert [part for part, _ in head_parts(HeadWise(0), 2, 3)] == [Different(21, 4, "tokens")], "a group without heads is none"
    assert [part for part, _ in head_parts(HeadWise(3), 2, 3)] == [SinkWindow(1, 6)]
    assert training_base(POLICY) == integer_base(POLICY) == Window(5)
    assert POLICY.capacity(1) == 5 and HeadWise(1, 2, 7, 8, 2).capacity(3) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadWise(-1), "cannot have -1 static heads"),
        (lambda: HeadWise(1, sink=0), "sink of at least 1"),
        (lambda: HeadWise(1, window=0), "window of at least 1"),
        (lambda: HeadWise(1, recent=0), "recent of at least 1"),
        (lambda: HeadWise(1, grain="sand"), "unknown grain of a memory that chooses 'sand'; known: frames, tokens"),
        (lambda: HeadWise(1, frames=5, recent=4), "'head-wise' of 5 frames cannot keep 4 recent ones and another"),
        (lambda: HeadWise(2, heads=((1, 0),)), r"in order for every layer, got \(1, 0\)"),
        (lambda: HeadWise(2, heads=((0, 1), (1, 1))), r"got \(1, 1\)"),
        (lambda: HeadWise(1, heads=((0,), ())), r"got \(\)"),
        (lambda: HeadWise(1, heads=((-1,),)), r"got \(-1,\)"),
        (lambda: HeadWise(1, window=2).capacity(3), "'head-wise' of 2 frames cannot hold a chunk of 3"),
        (lambda: HeadWise(1, frames=7).capacity(3), "'head-wise' of 7 frames, 4 of them recent, cannot hold a chunk of 3"),
        (lambda: HeadWise(3).groups(2, 2), "has 3 static heads, and the model 2 layers of 2 heads: name heads that it has"),
        (lambda: POLICY.groups(3, 2), "has 1 static heads in 2 layers, and the model 3 layers of 2 heads"),
        (lambda: HeadWise(1, heads=((2,),)).groups(1, 2), "name heads that it has"),
        (lambda: made(replace(SPEC, layers=3)), "name heads that it has"),
    ],
)
def test_head_wise_memories_that_cannot_be_are_refused(make: Callable[[], object], message):
    with pytest.raises(ConfigError, match=message):
        make()


# Something new is seen at 3, 6 and 8; the rest repeat the first frame.
ANGLES = [0.0, 0.0, 0.0, 90.0, 0.0, 0.0, 180.0, 0.0, 270.0, 0.0, 0.0]


def kept(angles: list[float]) -> list[list[list[int]]]:
    """What static heads read for each frame, and what dynamic ones do."""
    store = made()
    plans = [fill(store, angle).parts for angle in angles]
    return [[[source.frame for source in parts[group].sources] for parts in plans] for group in (0, 1)]


def test_what_each_group_keeps_by_hand():
    """Static: the first frame and two more. Dynamic: the newest and three older ones, as different as they come.

    Before frame 5 the newest is 4, at 0 degrees: 3 comes first, and of the equal rest the oldest two stay. Before 7 the newest is 6, at
    180: 0 lies opposite, then comes 3, and of 1 and 5, which are the same, the older stays. Before 10 the newest is 9, at 0 again: what
    lies at 180, 90 and 270 stays, and even the first frame goes.
    """
    static, dynamic = kept(ANGLES)
    assert static == [[], [0], [0, 1], [0, 1, 2], *([0, frame - 2, frame - 1] for frame in range(4, 11))]
    assert dynamic[:5] == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert dynamic[5:] == [[0, 1, 3, 4], [0, 1, 3, 5], [0, 1, 3, 6], [0, 3, 6, 7], [0, 3, 6, 8], [3, 6, 8, 9]]


def test_positions_have_no_gaps_and_groups_have_slots_of_their_own():
    store = made()
    plans = [fill(store, angle) for angle in ANGLES]
    for plan in plans:
        for part in plan.parts:
            assert [source.position for source in part.sources] == list(range(plan.chunk.start - len(part.sources), plan.chunk.start))
    assert [part.keys.shape[3] // 3 for part in store.parts] == [4, 5] and [part.keys.shape[2] for part in store.parts] == [1, 2]
    recorded = row_sources(plans)
    assert recorded.groups == SPEC.groups and [len(part) for part in recorded.parts] == [len(ANGLES)] * 2
    assert [source.frame for source in recorded.parts[0][-1].sources] != [source.frame for source in recorded.parts[1][-1].sources]


@settings(max_examples=25)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(get_args(Grain)),
)
def test_bytes_are_what_is_allocated(layers, heads, static, tokens, rows, half, grain):
    dtype = torch.float16 if half else torch.float32
    spec = cache_spec(layers, heads, 6, tokens, HeadWise(min(static, heads), 1, 3, 6, 1, grain=grain), 3, rows)
    store = made(spec, dtype)
    tensors = [value for part in store.parts for value in vars(part).values() if isinstance(value, torch.Tensor)]
    assert spec.bytes(dtype) == store.bytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert sum(content.bytes for row in range(rows) for content in slot_contents(store, row)) == store.bytes
    assert (spec.host_bytes(dtype), spec.shelves(dtype), spec.state_bytes(dtype), spec.state_floats, store.host_bytes) == (0,) * 5


def test_bytes_by_hand_and_what_static_heads_save():
    """A static head has a sink of three tensors and a window of two; a dynamic one three tensors of all frames, and notes in float64."""
    frame, note = 2 * 3 * 2 * 2, 2 * 2 * 8
    assert SPEC.bytes(torch.float16) == frame * (3 + 3 * 2) + 2 * (5 * 3 * frame + 5 * note)
    assert SPEC.bytes() < cache_spec(2, 3, 2, 3, Different(5, 1), 1).bytes(), "a cache of all heads takes more"
    assert SPEC.slots == 5 and SPEC.criterion == "difference"


def test_the_strip_numbers_all_slots_through():
    store = made()
    for angle in ANGLES:
        fill(store, angle)
    told = slot_contents(store)
    assert sorted(content.slot for content in told) == list(range(9)) and most_frames(store) == 9 and shelved_frames(store) == set()
    assert [content.kind for content in told[:4]] == ["sink", "frame", "frame", "frame"]
    assert {content.kind for content in told[4:]} == {"chosen", "frame"} and told[4].age > 5
    assert [content.frame for content in told[:4]] == [0, 8, 9, 10] and {content.bytes for content in told[:1]} != {told[1].bytes}


def state_of(store: HeadStore) -> list[torch.Tensor]:
    """Every tensor of every group."""
    return [tensor.clone() for part in store.parts for tensor in part.tensors]


def test_parking_is_bit_exact_and_independent():
    store, other = made(), made()
    for angle in ANGLES[:7]:
        fill(store, angle)
    parked, expected = store.park(), state_of(store)
    after = [fill(store, angle, seed=1).parts for angle in ANGLES[7:]]
    fill(other, 45.0)
    for target in (store, other):
        target.restore(parked)
        assert all(map(torch.equal, state_of(target), expected))
        assert [fill(target, angle, seed=1).parts for angle in ANGLES[7:]] == after
    store.clear(0)
    assert not any(part.ledgers[0].slot_of for part in store.parts) and not any(part.positions[0] for part in store.parts)


def test_parked_memories_of_another_kind_are_refused_and_change_nothing():
    store = made()
    fill(store, 0.0)
    expected, plain = state_of(store), MemoryStore(cache_spec(2, 3, 2, 3, Window(5), 1))
    others = [replace(POLICY, heads=()), replace(POLICY, recent=2)]
    for parked in [plain.park(), *(made(replace(SPEC, policy=policy)).park() for policy in others), made(replace(SPEC, tokens=2)).park()]:
        with pytest.raises(ConfigError, match="the parked memory"):
            store.restore(parked)
        assert all(map(torch.equal, state_of(store), expected))
    with pytest.raises(ConfigError, match="the parked memory is head-wise"):
        plain.restore(store.park())


def test_the_choice_needs_its_scorer():
    store = made()
    for angle in ANGLES[:5]:
        fill(store, angle)
    with pytest.raises(ConfigError, match="open its chunks where its scorer is asked"):
        store.open_chunk(ROW, 1)
    assert isinstance(store.parts[1].ledgers[0], Ledger) and store.choose_chunk(0, 1, torch.zeros(1)).chunk.start == 5
