"""The tensors of a memory: keys and values in slots, allocated once, written in place, read as views.

Layout `[layer, row, head, slot * tokens, head_dim]`. A row is one player. Keys lie rotated at the position at
which they were written; only slots whose position can change (sinks) keep their unrotated original beside,
and are always rotated from that original, never in place.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.ledger import ChunkPlan, Ledger
from mutoscope.memory.policy import PolicyConfig, SinkWindow


@dataclass(frozen=True)
class CacheSpec:
    """Everything that the size of a cache depends on."""

    layers: int
    heads: int
    head_dim: int
    tokens: int
    policy: PolicyConfig
    max_chunk: int
    rows: int = 1

    @property
    def slots(self) -> int:
        """Frames that fit into one row."""
        return self.policy.capacity(self.max_chunk)

    @property
    def moving_slots(self) -> int:
        """Leading slots whose frames may change position and so keep their unrotated keys."""
        return self.policy.sink if isinstance(self.policy, SinkWindow) else 0

    def slot_bytes(self, slot: int, dtype: torch.dtype = torch.float32) -> int:
        """What one slot of one row takes of `bytes`: keys and values, and the originals of a slot whose frame may move."""
        tensors = 2 + (slot < self.moving_slots)
        return self.layers * self.heads * self.tokens * self.head_dim * dtype.itemsize * tensors

    def bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Exactly what a MemoryStore of this spec allocates for keys, values and originals."""
        per_slot = self.layers * self.rows * self.heads * self.tokens * self.head_dim * dtype.itemsize
        return per_slot * (2 * self.slots + self.moving_slots)


class MemoryStore:
    """Keys and values of `spec.rows` players, each with a ledger of its own."""

    def __init__(self, spec: CacheSpec, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        length = spec.slots * spec.tokens
        shape = (spec.layers, spec.rows, spec.heads, length, spec.head_dim)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.originals = torch.zeros((*shape[:3], spec.moving_slots * spec.tokens, spec.head_dim), device=device, dtype=dtype)
        self.ledgers = [Ledger(spec.policy, spec.slots) for _ in range(spec.rows)]
        self.positions: list[dict[int, int]] = [{} for _ in range(spec.rows)]
        # A measurement and no state: parking leaves it alone.
        self.moving_seconds = 0.0

    @property
    def bytes(self) -> int:
        """Bytes held by the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.keys, self.values, self.originals))

    def clear(self, row: int) -> None:
        """Forget everything in a row. Its slots are not wiped: no plan reads a slot that was not written."""
        self.ledgers[row] = Ledger(self.spec.policy, self.spec.slots)
        self.positions[row] = {}

    def span(self, slot: int) -> slice:
        """The token range of a slot."""
        return slice(slot * self.spec.tokens, (slot + 1) * self.spec.tokens)

    def write(self, layer: int, rows: slice, slots: tuple[int, ...], original: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write a chunk's `[row, head, frames * tokens, head_dim]` keys (unrotated and rotated) and values into its slots."""
        for place, slot in enumerate(slots):
            source, target = self.span(place), self.span(slot)
            self.keys[layer, rows, :, target] = keys[:, :, source]
            self.values[layer, rows, :, target] = values[:, :, source]
            if slot < self.spec.moving_slots:
                self.originals[layer, rows, :, target] = original[:, :, source]

    def moved(self, row: int, plan: ChunkPlan) -> list[tuple[int, int]]:
        """(slot, new position) of the sources that do not stand where their keys were last rotated to."""
        known = self.positions[row]
        return [(source.slot, source.position) for source in plan.sources if known[source.slot] != source.position]

    def note_positions(self, row: int, plan: ChunkPlan) -> None:
        """Remember at which position each slot that this plan reads or writes now stands."""
        known = self.positions[row]
        known.update({source.slot: source.position for source in plan.sources})
        known.update(dict(zip(plan.write_slots, plan.chunk.frames, strict=True)))

    def park(self) -> dict[str, object]:
        """A copy of all state, tensors included, that `restore` brings back bit for bit."""
        return {
            "tensors": [tensor.clone() for tensor in (self.keys, self.values, self.originals)],
            "ledgers": [ledger.copy() for ledger in self.ledgers],
            "positions": [dict(known) for known in self.positions],
        }

    def restore(self, parked: dict) -> None:
        """Bring a parked state back; the state itself stays usable. Another size or policy is a ConfigError."""
        targets = (self.keys, self.values, self.originals)
        if [tuple(tensor.shape) for tensor in parked["tensors"]] != [tuple(tensor.shape) for tensor in targets]:
            raise ConfigError("the parked memory is of another size than this one; use the same model, policy and chunk")
        if any(ledger.policy != self.spec.policy for ledger in parked["ledgers"]):
            raise ConfigError(f"the parked memory has another policy than this one ({self.spec.policy}); use the same policy")
        for target, tensor in zip(targets, parked["tensors"], strict=True):
            target.copy_(tensor)
        self.ledgers = [ledger.copy() for ledger in parked["ledgers"]]
        self.positions = [dict(known) for known in parked["positions"]]

    def open_chunk(self, rows: slice, length: int) -> ChunkPlan:
        """Open the next chunk of rows whose ledgers agree; rows that differ in age need separate calls."""
        plans = [ledger.open_chunk(length) for ledger in self.ledgers[rows]]
        if any(plan != plans[0] for plan in plans):
            raise ConfigError("these rows remember different frames; open their chunks one by one")
        return plans[0]

    def commit(self, rows: slice) -> None:
        """The open chunk of these rows becomes part of the past. Their keys and values must have been written at sigma 0."""
        for ledger in self.ledgers[rows]:
            ledger.commit()
