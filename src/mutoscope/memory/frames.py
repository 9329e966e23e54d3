"""The words that memory policies speak in: frames, chunks, key sources. Integers alone, no torch."""

from dataclasses import dataclass
from typing import Any, Protocol

from mutoscope.core.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """One frame of keys and values that a pass may read: which frame, at which temporal position, with what added to its logits."""

    frame: int
    position: int
    bias: float = 0.0


@dataclass(frozen=True)
class Blend:
    """What becomes of an evicted frame: its unrotated keys and its values enter those of `heir`, which keeps a share `keep` of its own."""

    frame: int
    heir: int
    keep: float


@dataclass(frozen=True, eq=False)
class Sift:
    """Of the tokens of `frames`, side by side, those that were picked go into `heirs`, the first of these frames; the rest is forgotten.

    `picks` is what a scorer chose, handed on as it is: int64 `[layer, head, heirs * tokens]`, rising for every head of every layer.
    """

    frames: tuple[int, ...]
    heirs: tuple[int, ...]
    picks: Any

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sift) or (self.frames, self.heirs) != (other.frames, other.heirs):
            return False
        return bool((self.picks == other.picks).all())


@dataclass(frozen=True)
class Chunk:
    """The frames `start .. start + length - 1` that are denoised together, at positions equal to their indices."""

    start: int
    length: int

    @property
    def frames(self) -> range:
        """Their indices."""
        return range(self.start, self.start + self.length)


class Policy(Protocol):
    """Decides from integers alone what a chunk's passes may read, for denoising and for its commit alike."""

    def capacity(self, max_chunk: int) -> int:
        """Slots needed in all, the chunk's own included, when no chunk is longer than `max_chunk`."""
        ...

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        """Ordered key sources of `chunk` among the frames still remembered. What it leaves out is evicted for good."""
        ...


def at_least_one(name: str, value: int) -> None:
    """Refuse a size of a memory policy that is below 1."""
    if value < 1:
        raise ConfigError(f"a memory policy needs {name} of at least 1, got {value}")


def fits(window: int, max_chunk: int, name: str) -> int:
    """`window`, which must hold the longest chunk."""
    if max_chunk > window:
        raise ConfigError(f"a memory '{name}' of {window} frames cannot hold a chunk of {max_chunk}; make the window longer")
    return window
