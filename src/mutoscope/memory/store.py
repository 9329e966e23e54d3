"""The tensors of a memory: keys and values in slots, allocated once, written in place, read as views.

Layout `[layer, row, head, slot * tokens, head_dim]`. A row is one player. Keys lie rotated at the position at
which they were written; only slots whose position can change (sinks) keep their unrotated original beside,
and are always rotated from that original, never in place. A learned memory has one float32 state per layer, row and
head; where frames enter it as they are evicted, their keys lie beside as the layer made them, with the turn of their place, and if it is
told by last denoising passes, their values too: those in the cache are the commit's.
Where content decides what is read, a note lies beside every slot, and frames that left may lie in an archive on the host. Where single
tokens are chosen, a slot may hold those of several frames, other ones for every head of every layer: a mosaic. Beside each of them lies its
home, its number in its own frame, so that its key can be turned to where it stood on the screen.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.archive import Archive, Shelved
from mutoscope.memory.choosing import MIB, Criterion
from mutoscope.memory.elements import ElementName, element_bytes, new_slots
from mutoscope.memory.frames import Chunk
from mutoscope.memory.ledger import ChunkPlan, Ledger, SlotBlend, SlotSource, agreed
from mutoscope.memory.policy import ChoosingConfig, LedgerConfig, archive_bytes, moving_slots, state_of
from mutoscope.memory.scoring import NO_SCORER, NOTE_TYPE, Scorer, best_first, note_shape
from mutoscope.memory.sifting import HOME_TYPE, MARK_TYPE, NOWHERE, asking_frames, open_sifted
from mutoscope.memory.states import wide_type


@dataclass(frozen=True)
class CacheSpec:
    """Everything that the size of a cache depends on."""

    layers: int
    heads: int
    head_dim: int
    tokens: int
    policy: LedgerConfig
    max_chunk: int
    rows: int = 1
    elements: ElementName = "plain"
    spare: int = 0

    @property
    def parts(self) -> tuple["CacheSpec", ...]:
        """All heads share it (class HeadSpec is where they do not)."""
        return (self,)

    @property
    def slots(self) -> int:
        """Frames that fit into one row: as many as the policy keeps, and `spare` ones for a chunk that is opened ahead."""
        return self.policy.capacity(self.max_chunk) + self.spare

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

    @property
    def criterion(self) -> Criterion:
        """What content is compared by, if it decides anything."""
        return self.policy.criterion if isinstance(self.policy, ChoosingConfig) else "nothing"

    @property
    def sifted_slots(self) -> int:
        """Slots that may come to hold single tokens of several frames, and so know for every token where it stood."""
        return self.slots if self.criterion in ("tokens' participation", "tokens' change") else 0

    @property
    def noted_slots(self) -> int:
        """Those of the sifted slots that know of every token how much it changed."""
        return self.slots if self.criterion == "tokens' change" else 0

    @property
    def note_shape(self) -> tuple[int, ...]:
        """Of what is noted of a frame for a policy that chooses by content; for others nothing is."""
        return note_shape(self.criterion, self.layers, self.heads, self.head_dim)

    @property
    def note_bytes(self) -> int:
        """Bytes of one frame's note."""
        return math.prod(self.note_shape) * NOTE_TYPE.itemsize

    def shelves(self, dtype: torch.dtype = torch.float32) -> int:
        """Frames that one row's archive on the host has room for; a budget for less than one is a ConfigError."""
        budget, frame = archive_bytes(self.policy), self.shelf_bytes(dtype)
        if 0 < budget < frame:
            raise ConfigError(
                f"a frame of this model takes {frame:,} bytes on the host, and the archive may take {budget:,} per player; "
                f"give it at least host_mib={math.ceil(frame / MIB)}"
            )
        return budget // frame

    def shelf_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """What one frame takes of an archive: unrotated keys, values and its note."""
        return 2 * self.layers * self.heads * self.tokens * self.head_dim * dtype.itemsize + self.note_bytes

    def host_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Exactly what the archives of all rows allocate on the host, beside `bytes`."""
        return self.rows * self.shelves(dtype) * self.shelf_bytes(dtype)

    def state_bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Bytes of a learned memory: its states (float32 at least) with what they begin from, and what waits to enter them."""
        per_slot, wide = self.rows * self.tokens * self.head_dim, wide_type(dtype).itemsize
        states = (self.rows + 1) * self.state_floats * wide
        waiting = (self.waiting_slots + self.waiting_values) * per_slot * dtype.itemsize
        return self.layers * self.heads * (waiting + states) + self.waiting_slots * per_slot * wide

    def slot_bytes(self, slot: int, dtype: torch.dtype = torch.float32) -> int:
        """What one slot of one row takes of `bytes`: keys and values, the originals of a slot whose frame may move, its note."""
        original = (slot < self.moving_slots) * self.head_dim * dtype.itemsize
        marks = (slot < self.sifted_slots) * HOME_TYPE.itemsize + (slot < self.noted_slots) * MARK_TYPE.itemsize
        token = 2 * element_bytes(self.elements, self.head_dim, dtype) + original + marks
        return self.layers * self.heads * self.tokens * token + self.note_bytes

    def bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Exactly what a MemoryStore of this spec allocates on its device: keys, values, originals, marks of tokens, notes, states."""
        return self.rows * sum(self.slot_bytes(slot, dtype) for slot in range(self.slots)) + self.state_bytes(dtype)


class MemoryStore:
    """Keys and values of `spec.rows` players, each with a ledger of its own, and their learned memories' states.

    `start` `[layer, head, floats]` is what the states begin from; without a learned memory an empty tensor. `scorer` ranks frames for a
    policy that chooses by content.
    """

    def __init__(
        self,
        spec: CacheSpec,
        start: Tensor | None = None,
        scorer: Scorer = NO_SCORER,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.spec, self.scorer = spec, scorer
        shelves = spec.shelves(dtype)

        def slots(count: int) -> Tensor:
            return torch.zeros(spec.layers, spec.rows, spec.heads, count * spec.tokens, spec.head_dim, device=device, dtype=dtype)

        shape = (spec.layers, spec.rows, spec.heads, spec.slots * spec.tokens, spec.head_dim)
        self.dtype, self.originals = dtype, slots(spec.moving_slots)
        self.key_slots, self.value_slots = (new_slots(spec.elements, shape, dtype, device) for _ in range(2))
        self.keys, self.values = self.key_slots.codes, self.value_slots.codes
        self.waiting, self.waiting_values = slots(spec.waiting_slots), slots(spec.waiting_values)
        marks = spec.layers, spec.rows, spec.heads
        self.homes = torch.zeros(*marks, spec.sifted_slots * spec.tokens, device=device, dtype=HOME_TYPE)
        self.changes = torch.zeros(*marks, spec.noted_slots * spec.tokens, device=device, dtype=MARK_TYPE)
        turns = (spec.rows, 1, spec.waiting_slots * spec.tokens, spec.head_dim // 2)
        self.waiting_turns = torch.zeros(turns, device=device, dtype=torch.complex128 if dtype == torch.float64 else torch.complex64)
        wide = torch.zeros(spec.layers, spec.heads, spec.state_floats, device=device, dtype=wide_type(dtype))
        self.start = wide if start is None else start.to(wide).view_as(wide)
        self.states = self.start[:, None].repeat(1, spec.rows, 1, 1)
        self.notes = torch.zeros(spec.rows, spec.slots, *spec.note_shape, device=device, dtype=NOTE_TYPE)
        self.archive = Archive(spec.rows, shelves, (spec.layers, spec.heads, spec.tokens, spec.head_dim), spec.note_shape, dtype)
        self.ledgers = [Ledger(spec.policy, spec.slots, num_shelves=shelves) for _ in range(spec.rows)]
        self.positions: list[dict[int, int]] = [{} for _ in range(spec.rows)]
        self.entered = [-1] * spec.rows
        # A measurement and no state: parking leaves it alone.
        self.moving_seconds = 0.0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that belongs to rows and lies on the device; it is parked, and the archive's tensors with it."""
        learned = self.waiting, self.waiting_values, self.waiting_turns, self.states
        frames = self.keys, self.values, self.originals, self.key_slots.scales, self.value_slots.scales
        return *frames, self.notes, self.homes, self.changes, *learned

    @property
    def bytes(self) -> int:
        """Bytes held on the device; the archive on the host has its own."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self.tensors, self.start))

    @property
    def host_bytes(self) -> int:
        """Bytes held in the archive on the host."""
        return self.archive.bytes

    @property
    def parts(self) -> tuple["MemoryStore", ...]:
        """All heads share it (class HeadStore is where they do not)."""
        return (self,)

    def clear(self, row: int) -> None:
        """Forget everything in a row. Its slots are not wiped: no plan reads a slot that was not written."""
        self.ledgers[row] = Ledger(self.spec.policy, self.spec.slots, num_shelves=self.ledgers[row].num_shelves)
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
            self.key_slots.put(layer, rows, target, keys[:, :, source])
            self.value_slots.put(layer, rows, target, values[:, :, source])
            if slot < self.spec.moving_slots:
                self.originals[layer, rows, :, target] = original[:, :, source]

    def read(self, layer: int, rows: slice, tokens: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `tokens` tokens of the slots, `[row, head, tokens, head_dim]`: views, if elements are plain."""
        return self.key_slots.get(layer, rows, slice(0, tokens)), self.value_slots.get(layer, rows, slice(0, tokens))

    def place(self, rows: slice, slot: int, keys: Tensor) -> None:
        """A slot's keys, turned anew in all layers: `[layer, row, head, token, head_dim]`."""
        self.key_slots.put(slice(None), rows, self.span(slot), keys)

    def await_eviction(self, layer: int, rows: slice, slots: tuple[int, ...], keys: Tensor, values: Tensor, turns: Tensor) -> None:
        """Keep what a chunk will tell the state: `[row, head, frames * tokens, head_dim]` as the layer made it, and how it is turned."""
        for place, slot in enumerate(slots):
            source, target = self.span(place), self.span(slot)
            self.waiting[layer, rows, :, target] = keys[:, :, source]
            if self.spec.waiting_values:
                self.waiting_values[layer, rows, :, target] = values[:, :, source]
            if layer == 0:
                self.waiting_turns[rows, :, target] = turns[..., source, :]

    def awaited(self, layer: int, rows: slice, slot: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and turns with which the frame in a slot enters the state."""
        span = self.span(slot)
        values = self.waiting_values[layer, rows, :, span] if self.spec.waiting_values else self.value_slots.get(layer, rows, span)
        return self.waiting[layer, rows, :, span], values, self.waiting_turns[rows, :, span]

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
        self.notes[rows, item.heir_slot] = torch.lerp(self.notes[rows, item.slot], self.notes[rows, item.heir_slot], item.blend.keep)
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
            "archive": [tensor.clone() for tensor in self.archive.tensors],
            "ledgers": [ledger.copy() for ledger in self.ledgers],
            "entered": list(self.entered),
            "positions": [dict(known) for known in self.positions],
        }

    def restore(self, parked: dict) -> None:
        """Bring a parked state back; the state itself stays usable. Another size or policy is a ConfigError."""
        self.check_parked(parked)
        for target, tensor in zip((*self.tensors, *self.archive.tensors), (*parked["tensors"], *parked["archive"]), strict=True):
            target.copy_(tensor)
        self.ledgers = [ledger.copy() for ledger in parked["ledgers"]]
        self.positions = [dict(known) for known in parked["positions"]]
        self.entered = list(parked["entered"])

    def check_parked(self, parked: dict) -> None:
        """Refuse a parked state of another size or policy."""
        if "parts" in parked:
            raise ConfigError(f"the parked memory is head-wise, and this one is not ({self.spec.policy}); use the same policy")
        targets, tensors = (*self.tensors, *self.archive.tensors), (*parked["tensors"], *parked["archive"])
        if [tuple(tensor.shape) for tensor in tensors] != [tuple(tensor.shape) for tensor in targets]:
            raise ConfigError("the parked memory is of another size than this one; use the same model, policy and chunk")
        if any(ledger.policy != self.spec.policy for ledger in parked["ledgers"]):
            raise ConfigError(f"the parked memory has another policy than this one ({self.spec.policy}); use the same policy")

    def open_chunk(self, rows: slice, length: int) -> ChunkPlan:
        """Open the next chunk of rows whose ledgers agree; rows that differ in age need separate calls."""
        return agreed([ledger.open_chunk(length) for ledger in self.ledgers[rows]])

    def open_ahead(self, rows: slice, length: int) -> ChunkPlan:
        """The same beside an open chunk whose commit will run together with the first pass of the next (Ledger.open_ahead)."""
        return agreed([ledger.open_ahead(length) for ledger in self.ledgers[rows]])

    def choose_chunk(self, row: int, length: int, travelled: Tensor) -> ChunkPlan:
        """Open the next chunk of a row whose policy chooses by content; once open, a chunk keeps what was chosen.

        `travelled` `[action]` is what the player will have done by its end. The host waits for the device here, once, and again for
        every frame that moves between slots and archive. Adds to `moving_seconds`.
        """
        began, ledger = time.perf_counter(), self.ledgers[row]
        if ledger.open_plan is not None:
            return ledger.open_chunk(length)
        if ledger.heirs(length):
            plan = open_sifted(self, row, length, travelled)
        else:
            plan = ledger.open_chunk(length, self._ranks(row, length, travelled))
        self._settle(row, plan)
        self._exchange(row, plan)
        for item in plan.blends:
            self.blend(slice(row, row + 1), item)
        self.moving_seconds += time.perf_counter() - began
        return plan

    def _ranks(self, row: int, length: int, travelled: Tensor) -> tuple[int, ...]:
        """The row's candidates, best first."""
        ledger, known = self.ledgers[row], self.positions[row]
        candidates = ledger.candidates(length)
        if not candidates:
            return ()
        slots = [ledger.slot_of[frame] for frame in asking_frames(self.spec.policy, ledger)]
        recent = torch.cat([self.notes[row, :0], *(self.notes[row, slot : slot + 1] for slot in slots)])
        asking = self.scorer.asking(recent, travelled)
        stacked, count = torch.cat([self.notes[row], asking]), self.spec.slots
        notes = stacked.cpu() if ledger.num_shelves else stacked
        positions, asking_positions = tuple(known.get(slot, 0) for slot in range(count)), tuple(known[slot] for slot in slots)
        scores = self.scorer.scores(notes[:count], positions, notes[count:], asking_positions).tolist()
        shelves = (0,) * ledger.num_shelves
        scores += self.scorer.scores(self.archive.notes[row], shelves, notes[count:], asking_positions).tolist() if shelves else []
        places = {frame: count + shelf for frame, shelf in ledger.shelf_of.items()} | ledger.slot_of
        return best_first(candidates, {frame: scores[places[frame]] for frame in candidates})

    def _settle(self, row: int, plan: ChunkPlan) -> None:
        """Whole frames will be written into the open chunk's slots: every token is at home there."""
        for slot in plan.write_slots if self.spec.sifted_slots else ():
            self.homes[:, row, :, self.span(slot)] = torch.arange(self.spec.tokens, device=self.homes.device, dtype=HOME_TYPE)

    def is_mosaic(self, row: int, slot: int) -> bool:
        """Whether a slot holds tokens of several frames."""
        ledger = self.ledgers[row]
        return any(ledger.slot_of.get(frame) == slot for frame in ledger.mosaics)

    def _exchange(self, row: int, plan: ChunkPlan) -> None:
        """Frames go between slots and shelves. All are read before any is written: two may change places."""
        back = [self.archive.take(row, item.shelf) for item in plan.recalled]
        for item in plan.stored:
            self.archive.put(row, item.shelf, self._shelved(row, item.slot))
        for item, frame in zip(plan.recalled, back, strict=True):
            slot = self._shelved(row, item.slot)
            for target, tensor in zip((slot.keys, slot.values, slot.note), (frame.keys, frame.values, frame.note), strict=True):
                target.copy_(tensor)
            self.positions[row][item.slot] = NOWHERE

    def _shelved(self, row: int, slot: int) -> Shelved:
        """Views of what a slot holds."""
        span = self.span(slot)
        return Shelved(self.originals[:, row, :, span], self.values[:, row, :, span], self.notes[row, slot])

    def note(self, rows: slice, slots: tuple[int, ...], notes: Tensor) -> None:
        """Note a chunk's frames for the scorer: `[row, frame, *note_shape]`."""
        for place, slot in enumerate(slots):
            self.notes[rows, slot] = notes[:, place]

    def note_layer(self, layer: int, rows: slice, slots: tuple[int, ...], notes: Tensor) -> None:
        """The same for one layer's part of the notes, `[row, frame, part, head, head_dim]`."""
        for place, slot in enumerate(slots):
            self.notes[rows, slot, layer] = notes[:, place]

    def rewrite_chunk(self, rows: slice, chunk: Chunk) -> ChunkPlan:
        """Plan to commit a remembered chunk of these rows once more (Ledger.rewrite)."""
        return agreed([ledger.rewrite(chunk) for ledger in self.ledgers[rows]])

    def commit(self, rows: slice) -> None:
        """The open chunk of these rows becomes part of the past. Their keys and values must have been written at sigma 0."""
        for ledger in self.ledgers[rows]:
            ledger.commit()
