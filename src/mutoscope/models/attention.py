"""Who sees whom: one object per mode of attention. Each takes a layer's unrotated queries, keys and values.

    WholeClip   every frame sees every frame (bidirectional)
    CleanHalf   clean chunk b sees the clean sources that the policy gives it, and itself
    NoisyHalf   noisy chunk b sees the same clean sources, and itself; never another noisy chunk
    (streaming with memory is rollout.executor.Streaming: the same lists, read from a store)

Chunks are a plain loop over sliced keys: on a CPU it beats a block mask, and it is literally the streaming
computation. `[batch, head, token, head_dim]` everywhere.
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import TokenGrid
from mutoscope.memory.ledger import ChunkSources
from mutoscope.memory.policy import Blend
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate, rotations


class Attend(Protocol):
    """A mode of self-attention."""

    def placed(self, place: Tensor) -> "Attend":
        """The same mode for tokens that also stand somewhere in the world: rotations `[batch, 1, token, head_dim / 2]` (class Travel)."""
        ...

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Unrotated `[batch, head, token, head_dim]` three times -> attended values of the same shape."""
        ...

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What a learned memory adds, of the same shape. Called after the layer's attention, for models that have one."""
        ...


@dataclass
class WholeClip:
    """Bidirectional: one softmax over all frames of the clip."""

    rotation: Tensor

    def placed(self, place: Tensor) -> "WholeClip":
        """Rotations compose: one product per forward instead of a second turn in every layer."""
        return WholeClip(self.rotation * place)

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention(rotate(queries, self.rotation), rotate(keys, self.rotation), values)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Whole clips have no past to be remembered."""
        raise ConfigError("a model with a learned memory runs chunk by chunk; the bidirectional teacher has none")


@dataclass(frozen=True)
class Turns:
    """How tokens are turned: `whole` by their time and `timeless`, which is where they stand on the screen and in the world.

    `place` is by their place in the world alone (None: they have none).
    """

    whole: Tensor
    timeless: Tensor
    place: Tensor | None = None

    def placed(self, place: Tensor) -> "Turns":
        """Turned to places too."""
        return Turns(self.whole * place, self.timeless * place, place if self.place is None else self.place * place)


Frames = tuple[Tensor, ...]
FEW_KEYS = 1024


@dataclass
class ClipLayout:
    """A clip's chunks with their key sources, and the rotations of its frames; or the last chunks of a clip alone (`since`)."""

    chunks: tuple[ChunkSources, ...]
    grid: TokenGrid
    head_dim: int
    device: torch.device
    dtype: torch.dtype
    turns: Turns = field(init=False)

    def __post_init__(self) -> None:
        frames = sum(self.lengths)
        still = rotations(torch.zeros(1, device=self.device), self.grid, self.head_dim, self.dtype)
        self.turns = Turns(self.rotations(self.start, self.start + frames), still.repeat(frames, 1))

    @property
    def start(self) -> int:
        """The frame of the clip at which its first chunk begins: 0, unless it is the end of a clip."""
        return self.chunks[0].chunk.start

    def since(self, frame: int) -> "ClipLayout":
        """The chunks from `frame` on, for the noisy half alone: they keep their positions and all sources, however old.

        What entered the sinks before them has entered at their first.
        """
        rest = tuple(chunk for chunk in self.chunks if chunk.chunk.start >= frame)
        if not rest or rest[0].chunk.start != frame:
            starts = ", ".join(str(chunk.chunk.start) for chunk in self.chunks)
            raise ConfigError(f"no chunk begins at frame {frame}; the chunks of this clip begin at {starts}")
        blends = tuple(blend for chunk in self.chunks if chunk.chunk.start <= frame for blend in chunk.blends)
        return replace(self, chunks=(replace(rest[0], blends=blends), *rest[1:]))

    def rotations(self, start: int, stop: int) -> Tensor:
        """Those of frames at positions start .. stop - 1."""
        return rotations(torch.arange(start, stop, device=self.device), self.grid, self.head_dim, self.dtype)

    def span(self, chunk: ChunkSources) -> slice:
        """Where a chunk's frames stand among those of the layout."""
        first = chunk.chunk.start - self.start
        return slice(first, first + chunk.chunk.length)

    def turn(self, turns: Turns, span: slice) -> Tensor:
        """The timeless turn of frames of the layout, `[.., frames * tokens, head_dim / 2]`."""
        return turns.timeless[..., span.start * self.grid.tokens : span.stop * self.grid.tokens, :]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each chunk."""
        return tuple(chunk.chunk.length for chunk in self.chunks)

    @property
    def moves(self) -> bool:
        """True if some source is read at another position than its own, so that keys without their position are needed."""
        return any(chunk.blends or any(source.position != source.frame for source in chunk.sources) for chunk in self.chunks)

    def frames(self, x: Tensor) -> tuple[Tensor, ...]:
        """`[batch, head, token, head_dim]` as one piece per frame, cut once: a slice per use costs a zeroed whole in backward."""
        return x.split(self.grid.tokens, dim=2)

    def gather(self, chunk: ChunkSources, past: "Past") -> tuple[list[Tensor], list[Tensor]]:
        """A chunk's past keys and values in pieces: as they are where frames stand in a row, turned anew where they moved or changed."""
        keys: list[Tensor] = []
        picked: list[Tensor] = []
        original, rotated, values = past.original, past.rotated, past.values
        for start, stop, offset in _runs(chunk):
            if offset == 0 and not past.blended.intersection(range(start, stop)):
                keys.extend(rotated[start:stop])
            else:
                keys.append(rotate(torch.cat(original[start:stop], dim=2), self.rotations(start + offset, stop + offset)))
            picked.extend(values[start:stop])
        return keys, picked

    def biases(self, chunk: ChunkSources) -> Tensor | None:
        """What is added to the logits of a chunk's keys `[past and own tokens]`, None where nothing is."""
        added = [source.bias for source in chunk.sources] + [0.0] * chunk.chunk.length
        return torch.tensor(added, dtype=torch.float64, device=self.device).repeat_interleave(self.grid.tokens) if any(added) else None


@dataclass
class Past:
    """The frames of the clean half as they are remembered: unrotated keys, rotated keys, values; sinks change as blends enter them."""

    original: list[Tensor]
    rotated: list[Tensor]
    values: list[Tensor]
    blended: set[int] = field(default_factory=set)

    def enter(self, blend: Blend) -> None:
        """An evicted frame's keys and values enter its heir's."""
        for frames in (self.original, self.values):
            frames[blend.heir] = torch.lerp(frames[blend.frame], frames[blend.heir], blend.keep)
        self.blended.add(blend.heir)


@dataclass
class Context:
    """What the clean half leaves for the noisy half.

    layers  per layer: keys turned to their place but not their position, keys turned to both, and values
    states  per layer, for models with a learned memory: by its first frame, the state that each chunk's denoising passes read
    """

    layers: list[tuple[Tensor, Tensor, Tensor]]
    states: list[dict[int, Tensor]] = field(default_factory=list)

    def without_frames(self) -> "Context":
        """Keys and values without gradient; what was written into states keeps it."""
        layers = [(original.detach(), rotated.detach(), values.detach()) for original, rotated, values in self.layers]
        return Context(layers, self.states)


class CleanHalf:
    """The commit passes of a whole clip at once; collects the context that the noisy half reads."""

    def __init__(self, layout: ClipLayout) -> None:
        if layout.start:
            raise ConfigError(f"the clean past of a clip begins at its frame 0, not at {layout.start}: what came before would be forgotten")
        self.layout, self.turns = layout, layout.turns
        self.context = Context([])

    def placed(self, place: Tensor) -> "CleanHalf":
        """The same half, turned to places too; it collects into the same context."""
        half = CleanHalf(self.layout)
        half.turns, half.context = self.turns.placed(place), self.context
        return half

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotated = rotate(keys, self.turns.whole)
        original = rotate(keys, self.turns.place) if self.layout.moves and self.turns.place is not None else keys
        self.context.layers.append((original, rotated, values))
        return _attend_chunks(self.layout, rotate(queries, self.turns.whole), (rotated, values), (original, rotated, values))

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Writes chunk after chunk as play does: what was evicted when a chunk opens, or the chunk itself when it is committed."""
        parts, at_commit = self.layout, memory.written_at == "commit"
        asking, own_keys, own_values = parts.frames(queries), parts.frames(keys), parts.frames(values)
        with torch.autocast(queries.device.type, enabled=False):
            state, before, outputs = memory.start(queries.shape[0]), {}, []
            for chunk in parts.chunks:
                for frame in () if at_commit else chunk.evicted:
                    state = memory.write(state, own_keys[frame], own_values[frame], parts.turn(self.turns, slice(frame, frame + 1)))
                before[chunk.chunk.start], span = state, parts.span(chunk)
                turn = parts.turn(self.turns, span)
                if at_commit:
                    state = memory.write(state, torch.cat(own_keys[span], dim=2), torch.cat(own_values[span], dim=2), turn)
                outputs.append(memory.read(state, torch.cat(asking[span], dim=2), turn))
        self.context.states.append(before)
        return torch.cat(outputs, dim=2)


class NoisyHalf:
    """The denoising passes of a whole clip, or of its last chunks, at once, each chunk given its clean past."""

    def __init__(self, layout: ClipLayout, context: Context) -> None:
        self.layout, self.context, self.turns = layout, context, layout.turns

    def placed(self, place: Tensor) -> "NoisyHalf":
        """The same half, turned to places too."""
        half = NoisyHalf(self.layout, self.context)
        half.turns = self.turns.placed(place)
        return half

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rotated = rotate(keys, self.turns.whole)
        return _attend_chunks(self.layout, rotate(queries, self.turns.whole), (rotated, values), self.context.layers[layer])

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Reads the state that the clean past left, and writes nothing."""
        parts, outputs, asking = self.layout, [], self.layout.frames(queries)
        with torch.autocast(queries.device.type, enabled=False):
            for chunk in parts.chunks:
                state, span = self.context.states[layer][chunk.chunk.start], parts.span(chunk)
                outputs.append(memory.read(state, torch.cat(asking[span], dim=2), parts.turn(self.turns, span)))
        return torch.cat(outputs, dim=2)


def _attend_chunks(layout: ClipLayout, queries: Tensor, own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    asking, own_keys, own_values = layout.frames(queries), layout.frames(own[0]), layout.frames(own[1])
    original, rotated, past_values = (list(layout.frames(tensor)) for tensor in past)
    remembered = Past(original, rotated, past_values)
    outputs = []
    for chunk in layout.chunks:
        span = layout.span(chunk)
        for blend in chunk.blends:
            remembered.enter(blend)
        keys, values = layout.gather(chunk, remembered)
        keys.extend(own_keys[span])
        values.extend(own_values[span])
        asked = torch.cat(asking[span], dim=2)
        outputs.append(attention(asked, torch.cat(keys, dim=2), torch.cat(values, dim=2), layout.biases(chunk)))
    return torch.cat(outputs, dim=2)


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v by the library's kernel, but in bfloat16 training on a CPU by two products, which are faster there.

    They keep all scores for the backward pass, hence for few keys only.
    """
    few = queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and keys.shape[2] <= FEW_KEYS
    if few and queries.requires_grad:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        scores = scores if bias is None else scores + bias.to(scores)
        return scores.softmax(-1, dtype=queries.dtype) @ values
    mask = None if bias is None else bias.to(queries).expand(queries.shape[-2], -1)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


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
