"""A memory that remembers where prompts began. Integers alone, no torch."""

from dataclasses import dataclass

from mutoscope.core.errors import ConfigError
from mutoscope.memory.frames import Chunk, Source, at_least_one, fits


@dataclass(frozen=True)
class Anchored:
    """Sinks, the first `anchor` frames after each of the last `switches` changes of the prompt, and the newest frames.

    Anchors and the three regions of positions are those of Anchor Forcing (2603.13405), whose caches hold more than this.

    An anchor stands in the window like any frame until the window leaves it behind. Then the cache has three regions, sinks, anchors and
    window, one right before the other, so that no distance grows beyond all three; the window's own positions never change. Without a
    change of the prompt, as in training clips, it is `sink`.
    """

    sink: int = 3
    anchor: int = 3
    window: int = 9
    switches: int = 1

    def __post_init__(self) -> None:
        for name in ("anchor", "window", "switches"):
            at_least_one(name, getattr(self, name))
        if self.sink < 0:
            raise ConfigError(f"a memory 'anchored' needs a sink of 0 frames or more, got {self.sink}")

    @classmethod
    def of_frames(cls, frames: int) -> "Anchored":
        """A fifth of `frames` are sinks, and as many anchors, at least one."""
        sink, anchor = frames // 5, max(1, frames // 5)
        return cls(sink, anchor, frames - sink - anchor)

    def capacity(self, max_chunk: int) -> int:
        """`sink + anchor * switches + window` slots."""
        return self.sink + self.anchor * self.switches + fits(self.window, max_chunk, "anchored")

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Where the prompt never changed."""
        return self.past_switches(chunk, remembered, ())

    def past_switches(self, chunk: Chunk, remembered: tuple[int, ...], switches: tuple[int, ...]) -> tuple[Source, ...]:
        """Given the frames at which the last prompts began."""
        keep = self.window - chunk.length
        others = [frame for frame in remembered if frame >= self.sink]
        recent = others[-keep:] if keep > 0 else []
        anchors = [frame for frame in others if frame not in recent and any(0 <= frame - start < self.anchor for start in switches)]
        kept = [*(frame for frame in remembered if frame < self.sink), *anchors]
        first = recent[0] if recent else chunk.start
        moved = [Source(frame, first - len(kept) + place) for place, frame in enumerate(kept)]
        return (*moved, *(Source(frame, frame) for frame in recent))
