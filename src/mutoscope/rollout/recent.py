"""The newest chunks of a session, kept so that they can be committed once more under another prompt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from mutoscope.memory.head_store import AnyStore
from mutoscope.models.conditions import Conditions

RECOMMITTED_FRAMES = 12
"""As many are committed again at a change of the prompt (LongLive, 2509.22622, KV re-cache)."""


@dataclass(frozen=True)
class RecentChunk:
    """A committed chunk: it began at frame `start`, its clean latents `[row, frame, C, H, W]`, its conditions."""

    start: int
    latents: Tensor
    conditions: Conditions

    @property
    def stop(self) -> int:
        """The frame after it."""
        return self.start + self.latents.shape[1]


class RecentChunks:
    """The newest chunks of at most `frames` frames in all."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.chunks: tuple[RecentChunk, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of their latents."""
        return sum(chunk.latents.numel() * chunk.latents.element_size() for chunk in self.chunks)

    def add(self, chunk: RecentChunk) -> None:
        """A chunk that was just committed; the oldest go."""
        if self.frames:
            self.chunks = tuple(item for item in (*self.chunks, chunk) if item.start >= chunk.stop - self.frames)

    def still_whole(self, store: AnyStore, rows: slice) -> Sequence[RecentChunk]:
        """Those of them, without a gap up to the newest, that the memory of these rows still holds as they were committed."""
        kept: list[RecentChunk] = []
        for chunk in reversed(self.chunks):
            if not all(ledger.is_whole(frame) for ledger in _ledgers(store, rows) for frame in range(chunk.start, chunk.stop)):
                break
            kept.insert(0, chunk)
        return kept


def _ledgers(store: AnyStore, rows: slice) -> Iterator:
    return (ledger for part in store.parts for ledger in part.ledgers[rows])
