"""The store: exactly the declared bytes, slots that do not touch each other, parking bit for bit."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import STATEFUL
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState
from mutoscope.memory.policy import Full, SinkWindow, Stateful, Window
from mutoscope.memory.store import CacheSpec, MemoryStore

SPEC = CacheSpec(layers=2, heads=2, head_dim=6, tokens=3, policy=SinkWindow(1, 3), max_chunk=2, rows=2)


def write_chunk(store: MemoryStore, seed: int, length: int = 1) -> None:
    """Open, fill with noise in every layer and row, and commit."""
    rows = slice(0, store.spec.rows)
    plan = store.open_chunk(rows, length)
    for layer in range(store.spec.layers):
        shape = (store.spec.rows, store.spec.heads, length * store.spec.tokens, store.spec.head_dim)
        original, keys, values = (normal(shape, stream(seed, "chunk", layer, part)) for part in range(3))
        store.write(layer, rows, plan.write_slots, original, keys, values)
    for row in range(store.spec.rows):
        store.note_positions(row, plan)
    store.commit(rows)


@settings(max_examples=30)
@given(
    st.integers(1, 3), st.integers(1, 3), st.sampled_from([6, 8]), st.integers(1, 5), st.integers(1, 3),
    st.sampled_from([Full(4), Window(3), SinkWindow(2, 3), *STATEFUL.values()]),
    st.sampled_from([torch.float32, torch.float16, torch.float64]),
)  # fmt: skip
def test_bytes_are_what_is_allocated(layers, heads, head_dim, tokens, rows, policy, dtype):
    spec = CacheSpec(layers, heads, head_dim, tokens, policy, max_chunk=3, rows=rows)
    store = MemoryStore(spec, dtype=dtype)
    tensors = [value for value in vars(store).values() if isinstance(value, torch.Tensor)]
    assert spec.bytes(dtype) == store.bytes == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    assert spec.bytes(dtype) == rows * sum(spec.slot_bytes(slot, dtype) for slot in range(spec.slots)) + spec.state_bytes(dtype)


def test_bytes_by_hand():
    assert SPEC.bytes(torch.float16) == 2 * 2 * 2 * 3 * 6 * 2 * (2 * 4 + 1)
    assert [SPEC.slot_bytes(slot, torch.float16) for slot in (0, 1)] == [2 * 2 * 3 * 6 * 2 * 3, 2 * 2 * 3 * 6 * 2 * 2]


def test_values_wait_where_a_state_is_told_by_last_passes_and_only_there():
    """A slot of a memory of evicted frames holds keys, and values too where the cache's are not those that it was told."""
    sizes = dict(layers=2, heads=2, head_dim=6, tokens=3, max_chunk=2, rows=2)
    for state, grows in ((LinearState, 1), (GatedDelta, 1), (partial(FastWeights, "mlp", 1), 0)):
        commit, last = (CacheSpec(**sizes, policy=Stateful(Window(3), state(written_from=source))) for source in ("commit", "last pass"))
        assert last.bytes(torch.float16) - commit.bytes(torch.float16) == grows * 2 * 2 * 2 * 3 * 3 * 6 * 2


def test_a_write_touches_its_own_slots_only():
    store = MemoryStore(SPEC)
    write_chunk(store, 0)
    before = store.keys.clone(), store.values.clone(), store.originals.clone()
    write_chunk(store, 1, length=2)
    first = store.span(0)
    for old, new in zip(before, (store.keys, store.values, store.originals), strict=True):
        assert torch.equal(old[..., first, :], new[..., first, :])
    assert store.keys[..., store.span(1).start : store.span(2).stop, :].abs().amin(dim=(0, 1, 2, 4)).gt(0).all()
    assert not store.keys[..., store.span(3), :].any()


def test_parking_is_bit_exact_and_independent():
    store, other = MemoryStore(SPEC), MemoryStore(SPEC)
    for seed in range(3):
        write_chunk(store, seed)
    parked = store.park()
    expected = store.keys.clone(), store.values.clone(), store.originals.clone(), [ledger.copy() for ledger in store.ledgers]
    write_chunk(store, 3)
    write_chunk(store, 4)
    for target in (store, other):
        target.restore(parked)
        write_chunk(other, 9)
        target.restore(parked)
        assert all(map(torch.equal, expected[:3], (target.keys, target.values, target.originals)))
        assert target.ledgers == expected[3] and target.positions == parked["positions"]


@pytest.mark.parametrize("policy", [SinkWindow(1, 4), Full(4), SinkWindow(2, 2)])
def test_parked_memories_of_another_kind_are_refused(policy):
    other = CacheSpec(SPEC.layers, SPEC.heads, SPEC.head_dim, SPEC.tokens, policy, 2, SPEC.rows)
    with pytest.raises(ConfigError, match="parked memory"):
        MemoryStore(SPEC).restore(MemoryStore(other).park())


def test_parked_memories_with_another_policy_of_the_same_size_are_refused():
    sizes = (SPEC.layers, SPEC.heads, SPEC.head_dim, SPEC.tokens)
    with pytest.raises(ConfigError, match="parked memory"):
        MemoryStore(CacheSpec(*sizes, Window(4), 2)).restore(MemoryStore(CacheSpec(*sizes, Full(4), 2)).park())


def test_clearing_a_row_leaves_the_others():
    store = MemoryStore(SPEC)
    write_chunk(store, 0)
    store.clear(0)
    assert [ledger.next_frame for ledger in store.ledgers] == [0, 1]
    with pytest.raises(ConfigError, match="remember different frames"):
        store.open_chunk(slice(0, 2), 1)


def test_only_sources_that_stand_elsewhere_are_moved():
    store = MemoryStore(SPEC)
    moved = []
    for seed in range(6):
        moved.append(store.moved(0, store.open_chunk(slice(0, 2), 1)))
        write_chunk(store, seed)
    assert moved == [[], [], [], [], [(0, 1)], [(0, 2)]]
