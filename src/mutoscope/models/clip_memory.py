"""A learned memory along a whole clip: written chunk after chunk as play does it, read by all chunks at once."""

import torch
from torch import Tensor

from mutoscope.memory.ledger import ChunkSources
from mutoscope.models.recall import RecallLayer

States = dict[int, Tensor]
"""By the first frame of a chunk: the state beside it."""
Chunks = tuple[ChunkSources, ...]
MOST_STATES = 1 << 26  # numbers in the states that are read at once


def write_chunks(chunks: Chunks, tokens: int, memory: RecallLayer, keys: Tensor, values: Tensor, turn: Tensor) -> tuple[States, States]:
    """The states that each chunk's passes find, and those that it leaves, from the clip's `[B, head, frames * tokens, D]` keys and values.

    What was evicted enters as a chunk opens, or the chunk itself as it is made. `chunks` begin at the clip's frame 0.
    """
    before, after = {}, {}
    with torch.autocast(keys.device.type, enabled=False):
        state, write = memory.start(keys.shape[0]), memory.writer()
        told, what = memory.address(keys, turn).split(tokens, dim=2), values.to(state.dtype).split(tokens, dim=2)
        for chunk in chunks:
            for frame in chunk.evicted if memory.written_at == "eviction" else ():
                state = write(state, told[frame], what[frame])
            before[chunk.chunk.start], span = state, slice(chunk.chunk.start, chunk.chunk.start + chunk.chunk.length)
            if memory.written_at == "chunk":
                state = write(state, torch.cat(told[span], dim=2), torch.cat(what[span], dim=2))
            after[chunk.chunk.start] = state
    return before, after


def read_chunks(chunks: Chunks, tokens: int, memory: RecallLayer, states: States, queries: Tensor, turn: Tensor) -> Tensor:
    """What every chunk recalls, each from its own state: neighbours of one length at once, as rows of a batch."""
    batch, outputs, start = queries.shape[0], [], 0
    with torch.autocast(queries.device.type, enabled=False):
        asking = memory.address(queries, turn)
        for run in _alike(chunks, MOST_STATES // states[chunks[0].chunk.start].numel()):
            stop = start + sum(chunk.chunk.length for chunk in run) * tokens
            state = torch.stack([states[chunk.chunk.start] for chunk in run], dim=1).flatten(0, 1)
            asked = asking[:, :, start:stop].unflatten(2, (len(run), -1)).transpose(1, 2).flatten(0, 1)
            outputs.append(memory.read(state, asked).unflatten(0, (batch, len(run))).transpose(1, 2).flatten(2, 3))
            start = stop
    return torch.cat(outputs, dim=2).to(queries.dtype)


def _alike(chunks: Chunks, most: int) -> list[list[ChunkSources]]:
    """Runs of at most `most` (at least 1) neighbouring chunks of one length."""
    runs: list[list[ChunkSources]] = []
    for chunk in chunks:
        if runs and runs[-1][0].chunk.length == chunk.chunk.length and len(runs[-1]) < most:
            runs[-1].append(chunk)
        else:
            runs.append([chunk])
    return runs
