"""Memories in which attention heads remember different frames: to each head what it looks at. Integers alone, no torch."""

from dataclasses import dataclass

from mutoscope.core.errors import ConfigError
from mutoscope.memory.choosing import Criterion, Different, Grain, check_grain, holds_chunk, holds_others
from mutoscope.memory.frames import at_least_one, fits

HeadTable = tuple[tuple[int, ...], ...]
"""Heads of each layer, in order."""


@dataclass(frozen=True)
class HeadWise:
    """Static heads keep sinks and the newest frames, dynamic heads the most different ones (head groups of Forcing-KV, 2605.09681).

    Some heads attend to sinks, the last frames and the chunk itself, whatever is shown: `static` of every layer, to which `sink` + `window`
    frames suffice. The others look further back and have `frames`, the newest `recent` among them (class Different): of the older ones each
    head keeps the tokens that differed most from the frame before theirs, or with grain "frames" all keep the same frames. `heads` names
    the static ones of every layer (models.static_heads finds them); without it they are the first ones of each.
    """

    static: int
    sink: int = 1
    window: int = 6
    frames: int = 21
    recent: int = 4
    heads: HeadTable = ()
    grain: Grain = "tokens"

    def __post_init__(self) -> None:
        at_least_one("sink", self.sink)
        at_least_one("window", self.window)
        holds_others("head-wise", self.frames, self.recent)
        check_grain(self.grain, self.recent)
        if self.static < 0:
            raise ConfigError(f"a memory 'head-wise' cannot have {self.static} static heads")
        broken = [row for row in self.heads if not row or len(row) != self.static or sorted({*row}) != [*row] or row[0] < 0]
        if broken:
            raise ConfigError(f"a memory 'head-wise' of {self.static} static heads needs as many in order for every layer, got {broken[0]}")

    @classmethod
    def of_frames(cls, frames: int) -> "HeadWise":
        """One static head of a third of `frames`, at least one sink and one more; the others have all. Two frames are chosen whole."""
        recent = Different.of_frames(frames).recent
        return cls(1, 1, max(1, frames // 3 - 1), frames, recent, grain="tokens" if recent else "frames")

    @property
    def dynamic(self) -> Different:
        """The memory of the dynamic heads."""
        return Different(self.frames, self.recent, self.grain)

    @property
    def criterion(self) -> Criterion:
        """What the dynamic heads go by."""
        return self.dynamic.criterion

    def capacity(self, max_chunk: int) -> int:
        """Slots of the larger group."""
        return max(self.sink + fits(self.window, max_chunk, "head-wise"), holds_chunk("head-wise", self.frames, self.recent, max_chunk))

    def groups(self, layers: int, heads: int) -> tuple[HeadTable, HeadTable]:
        """Static and dynamic heads of every layer of a model; a table of another model is a ConfigError."""
        static = self.heads or (tuple(range(self.static)),) * layers
        if len(static) != layers or self.static > heads or any(head >= heads for row in static for head in row):
            raise ConfigError(
                f"this memory 'head-wise' has {self.static} static heads{f' in {len(static)} layers' if self.heads else ''}, "
                f"and the model {layers} layers of {heads} heads: name heads that it has"
            )
        return static, tuple(tuple(head for head in range(heads) if head not in row) for row in static)
