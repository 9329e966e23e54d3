"""Runs a list of passes as one forward. A pass is all that one call of the network needs to know about one group of rows."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Protocol

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import TokenGrid
from mutoscope.core.transfer import upload
from mutoscope.memory.head_store import AnyStore, HeadStore
from mutoscope.memory.kinds import WrittenFrom
from mutoscope.memory.ledger import AnyPlan, ChunkPlan
from mutoscope.memory.scoring import token_sums
from mutoscope.memory.sifting import note_changes
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import Attend, Place, Turns
from mutoscope.models.conditions import Conditions, join
from mutoscope.models.heads import HeadByHead, head_split
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate, rotations, turned
from mutoscope.models.scorers import place_of
from mutoscope.models.softmax import Kernel, sdpa
from mutoscope.models.transformer import VideoTransformer

PassKind = Literal["denoising", "last", "commit", "real", "recommit"]
"""What a pass is to its chunk. "last": the denoising pass, under the chunk's own conditions, whose step gives the sample. "commit" writes
what was denoised, and "real" what was not: a world's beginning. "recommit" writes what is remembered once more, under another prompt."""


@dataclass(frozen=True)
class Pass:
    """One chunk of `rows` of a store at one noise level: latents `[row, frame, C, H, W]`, sigma a float for all of them.

    Every pass writes its keys and values into the chunk's own slots; what is left there is the commit's, at sigma 0. One of them writes
    into a learned memory (WRITERS).
    """

    store: AnyStore
    rows: slice
    plan: AnyPlan
    latents: Tensor
    sigma: float
    conditions: Conditions
    kind: PassKind = "denoising"

    @property
    def commits(self) -> bool:
        """Whether what it writes stays: it is the last one of its chunk."""
        return self.kind in ("commit", "real", "recommit")

    @property
    def parts(self) -> list[tuple[MemoryStore, ChunkPlan]]:
        """Store and plan of each group of heads; most memories have but one for all heads."""
        return list(zip(self.store.parts, self.plan.parts, strict=True))


WRITERS: dict[WrittenFrom, tuple[PassKind, ...]] = {"commit": ("commit", "real"), "last pass": ("last", "real")}
# What waits for a state is told anew when its frame is committed again; what has entered one is not told twice.
WAITERS: dict[WrittenFrom, tuple[PassKind, ...]] = {"commit": ("commit", "real", "recommit"), "last pass": ("last", "real")}
READERS: dict[WrittenFrom, tuple[PassKind, ...]] = {
    "commit": ("denoising", "last", "commit", "real", "recommit"),
    "last pass": ("denoising", "last"),  # so that what lies in the cache depends on clean frames alone
}

Planner = Generator[Pass, Tensor, Tensor]
"""Yields passes, is sent their velocities, returns the chunk's clean latents."""


class Runner(Protocol):
    """Whatever runs passes as one forward: the executor, or what stands before it."""

    def run(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The velocity of every pass."""
        ...


@dataclass(frozen=True)
class Segment:
    """Attention of a pass, or of its part for one group of heads: write the chunk's keys and values into its slots, read slots as views.

    Nothing is copied. `turns` are those of the chunk's tokens; the first `reads` tokens of the slots are read, but for `hidden` ones.
    """

    item: Pass
    store: MemoryStore
    plan: ChunkPlan
    turns: Turns
    reads: int
    hidden: Tensor | None
    kernel: Kernel = sdpa

    def placed(self, place: Place) -> "Segment":
        """The same pass, turned to places too."""
        return replace(self, turns=self.turns.placed(place))

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        self.write(layer, queries, keys, values)
        return self.read(layer, queries)

    def write(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> None:
        """The chunk's keys and values into its slots."""
        store, rows, turns = self.store, self.item.rows, self.turns
        original = rotate(keys, turns.place) if store.spec.moving_slots and turns.place is not None else keys
        store.write(layer, rows, self.plan.write_slots, original, turned(layer, keys, turns.whole), values)
        if self.item.commits and store.spec.criterion != "nothing":
            note_layer(layer, self, queries, keys)

    def read(self, layer: int, queries: Tensor) -> Tensor:
        """What the chunk's queries find in the slots."""
        past_keys, past_values = self.store.read(layer, self.item.rows, self.reads)
        return self.kernel(turned(layer, queries, self.turns.whole), past_keys, past_values, self.hidden)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A pass writes and reads as its kind does; a commit reads what it wrote, a last pass what the chunks before it did."""
        store, rows, kind, turn = self.store, self.item.rows, self.item.kind, self.turns.telling(memory)
        writes, reads = kind in WRITERS[memory.written_from], kind in READERS[memory.written_from]
        if memory.written_at == "eviction":
            if kind in WAITERS[memory.written_from]:
                store.await_eviction(layer, rows, self.plan.write_slots, keys, values, turn)
            writes = False
        told, asked = addresses(memory, (keys, queries), turn, (writes, reads))
        if writes and kind != "last":
            self._write(layer, memory, told, values)
        recalled = memory.read(store.states[layer, rows], asked).to(queries.dtype) if reads else torch.zeros_like(queries)
        if writes and kind == "last":
            self._write(layer, memory, told, values)
        return recalled

    def _write(self, layer: int, memory: RecallLayer, told: Tensor, values: Tensor) -> None:
        states, rows = self.store.states, self.item.rows
        states[layer, rows] = memory.writer()(states[layer, rows], told, values)


def addresses(memory: RecallLayer, pair: tuple[Tensor, Tensor], turn: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
    """Keys and queries as a memory takes them, those that are wanted (the others as they are): both at once is faster than one by one."""
    if all(wanted):
        told, asked = memory.address(torch.stack(pair), turn)
        return told, asked
    told, asked = (memory.address(x, turn) if want else x for x, want in zip(pair, wanted, strict=True))
    return told, asked


class Streaming:
    """Attention of several passes in one forward, each on its part of the batch."""

    def __init__(self, passes: list[tuple[slice, Attend]]) -> None:
        self.passes = passes

    def placed(self, place: Place) -> "Streaming":
        """The same passes, turned to places too."""
        return Streaming([(part, attend.placed(place.of(part))) for part, attend in self.passes])

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        outputs = [attend(layer, queries[part], keys[part], values[part]) for part, attend in self.passes]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What each pass recalls."""
        read = [attend.recall(layer, memory, queries[part], keys[part], values[part]) for part, attend in self.passes]
        return read[0] if len(read) == 1 else torch.cat(read)


@dataclass(frozen=True)
class Executor:
    """A model and the way to run passes through it. Runs without gradient: training's gradient pass is a replay.

    Latents may be of a wider type than the model, which works in its own; velocities come back in the latents' type.
    """

    model: VideoTransformer
    kernel: Kernel = sdpa

    @torch.no_grad()
    def run(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The velocity of every pass, or nothing (an empty tensor) where all are commits: nobody asks for theirs.

        All chunks must be of one length; each pass has a store or rows of its own.
        """
        if len({item.plan.chunk.length for item in passes}) != 1:
            raise ConfigError("passes of different chunk lengths cannot share a forward")
        _check_apart(passes)
        attends: list[tuple[slice, Attend]] = []
        first = 0
        for item in passes:
            self.prepare(item)
            size = item.latents.shape[0]
            attends.append((slice(first, first + size), self.attend(item)))
            first += size
        latents = torch.cat([item.latents for item in passes]) if len(passes) > 1 else passes[0].latents
        sigma = torch.cat([item.latents.new_full(item.latents.shape[:2], item.sigma) for item in passes])
        told = join([item.conditions for item in passes]).to(latents.device, self.dtype)
        inputs = latents.to(self.dtype), sigma, told, Streaming(attends)
        if all(item.commits for item in passes):
            self.model.write(*inputs)
            return [latents.new_empty(0) for _ in passes]
        velocity = self.model(*inputs).to(latents.dtype)
        return [velocity[part] for part, _ in attends]

    @property
    def dtype(self) -> torch.dtype:
        """The type that the model works in."""
        return self.model.patch_embedding.weight.dtype

    def prepare(self, item: Pass) -> None:
        """What a pass changes in its store before the network runs: evicted frames, moved ones, places."""
        for store, plan in item.parts:
            remember_evicted(self.model, store, plan, item.rows)
            place_moved(self.model, store, plan, item.rows)
            note_places(self.model, store, plan, item)

    def attend(self, item: Pass) -> Attend:
        """Attention of a pass."""
        segments = [self._segment(item, store, plan) for store, plan in item.parts]
        if isinstance(item.store, HeadStore):
            return HeadByHead(head_split(item.store.groups, item.latents.device), segments)
        return segments[0]

    def _segment(self, item: Pass, store: MemoryStore, plan: ChunkPlan) -> Segment:
        config, device = self.model.config, item.latents.device
        slots = plan.read_slots
        highest = max(slots) + 1
        biases = {source.slot: source.bias for source in plan.sources if source.bias}
        hidden = None if len(slots) == highest else slot_mask(slots, highest, config.grid.tokens, device)
        if biases:
            hidden = slot_biases(slots, tuple(biases.items()), highest, config.grid.tokens, device).to(self.dtype)
        turns = chunk_turns(plan.position, plan.chunk.length, config.grid, config.head_dim, self.dtype, device)
        return Segment(item, store, plan, turns, highest * config.grid.tokens, hidden, self.kernel)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for training's rollouts too
def chunk_turns(position: int, length: int, grid: TokenGrid, head_dim: int, dtype: torch.dtype, device: torch.device) -> Turns:
    """How the tokens of a chunk's frames are turned; the passes of a chunk share one, and nobody writes into it."""
    return Turns.at(torch.arange(position, position + length, device=device), grid, head_dim, dtype)


@lru_cache(maxsize=64)  # as many as there are patterns of slots in a memory that is full: the loop makes none anew
@torch.inference_mode(False)
def slot_mask(slots: tuple[int, ...], highest: int, tokens: int, device: torch.device) -> Tensor:
    """True for the tokens of the slots to be read, `[1, highest * tokens]`, where unread slots lie between them."""
    mask = torch.zeros(highest, dtype=torch.bool)
    mask[list(slots)] = True
    return upload(mask.repeat_interleave(tokens)[None], device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def slot_biases(slots: tuple[int, ...], biases: tuple[tuple[int, float], ...], highest: int, tokens: int, device: torch.device) -> Tensor:
    """What is added to the logits of each slot's tokens, `[1, highest * tokens]`: -inf where a slot is not read; (slot, bias) pairs."""
    added = torch.full((highest,), float("-inf"), dtype=torch.float64)
    added[list(slots)] = 0.0
    for slot, bias in biases:
        added[slot] = bias
    return upload(added.repeat_interleave(tokens)[None], device)


def note_layer(layer: int, segment: Segment, queries: Tensor, keys: Tensor) -> None:
    """What a scorer will want to know of a committed chunk's frames, from one layer's unrotated queries and keys."""
    store, turns, length, slots = segment.store, segment.turns, segment.plan.chunk.length, segment.plan.write_slots
    match store.spec.criterion:
        case "participation":
            parts = [rotate(queries, turns.timeless), rotate(keys, turns.timeless)]
        case "tokens' participation":
            parts = [rotate(queries, turns.timeless)]
        case "tokens' change":
            if segment.item.kind != "recommit":  # what stood before it may be gone, and its change is known
                note_changes(store, layer, segment.item.rows, segment.plan)
            return
        case "similarity" | "repetition" | "difference":
            parts = [keys]
        case _:
            return
    store.note_layer(layer, segment.item.rows, slots, torch.stack([token_sums(part, length) for part in parts], dim=2))


def note_places(model: VideoTransformer, store: MemoryStore, plan: ChunkPlan, item: Pass) -> None:
    """Where the camera stood in a committed chunk's frames."""
    if item.commits and store.spec.criterion == "place":
        store.note(item.rows, plan.write_slots, place_of(item.conditions.travelled(), model.travel_step))


def remember_evicted(model: VideoTransformer, store: MemoryStore, plan: ChunkPlan, rows: slice) -> None:
    """Frames that left the cache enter sinks and learned memories, in all layers, while they still lie in their slots."""
    evicted = store.take_evicted(rows, plan)
    frames = {source.frame for source in evicted}
    for blend in plan.blends if store.spec.criterion == "nothing" else ():
        if blend.blend.frame in frames:
            store.blend(rows, blend)
    for source in evicted if store.spec.waiting_slots else ():
        for layer, memory in enumerate(model.memories):
            keys, values, turn = store.awaited(layer, rows, source.slot)
            store.states[layer, rows] = memory.writer()(store.states[layer, rows], memory.address(keys, turn), values)


def place_moved(model: VideoTransformer, store: MemoryStore, plan: ChunkPlan, rows: slice) -> None:
    """Rotate sinks that now stand elsewhere, in all layers at once, from their originals; note where everything stands.

    Camera attention knows no position: what the store holds for it (the places after the layers') is put back as it was.
    Its seconds are added to the store's `moving_seconds`; on CUDA that is the time to queue the work.
    """
    config, numbers, began = model.config, range(*rows.indices(store.spec.rows)), time.perf_counter()
    for slot, position in store.moved(numbers[0], plan):
        where = torch.full((1,), position, device=store.keys.device)  # filled there: a tensor of host data would wait for the device
        rotation = rotations(where, config.grid, config.head_dim, store.originals.dtype)
        span = store.span(slot)
        if store.is_mosaic(numbers[0], slot):
            rotation = rotation[store.homes[:, rows, :, span].long()]
        own, seen = store.originals[:, rows, :, span].tensor_split([config.num_layers])
        moved = rotate(own, rotation)
        store.place(rows, slot, torch.cat([moved, seen]) if len(seen) else moved)
    for row in numbers:
        store.note_positions(row, plan)
    store.moving_seconds += time.perf_counter() - began


def drive(executor: Runner, planners: Sequence[Planner]) -> list[Tensor]:
    """The one loop: collect the next pass of every planner, run those of equal chunk length together, hand back velocities."""
    results: dict[int, Tensor] = {}
    waiting = {index: next(planner) for index, planner in enumerate(planners)}
    while waiting:
        by_length: dict[int, list[int]] = {}
        for index, item in waiting.items():
            by_length.setdefault(item.plan.chunk.length, []).append(index)
        answers: dict[int, Tensor] = {}
        for indices in by_length.values():
            answers.update(zip(indices, executor.run([waiting[index] for index in indices]), strict=True))
        waiting = {}
        for index, velocity in answers.items():
            try:
                waiting[index] = planners[index].send(velocity)
            except StopIteration as finished:
                results[index] = finished.value
    return [results[index] for index in range(len(planners))]


def _check_apart(passes: Sequence[Pass]) -> None:
    seen: list[tuple[int, int]] = []
    for item in passes:
        rows = [(id(item.store), row) for row in range(*item.rows.indices(item.store.spec.rows))]
        if len(rows) != item.latents.shape[0]:
            raise ConfigError(f"a pass has latents for {item.latents.shape[0]} rows but names {len(rows)}")
        if set(rows) & set(seen):
            raise ConfigError("two passes of one forward write to the same row of a store")
        seen += rows
