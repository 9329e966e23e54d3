"""The tensors of a memory: keys and values in slots, allocated once, written in place, read as views.

Layout `[layer, row, head, slot * tokens, head_dim]`. A row is one player. Keys lie rotated at the position at
which they were written; only slots whose position can change (sinks) keep their unrotated original beside,
and are always rotated from that original, never in place. A learned memory has one float32 state per layer, row and
head; where frames enter it as they are evicted, their keys lie beside as the layer made them, with the turn of their place, and if it is
told by last denoising passes, their values too: those in the cache are the commit's.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.ledger import ChunkPlan, Ledger, SlotBlend, SlotSource
from mutoscope.memory.policy import PolicyConfig, moving_slots, state_of

NOWHERE = -1  # no frame stands there: keys at it are turned anew before they are read


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
        """Leading slots whose frames may change position or content and so keep their unrotated keys."""
        return moving_slots(self.policy, self.slots)

    @property
    def state_floats(self) -> int:
        """Numbers of a learned memory's state per layer, row and head."""
        state = state_of(self.policy)
        return 0 if state is None else state.floats(self.head_dim)

    @property
    def waiting_slots(self) -> int:
        """Slots whose frames will enter a state once they are evicted, and so keep their keys as the layer made them."""
        state = state_of(self.policy)
        return self.slots if state is not None and state.written_at == "eviction" else 0

    @property
    def waiting_values(self) -> int:
        """Those of the waiting slots that keep values of their own: all where the cache's are not the ones that the state is told."""
        state = state_of(self.policy)
        return self.waiting_slots if state is not None and state.written_from == "last pass" else 0

    def state_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of a learned memory: its states (float32 at least) with what they begin from, and what waits to enter them."""
        per_slot, wide = self.rows * self.tokens * self.head_dim, _wide(dtype).itemsize
        states = (self.rows + 1) * self.state_floats * wide
        waiting = (self.waiting_slots + self.waiting_values) * per_slot * dtype.itemsize
        return self.layers * self.heads * (waiting + states) + self.waiting_slots * per_slot * wide

    def slot_bytes(self, slot: int, dtype: torch.dtype = torch.float32) -> int:
        """What one slot of one row takes of `bytes`: keys and values, and the originals of a slot whose frame may move."""
        tensors = 2 + (slot < self.moving_slots)
        return self.layers * self.heads * self.tokens * self.head_dim * dtype.itemsize * tensors

    def bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Exactly what a MemoryStore of this spec allocates: keys, values, originals, states."""
        per_slot = self.layers * self.rows * self.heads * self.tokens * self.head_dim * dtype.itemsize
        return per_slot * (2 * self.slots + self.moving_slots) + self.state_bytes(dtype)


class MemoryStore:
    """Keys and values of `spec.rows` players, each with a ledger of its own, and their learned memories' states.

    `start` `[layer, head, floats]` is what the states begin from; without a learned memory an empty tensor.
    """

    def __init__(
        self, spec: CacheSpec, start: Tensor | None = None, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.spec = spec

        def slots(count: int) -> Tensor:
            return torch.zeros(spec.layers, spec.rows, spec.heads, count * spec.tokens, spec.head_dim, device=device, dtype=dtype)

        self.keys, self.values, self.originals = slots(spec.slots), slots(spec.slots), slots(spec.moving_slots)
        self.waiting, self.waiting_values = slots(spec.waiting_slots), slots(spec.waiting_values)
        turns = (spec.rows, 1, spec.waiting_slots * spec.tokens, spec.head_dim // 2)
        self.waiting_turns = torch.zeros(turns, device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)
        wide = torch.zeros(spec.layers, spec.heads, spec.state_floats, device=device, dtype=_wide(dtype))
        self.start = wide if start is None else start.to(wide).view_as(wide)
        self.states = self.start[:, None].repeat(1, spec.rows, 1, 1)
        self.ledgers = [Ledger(spec.policy, spec.slots) for _ in range(spec.rows)]
        self.positions: list[dict[int, int]] = [{} for _ in range(spec.rows)]
        self.entered = [-1] * spec.rows
        # A measurement and no state: parking leaves it alone.
        self.moving_seconds = 0.0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to rows, and so is parked."""
        return self.keys, self.values, self.originals, self.waiting, self.waiting_values, self.waiting_turns, self.states

    @property
    def bytes(self) -> int:
        """Bytes held by the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.tensors, self.start))

    def clear(self, row: int) -> None:
        """Forget everything in a row. Its slots are not wiped: no plan reads a slot that was not written."""
        self.ledgers[row] = Ledger(self.spec.policy, self.spec.slots)
        self.positions[row] = {}
        self.states[:, row] = self.start
        self.entered[row] = -1

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

    def await_eviction(self, layer: int, rows: slice, slots: tuple[int, ...], keys: Tensor, values: Tensor, turns: Tensor) -> None:
        """Keep what a chunk will tell the state: `[row, head, frames * tokens, head_dim]` as the layer made it, and timeless turns."""
        for place, slot in enumerate(slots):
            source, target = self.span(place), self.span(slot)
            self.waiting[layer, rows, :, target] = keys[:, :, source]
            if self.spec.waiting_values:
                self.waiting_values[layer, rows, :, target] = values[:, :, source]
            if layer == 0:
                self.waiting_turns[rows, :, target] = turns[..., source, :]

    def awaited(self, layer: int, rows: slice, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and turns with which the frame in a slot enters the state."""
        span, values = self.span(slot), self.waiting_values if self.spec.waiting_values else self.values
        return self.waiting[layer, rows, :, span], values[layer, rows, :, span], self.waiting_turns[rows, :, span]

    def take_evicted(self, rows: slice, plan: ChunkPlan) -> tuple[SlotSource, ...]:
        """The evicted frames that nobody has taken yet, oldest first; from now on they count as taken."""
        numbers = range(*rows.indices(self.spec.rows))
        taken = tuple(source for source in plan.evicted if source.frame > self.entered[numbers[0]])
        for row in numbers if taken else ():
            self.entered[row] = taken[-1].frame
        return taken

    def blend(self, rows: slice, item: SlotBlend) -> None:
        """An evicted frame's unrotated keys and values enter its heir's, in all layers; the heir must then be turned anew."""
        source, target = self.span(item.slot), self.span(item.heir_slot)
        for tensor in (self.originals, self.values):
            tensor[:, rows, :, target] = torch.lerp(tensor[:, rows, :, source], tensor[:, rows, :, target], item.blend.keep)
        for row in range(*rows.indices(self.spec.rows)):
            self.positions[row][item.heir_slot] = NOWHERE

    def moved(self, row: int, plan: ChunkPlan) -> list[tuple[int, int]]:
        """(slot, new position) of the sources that do not stand where their keys were last rotated to."""
        known = self.positions[row]
        return [(source.slot, source.position) for source in plan.sources if known[source.slot] != source.position]

    def note_positions(self, row: int, plan: ChunkPlan) -> None:
        """Remember at which position each slot that this plan reads or writes now stands."""
        known = self.positions[row]
        known.update({source.slot: source.position for source in plan.sources})
        known.update(dict(zip(plan.write_slots, plan.positions, strict=True)))

    def park(self) -> dict[str, object]:
        """A copy of all state, tensors included, that `restore` brings back bit for bit."""
        return {
            "tensors": [tensor.clone() for tensor in self.tensors],
            "ledgers": [ledger.copy() for ledger in self.ledgers],
            "entered": list(self.entered),
            "positions": [dict(known) for known in self.positions],
        }

    def restore(self, parked: dict) -> None:
        """Bring a parked state back; the state itself stays usable. Another size or policy is a ConfigError."""
        targets = self.tensors
        if [tuple(tensor.shape) for tensor in parked["tensors"]] != [tuple(tensor.shape) for tensor in targets]:
            raise ConfigError("the parked memory is of another size than this one; use the same model, policy and chunk")
        if any(ledger.policy != self.spec.policy for ledger in parked["ledgers"]):
            raise ConfigError(f"the parked memory has another policy than this one ({self.spec.policy}); use the same policy")
        for target, tensor in zip(targets, parked["tensors"], strict=True):
            target.copy_(tensor)
        self.ledgers = [ledger.copy() for ledger in parked["ledgers"]]
        self.positions = [dict(known) for known in parked["positions"]]
        self.entered = list(parked["entered"])

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


def _wide(dtype: torch.dtype) -> torch.dtype:
    """States lie in float32 at least: they live through more steps than half precision bears."""
    return torch.float64 if dtype == torch.float64 else torch.float32
