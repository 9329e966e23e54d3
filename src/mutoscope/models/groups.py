"""Chunks of a clip that attend at once. A chunk at a time is a call per chunk; where frames have few tokens, the calls are all the cost.

Neighbouring chunks of one length read equally many frames but at a clip's beginning, and under a full memory. A group lists for each of its
chunks the frames that it reads as indices into the clip; shorter lists are filled up with frames that nobody sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.core.shapes import TokenGrid
from mutoscope.memory.ledger import ChunkSources
from mutoscope.models.rope import rotations, turned
from mutoscope.models.softmax import attention

MOST_KEYS = 1 << 16  # tokens that the chunks of a group read together: what is gathered is a copy
MOST_FILLING = 1.25  # keys gathered over keys read
HIDDEN = float("-inf")


@dataclass(frozen=True)
class Group:
    """`chunks` neighbouring chunks of `length` frames.

    moved    `[chunks * columns]` frames that are read at other positions than their own, and `turns` to these positions
    kept     `[chunks * columns]` frames that are read where they stand, the chunk's own last
    bias     `[1, chunks, 1, keys]`, None where nothing is added
    """

    chunks: int
    length: int
    moved: Tensor
    turns: Tensor
    kept: Tensor
    bias: Tensor | None

    @property
    def frames(self) -> int:
        """Frames of all its chunks."""
        return self.chunks * self.length

    def attend(self, queries: Tensor, bank: "Bank", layer: int) -> Tensor:
        """A layer's queries of its frames `[batch, head, frames * tokens, head_dim]` -> what they read, of the same shape."""
        keys, values = self._cut(bank.keys, self.kept), self._cut(bank.values, self.kept)
        if self.moved.numel():
            moved = turned(layer, bank.originals.index_select(2, self.moved).flatten(2, 3), self.turns)
            keys = torch.cat([moved.view(*keys.shape[:2], -1, keys.shape[-1]), keys], dim=2)
            values = torch.cat([self._cut(bank.values, self.moved), values], dim=2)
        asking = queries.reshape(-1, self.chunks, queries.shape[2] // self.chunks, queries.shape[3])
        return attention(asking, keys, values, self.bias).view(queries.shape)

    def _cut(self, frames: Tensor, indices: Tensor) -> Tensor:
        """The frames that each chunk reads, `[batch * head, chunk, token, head_dim]`."""
        return frames.index_select(2, indices).view(-1, self.chunks, indices.numel() // self.chunks * frames.shape[3], frames.shape[4])


@dataclass(frozen=True)
class Bank:
    """What groups pick from, `[batch, head, frame, token, head_dim]`: the past's frames, then the clip's own.

    `originals` are the past's keys without their positions; keys and values are those of both.
    """

    originals: Tensor
    keys: Tensor
    values: Tensor

    @staticmethod
    def of(own: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor, Tensor], tokens: int) -> "Bank":
        """From a clip's rotated keys and values and the past's unrotated, rotated keys and values, `[batch, head, token, head_dim]`."""
        cut = (-1, tokens)
        originals, keys, values = (tensor.unflatten(2, cut) for tensor in past)
        return Bank(originals, torch.cat([keys, own[0].unflatten(2, cut)], dim=2), torch.cat([values, own[1].unflatten(2, cut)], dim=2))


def group_chunks(
    chunks: Sequence[ChunkSources], grid: TokenGrid, head_dim: int, device: torch.device, dtype: torch.dtype
) -> tuple[Group, ...]:
    """Cut a clip's chunks, or its last ones, into groups that read no more than MOST_FILLING times what each would read alone."""
    runs = chunk_runs(chunks, grid.tokens)
    own = chunks[-1].chunk.frames.stop - chunks[0].chunk.start  # frames of the past, less those before the first chunk
    return tuple(_group(run, own, grid, head_dim, device, dtype) for run in runs)


def chunk_runs(chunks: Sequence[ChunkSources], tokens: int) -> list[list[ChunkSources]]:
    """Neighbouring chunks that attend together, for frames of `tokens` tokens."""
    runs: list[list[ChunkSources]] = []
    for chunk in chunks:
        if runs and _fits([*runs[-1], chunk], tokens):
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs


def _fits(run: list[ChunkSources], tokens: int) -> bool:
    read = len(run) * max(map(reads_of, run))
    alike = len({chunk.chunk.length for chunk in run}) == 1
    return alike and read <= MOST_FILLING * sum(map(reads_of, run)) and read * tokens <= MOST_KEYS


def reads_of(chunk: ChunkSources) -> int:
    """Frames that a chunk reads, its own among them."""
    return len(chunk.sources) + chunk.chunk.length


def _moved(chunk: ChunkSources) -> int:
    """Leading sources up to the last one that is read at another position than its own."""
    return max((place + 1 for place, source in enumerate(chunk.sources) if source.position != source.frame), default=0)


def _group(run: list[ChunkSources], own: int, grid: TokenGrid, head_dim: int, device: torch.device, dtype: torch.dtype) -> Group:
    """`own`: what is added to the number of a chunk's own frame to find it in the bank."""
    moved = max(map(_moved, run))
    kept = max(map(reads_of, run)) - moved - run[0].chunk.length
    rows = [_row(chunk, moved, kept, own) for chunk in run]
    moved_frames, positions, kept_frames = (torch.tensor([row[part] for row in rows], device=device) for part in range(3))
    biases = torch.tensor([row[3] for row in rows], dtype=torch.float64, device=device)
    turns = rotations(positions.flatten().long(), grid, head_dim, dtype)
    bias = biases.repeat_interleave(grid.tokens, dim=1)[None, :, None] if bool(biases.any()) else None
    return Group(len(run), run[0].chunk.length, moved_frames.flatten().long(), turns, kept_frames.flatten().long(), bias)


def _row(chunk: ChunkSources, moved: int, kept: int, own: int) -> tuple[list[int], list[int], list[int], list[float]]:
    """One chunk's part of a group: moved frames, their positions, kept frames, biases. What fills it up is hidden from all."""
    here = [own + frame for frame in chunk.chunk.frames]
    head, tail = chunk.sources[:moved], chunk.sources[moved:]
    no_head, no_tail = moved - len(head), kept - len(tail)
    return (
        [source.frame for source in head] + [0] * no_head,
        [source.position for source in head] + [0] * no_head,
        [source.frame for source in tail] + [here[0]] * no_tail + here,
        [source.bias for source in head] + [HIDDEN] * no_head + [source.bias for source in tail] + [HIDDEN] * no_tail + [0.0] * len(here),
    )
