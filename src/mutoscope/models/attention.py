"""Who sees whom: one object per mode of attention. Each takes a layer's unrotated queries, keys and values.

    WholeClip   every frame sees every frame (bidirectional)
    CleanHalf   clean chunk b sees the clean sources that the policy gives it, and itself
    NoisyHalf   noisy chunk b sees the same clean sources, and itself; never another noisy chunk
    LastPasses  a NoisyHalf that tells learned memories of the kind "last pass" what its chunks are
    (streaming with memory is rollout.executor.Streaming: the same lists, read from a store)

Chunks attend in groups (models.groups): one call for many, on gathered keys. A plain loop over chunks, which is literally the streaming
computation, stays beside it, for memories that change what they hold and as what the groups are tested against.
`[batch, head, token, head_dim]` everywhere.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import TokenGrid
from mutoscope.memory.ledger import ChunkSources
from mutoscope.models.clip_memory import States, read_chunks, write_chunks
from mutoscope.models.groups import Bank, Group, group_chunks
from mutoscope.models.past import Past
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate, rotations, screen_addresses, turned
from mutoscope.models.softmax import attention

T = TypeVar("T")


class Attend(Protocol):
    """A mode of self-attention."""

    def placed(self, place: "Place") -> "Attend":
        """The same mode for tokens that also stand somewhere in the world."""
        ...

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Unrotated `[batch, head, token, head_dim]` three times -> attended values of the same shape.

        A negative number is the camera attention of layer ~layer (models.camera): the same, but nothing is rotated.
        """
        ...

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What a learned memory adds, of the same shape. Called after the layer's attention, for models that have one."""
        ...


@dataclass
class WholeClip:
    """Bidirectional: one softmax over all frames of the clip."""

    rotation: Tensor

    def placed(self, place: "Place") -> "WholeClip":
        """Rotations compose: one product per forward instead of a second turn in every layer."""
        return WholeClip(self.rotation * place.rotation)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention(turned(layer, queries, self.rotation), turned(layer, keys, self.rotation), values)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Whole clips have no past to be remembered."""
        raise ConfigError("a model with a learned memory runs chunk by chunk; the bidirectional teacher has none")


@dataclass(frozen=True)
class Place:
    """Where tokens stand in the world, beyond their place on the screen, as rotations `[batch, 1, token, head_dim / 2]` (class Travel).

    `rotation` turns queries and keys, `address` what addresses a learned memory; a model that has none leaves it out.
    """

    rotation: Tensor
    address: Tensor | None

    def of(self, rows: slice) -> "Place":
        """That of some rows of the batch."""
        return Place(self.rotation[rows], None if self.address is None else self.address[rows])


@dataclass(frozen=True)
class Turns:
    """How tokens are turned: `whole` by their time and `timeless`, which is where they stand on the screen and in the world.

    `address` is how what they tell or ask a learned memory is turned, also to where they stand. `place` is by their place in the world
    alone (None: they have none).
    """

    whole: Tensor
    timeless: Tensor
    address: Tensor
    place: Tensor | None = None

    @classmethod
    def at(cls, positions: Tensor, grid: TokenGrid, head_dim: int, dtype: torch.dtype) -> "Turns":
        """Those of the frames at `positions`, which stand nowhere but on the screen."""
        return cls(
            rotations(positions, grid, head_dim, dtype),
            rotations(torch.zeros_like(positions), grid, head_dim, dtype),
            screen_addresses(len(positions), grid, head_dim, dtype, positions.device),
        )

    def telling(self, memory: RecallLayer) -> Tensor:
        """How what a learned memory is told or asked is turned."""
        return self.address if memory.addressed_by == "place" else self.timeless

    def placed(self, place: Place) -> "Turns":
        """Turned to places too."""
        return Turns(
            self.whole * place.rotation,
            self.timeless * place.rotation,
            self.address if place.address is None else self.address * place.address,
            place.rotation if self.place is None else self.place * place.rotation,
        )


@dataclass
class ClipLayout:
    """A clip's chunks with their key sources, and the rotations of its frames; or the last chunks of a clip alone (`since`).

    `context` leading frames are given, in play as real frames that are committed and never denoised.
    """

    chunks: tuple[ChunkSources, ...]
    grid: TokenGrid
    head_dim: int
    device: torch.device
    dtype: torch.dtype
    context: int = 0
    turns: Turns = field(init=False)
    groups: tuple[Group, ...] = field(init=False)

    def __post_init__(self) -> None:
        frames = sum(self.lengths)
        self.groups = group_chunks(self.chunks, self.grid, self.head_dim, self.device, self.dtype)
        positions = torch.arange(self.start, self.start + frames, device=self.device)
        self.turns = Turns.at(positions, self.grid, self.head_dim, self.dtype)

    @property
    def start(self) -> int:
        """The frame of the clip at which its first chunk begins: 0, unless it is the end of a clip."""
        return self.chunks[0].chunk.start

    def since(self, frame: int) -> "ClipLayout":
        """The chunks from `frame` on, for the noisy half alone: they keep their positions and all sources, however old.

        What entered the sinks before them has entered at their first, and tokens that were chosen before them have been.
        """
        rest = tuple(chunk for chunk in self.chunks if chunk.chunk.start >= frame)
        if not rest or rest[0].chunk.start != frame:
            starts = ", ".join(str(chunk.chunk.start) for chunk in self.chunks)
            raise ConfigError(f"no chunk begins at frame {frame}; the chunks of this clip begin at {starts}")
        blends = tuple(blend for chunk in self.chunks if chunk.chunk.start <= frame for blend in chunk.blends)
        sifts = tuple(sift for chunk in self.chunks if chunk.chunk.start <= frame for sift in chunk.sifts)
        return replace(self, chunks=(replace(rest[0], blends=blends, sifts=sifts), *rest[1:]))

    def rotations(self, start: int, stop: int) -> Tensor:
        """Those of frames at positions start .. stop - 1."""
        return rotations(torch.arange(start, stop, device=self.device), self.grid, self.head_dim, self.dtype)

    def span(self, chunk: ChunkSources) -> slice:
        """Where a chunk's frames stand among those of the layout."""
        first = chunk.chunk.start - self.start
        return slice(first, first + chunk.chunk.length)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each chunk."""
        return tuple(chunk.chunk.length for chunk in self.chunks)

    @property
    def moves(self) -> bool:
        """True if some source is read at another position than its own, so that keys without their position are needed."""
        return self.changes or any(source.position != source.frame for chunk in self.chunks for source in chunk.sources)

    @property
    def changes(self) -> bool:
        """True if evicted frames or tokens of theirs enter others, which then are not the same for all chunks."""
        return any(chunk.blends or chunk.sifts for chunk in self.chunks)

    def frames(self, x: Tensor) -> tuple[Tensor, ...]:
        """`[batch, head, token, head_dim]` as one piece per frame, cut once: a slice per use costs a zeroed whole in backward."""
        return x.split(self.grid.tokens, dim=2)

    def gather(self, chunk: ChunkSources, past: "Past", layer: int) -> tuple[list[Tensor], list[Tensor]]:
        """A chunk's past keys and values in pieces: as they are where frames stand in a row, turned anew where they moved or changed."""
        keys: list[Tensor] = []
        picked: list[Tensor] = []
        original, rotated, values = past.original, past.rotated, past.values
        for start, stop, offset in _runs(chunk):
            changed = past.changed.intersection(range(start, stop))
            if offset == 0 and not changed:
                keys.extend(rotated[start:stop])
            elif not changed & past.homes.keys():
                keys.append(turned(layer, torch.cat(original[start:stop], dim=2), self.rotations(start + offset, stop + offset)))
            else:
                turns = (self.rotations(frame + offset, frame + offset + 1)[past.home(frame)] for frame in range(start, stop))
                keys.extend(rotate(each, turn) for each, turn in zip(original[start:stop], turns, strict=True))
            picked.extend(values[start:stop])
        return keys, picked

    def biases(self, chunk: ChunkSources) -> Tensor | None:
        """What is added to the logits of a chunk's keys `[past and own tokens]`, None where nothing is."""
        added = [source.bias for source in chunk.sources] + [0.0] * chunk.chunk.length
        if not any(added):
            return None
        return torch.tensor(added, dtype=torch.float64, device=self.device).repeat_interleave(self.grid.tokens)[None]


@dataclass
class Context:
    """What the clean half leaves for the noisy half.

    layers  by layer: keys turned to their place but not their position, keys turned to both, and values
    states  by layer, for models with a learned memory: by its first frame, the state that each chunk's denoising passes read
    told    by layer, for memories written from last passes, in place of states: the clean keys and values as the layer made them, with
            which frames enter that nobody denoised (class LastPasses)
    """

    layers: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    states: dict[int, States] = field(default_factory=dict)
    told: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def without_frames(self) -> "Context":
        """Keys and values without gradient; what is written into states keeps it."""
        layers = {
            layer: (original.detach(), rotated.detach(), values.detach()) for layer, (original, rotated, values) in self.layers.items()
        }
        return replace(self, layers=layers)


def keep(kept: dict[int, T], layer: int, value: T) -> None:
    """Collect what a layer leaves, once: a block whose activations are computed again for its gradient comes by with the same."""
    kept.setdefault(layer, value)


class CleanHalf:
    """The commit passes of a whole clip at once; collects the context that the noisy half reads."""

    def __init__(self, layout: ClipLayout) -> None:
        if layout.start:
            raise ConfigError(f"the clean past of a clip begins at its frame 0, not at {layout.start}: what came before would be forgotten")
        self.layout, self.turns = layout, layout.turns
        self.context = Context()

    def placed(self, place: Place) -> "CleanHalf":
        """The same half, turned to places too; it collects into the same context."""
        half = CleanHalf(self.layout)
        half.turns, half.context = self.turns.placed(place), self.context
        return half

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotated = turned(layer, keys, self.turns.whole)
        original = rotate(keys, self.turns.place) if self.layout.moves and self.turns.place is not None else keys
        keep(self.context.layers, layer, (original, rotated, values))
        asking = turned(layer, queries, self.turns.whole)
        return attend_clip(self.layout, asking, (rotated, values), (original, rotated, values), layer)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Commits write, then read. A memory that is written from last passes knows no commits: none writes, and none reads."""
        if memory.written_from == "last pass":
            keep(self.context.told, layer, (keys, values))
            return torch.zeros_like(queries)
        chunks, tokens, turn = self.layout.chunks, self.layout.grid.tokens, self.turns.telling(memory)
        before, after = write_chunks(chunks, tokens, memory, keys, values, turn)
        keep(self.context.states, layer, before)
        return read_chunks(chunks, tokens, memory, after, queries, turn)


class NoisyHalf:
    """The denoising passes of a whole clip, or of its last chunks, at once, each chunk given its clean past."""

    def __init__(self, layout: ClipLayout, context: Context) -> None:
        self.layout, self.context, self.turns = layout, context, layout.turns

    def placed(self, place: Place) -> "NoisyHalf":
        """The same half, turned to places too."""
        half = NoisyHalf(self.layout, self.context)
        half.turns = self.turns.placed(place)
        return half

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        asking, rotated = turned(layer, queries, self.turns.whole), turned(layer, keys, self.turns.whole)
        return attend_clip(self.layout, asking, (rotated, values), self.context.layers[layer], layer)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Reads the state that the past left, and writes nothing."""
        return self.read(memory, self.context.states[layer], queries)

    def read(self, memory: RecallLayer, states: States, queries: Tensor) -> Tensor:
        """What its chunks recall from the states beside them."""
        return read_chunks(self.layout.chunks, self.layout.grid.tokens, memory, states, queries, self.turns.telling(memory))


class LastPasses:
    """The noisy half where its passes are the chunks' last: what they write into a learned memory is what later chunks read.

    `states` collects, per layer, those that the passes of each chunk read. A memory that is written from commits is read alone.
    """

    def __init__(self, half: NoisyHalf) -> None:
        if half.layout.start:
            raise ConfigError(f"last passes write from the beginning of a clip on, not from its frame {half.layout.start}")
        self.half = half
        self.states: dict[int, States] = {}

    def placed(self, place: Place) -> "LastPasses":
        """The same passes, turned to places too; they collect into the same table."""
        passes = LastPasses(self.half.placed(place))
        passes.states = self.states
        return passes

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return self.half(layer, queries, keys, values)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Each pass reads what the chunks before it wrote, then writes."""
        half = self.half
        before = half.context.states[layer] if memory.written_from == "commit" else self._write(layer, memory, keys, values)
        keep(self.states, layer, before)
        return half.read(memory, before, queries)

    def _write(self, layer: int, memory: RecallLayer, keys: Tensor, values: Tensor) -> States:
        """The frames of the real beginning enter as their commits made them, all others as these passes do."""
        parts, turn = self.half.layout, self.half.turns.telling(memory)
        real, pairs = parts.context * parts.grid.tokens, zip(self.half.context.told[layer], (keys, values), strict=True)
        entering = [torch.cat([clean[:, :, :real], noisy[:, :, real:]], dim=2) for clean, noisy in pairs]
        before, _ = write_chunks(parts.chunks, parts.grid.tokens, memory, entering[0], entering[1], turn)
        return before


def attend_clip(layout: ClipLayout, queries: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor], layer: int) -> Tensor:
    """All chunks of a clip: group by group, or one after the other where the past changes between them."""
    return attend_chunks(layout, queries, own, past, layer) if layout.changes else attend_groups(layout, queries, own, past, layer)


def attend_groups(
    layout: ClipLayout, queries: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor], layer: int
) -> Tensor:
    """The same as `attend_chunks`, many chunks to a call."""
    tokens = layout.grid.tokens
    bank, asking = Bank.of(own, past, tokens), queries.split([group.frames * tokens for group in layout.groups], dim=2)
    return torch.cat([group.attend(part, bank, layer) for group, part in zip(layout.groups, asking, strict=True)], dim=2)


def attend_chunks(
    layout: ClipLayout, queries: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor], layer: int
) -> Tensor:
    """A chunk at a time, as play does it."""
    asking, own_keys, own_values = layout.frames(queries), layout.frames(own[0]), layout.frames(own[1])
    original, rotated, past_values = (list(layout.frames(tensor)) for tensor in past)
    remembered = Past(original, rotated, past_values)
    outputs = []
    for chunk in layout.chunks:
        span = layout.span(chunk)
        for blend in chunk.blends:
            remembered.enter(blend)
        for sift in chunk.sifts:
            remembered.sift(sift, layer)
        keys, values = layout.gather(chunk, remembered, layer)
        keys.extend(own_keys[span])
        values.extend(own_values[span])
        asked = torch.cat(asking[span], dim=2)
        outputs.append(attention(asked, torch.cat(keys, dim=2), torch.cat(values, dim=2), layout.biases(chunk)))
    return torch.cat(outputs, dim=2)


def _runs(chunk: ChunkSources) -> list[tuple[int, int, int]]:
    """Sources as runs (start, stop, position - frame) of neighbouring frames that moved alike."""
    runs: list[tuple[int, int, int]] = []
    for source in chunk.sources:
        offset = source.position - source.frame
        if runs and runs[-1][1] == source.frame and runs[-1][2] == offset:
            runs[-1] = (runs[-1][0], source.frame + 1, offset)
        else:
            runs.append((source.frame, source.frame + 1, offset))
    return runs
