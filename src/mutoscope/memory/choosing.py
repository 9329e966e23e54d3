"""Memory policies that choose frames by what is in them. They stay integers: a scorer beside the store hands them ranks. No torch here.

Such a policy names the candidates among which content must choose, and those frames that ask; the scorer (memory.scoring) compares what
the store has noted of them and returns the candidates best first. It happens when a chunk opens and holds for all of its passes.
What was chosen stands in the chunk's plan, and so in a rollout's record: a replay never chooses again.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from mutoscope.core.errors import ConfigError, choose
from mutoscope.memory.frames import Chunk, Source, at_least_one, fits

Criterion = Literal[
    "participation", "tokens' participation", "similarity", "place", "repetition", "difference", "tokens' change", "nothing"
]
Nearness = Literal["similarity", "place"]
Grain = Literal["tokens", "frames"]
"""What is chosen: single tokens, by every head of every layer for itself, or whole frames, alike in all of them."""
MIB = 2**20


class Chooser(Protocol):
    """A policy that needs to be told which frames are best."""

    @property
    def criterion(self) -> Criterion:
        """What a scorer compares frames by."""
        ...

    def capacity(self, max_chunk: int) -> int:
        """Slots needed in all, the chunk's own included, when no chunk is longer than `max_chunk`."""
        ...

    def candidates(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The frames to be ranked before `chunk`; none where all of them fit, so that nothing need be compared."""
        ...

    def asking(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The frames against which the candidates are held; none where it is the chunk's own place."""
        ...

    def heirs(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The first of the candidates, as many as there is room for, whose slots take the tokens that are chosen; none where frames are."""
        ...

    def past(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        """Ordered key sources of `chunk` among the frames still remembered, given the candidates, best first."""
        ...


@dataclass(frozen=True)
class Participative:
    """Deep sinks, the newest frames, and between them those tokens to which recent queries attend most (Deep Forcing, 2512.05081).

    The cache fills up to `budget + room` slots, the chunk's own included: 21, Wan's training length. When a chunk would not fit, it is
    compressed at the chunk's first denoising step: the first `sink` frames stay, the newest `recent` stay, and of the tokens between them
    the best `budget - sink - recent` frames' worth by `sum over the recent frames' queries of q.k`. They fill slots in their order; what is
    left is placed anew, in order, right before the chunk. The queries are those of the recent frames' commits.

    With grain "frames" whole frames are chosen instead, by scores summed over their tokens, over layers and heads.
    """

    budget: int = 16
    recent: int = 4
    sink: int = 10
    room: int = 5
    grain: Grain = "tokens"

    def __post_init__(self) -> None:
        check_grain(self.grain, self.recent)
        for name in ("budget", "recent", "room"):
            at_least_one(name, getattr(self, name))
        if self.sink < 0 or self.sink + self.recent > self.budget:
            raise ConfigError(
                f"a memory 'participative' of {self.budget} frames cannot keep {self.sink} sinks and {self.recent} recent ones; "
                "write it like participative=16,recent=4,sink=10,room=5"
            )

    @classmethod
    def of_frames(cls, frames: int) -> "Participative":
        """`frames` in all, shared out as published where that leaves a frame to choose."""
        room = min(-(-frames * 5 // 21), frames - 1)
        budget = frames - room
        recent = max(1, round(frames * 4 / 21))
        return cls(budget, recent, max(0, min(round(frames * 10 / 21), budget - recent - 1)), room)

    @property
    def criterion(self) -> Criterion:
        """By how much recent queries attend to them."""
        return "tokens' participation" if self.grain == "tokens" else "participation"

    def capacity(self, max_chunk: int) -> int:
        """`budget + room` slots."""
        if max_chunk > self.room:
            raise ConfigError(f"a memory 'participative' with room for {self.room} cannot hold a chunk of {max_chunk}; give it more room")
        return self.budget + self.room

    def _parts(self, remembered: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Sinks, what lies between, and the recent frames."""
        sinks = tuple(frame for frame in remembered if frame < self.sink)
        rest = remembered[len(sinks) :]
        return sinks, rest[: -self.recent], rest[-self.recent :]

    def _is_full(self, chunk: Chunk, remembered: tuple[int, ...]) -> bool:
        return len(remembered) + chunk.length > self.budget + self.room

    def candidates(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """All but the sinks and the recent frames, when the cache is full."""
        between = self._parts(remembered)[1]
        return between if self._is_full(chunk, remembered) and self.budget > self.sink + self.recent else ()

    def asking(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The recent frames."""
        return remembered[-self.recent :]

    def heirs(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """As many as the budget leaves between sinks and recent frames."""
        return self.candidates(chunk, remembered)[: self.budget - self.sink - self.recent] if self.grain == "tokens" else ()

    def past(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        """In order and without gaps, so that no distance exceeds the cache."""
        kept = remembered
        if self._is_full(chunk, remembered):
            sinks, _, recent = self._parts(remembered)
            chosen = self.heirs(chunk, remembered) or sorted(ranks[: self.budget - self.sink - self.recent])
            kept = (*sinks, *chosen, *recent)
        first = chunk.start - len(kept)
        return tuple(Source(frame, first + place) for place, frame in enumerate(kept))


@dataclass(frozen=True)
class Retrieval:
    """A window, and before it those frames that left it and suit best, brought back from an archive on the host.

    Frames that leave the window go to the archive: unrotated keys and values of all layers, within `host_mib` MiB per player; when it is
    full, the oldest frames leave it for good. Before each chunk the best `recalled` frames outside the window are chosen anew:

        similarity  the cosine between a frame's mean key, unrotated, and that of the newest frame, averaged over layers and heads
        place       where its camera stood, seen from where the chunk's last frame will stand; only for models that reckon places (travel)

    Ties go to the newer frame. Frames brought back stand in order right before the window, turned from their unrotated originals, so that
    no distance exceeds the slots. The archive keeps them meanwhile: a frame that is given back is not stored twice.
    """

    recalled: int = 8
    window: int = 13
    by: Nearness = "similarity"
    host_mib: float = 256.0

    def __post_init__(self) -> None:
        at_least_one("recalled", self.recalled)
        at_least_one("window", self.window)
        choose({name: name for name in get_args(Nearness)}, self.by, "way to choose what is brought back")
        if not self.host_mib > 0:
            raise ConfigError(f"a memory 'retrieval' needs host_mib above 0, got {self.host_mib}")

    @classmethod
    def of_frames(cls, frames: int) -> "Retrieval":
        """`frames` in all, a third of them brought back."""
        recalled = max(1, frames // 3)
        return cls(recalled, frames - recalled)

    @property
    def criterion(self) -> Criterion:
        """As named."""
        return self.by

    @property
    def host_bytes(self) -> int:
        """What one player's archive may take."""
        return int(self.host_mib * MIB)

    def capacity(self, max_chunk: int) -> int:
        """`recalled + window` slots; the archive is none of them."""
        return self.recalled + fits(self.window, max_chunk, "retrieval")

    def _outside(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        return remembered[: max(0, len(remembered) - (self.window - chunk.length))]

    def candidates(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """All frames outside the window, when they are more than can be brought back."""
        outside = self._outside(chunk, remembered)
        return outside if len(outside) > self.recalled else ()

    def asking(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The newest frame, or none where places are compared."""
        return remembered[-1:] if self.by == "similarity" else ()

    def heirs(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """None: frames come back whole."""
        return ()

    def past(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        """What is brought back, then the newest `window - chunk.length` frames."""
        outside = self._outside(chunk, remembered)
        window = remembered[len(outside) :]
        chosen = tuple(sorted(ranks[: self.recalled])) if len(outside) > self.recalled else outside
        first = chunk.start - len(window) - len(chosen)
        return tuple(Source(frame, first + place) for place, frame in enumerate((*chosen, *window)))


@dataclass(frozen=True)
class Merging:
    """A cache in which frames that repeat the one before them merge into it, so that what changes is remembered longer (TempCache).

    When a chunk would not fit into `frames` slots, its own included, those of the older frames merge that are most like their
    predecessors: the cosine between mean keys, unrotated, averaged over layers and heads. The newest `recent` never do. Keys (unrotated)
    and values are averaged, each frame counting as often as frames are in it, and log(count) is added to the logits: exact where the keys
    are the same, an approximation elsewhere. What is left is placed anew, in order, right before the chunk.

    Published is a merge of single tokens along time. Slots hold whole frames here, so frames merge whole.
    """

    frames: int = 21
    recent: int = 4

    def __post_init__(self) -> None:
        holds_others("merging", self.frames, self.recent)

    @classmethod
    def of_frames(cls, frames: int) -> "Merging":
        """`frames` in all, a fifth of them never merged."""
        return cls(frames, _a_fifth(frames))

    @property
    def criterion(self) -> Criterion:
        """By how much they repeat what came before."""
        return "repetition"

    def capacity(self, max_chunk: int) -> int:
        """`frames` slots; the recent frames and another must fit beside a chunk."""
        return holds_chunk("merging", self.frames, self.recent, max_chunk)

    def candidates(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """All that have a predecessor but the recent ones, when the cache is full."""
        return remembered[1 : len(remembered) - self.recent] if len(remembered) + chunk.length > self.frames else ()

    def asking(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """The predecessors are among them all."""
        return remembered

    def heirs(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """None: frames merge whole."""
        return ()

    def past(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        """All but those that merge, in order and without gaps."""
        gone = ranks[: max(0, len(remembered) + chunk.length - self.frames)]
        kept = [frame for frame in remembered if frame not in gone]
        return tuple(Source(frame, chunk.start - len(kept) + place) for place, frame in enumerate(kept))


@dataclass(frozen=True)
class Different:
    """The newest frames, and of the older ones those that differ most from what is kept: variety in place of age.

    When a chunk would not fit into `frames` slots, its own included, the newest `recent` stay, and then, one after the other, the frame
    that is least like the most similar of all that stay already (farthest-first traversal: the largest smallest difference). Alike are
    frames by the cosine between mean keys, unrotated, averaged over layers and heads; of equal frames the newer goes. What is left is
    placed anew, in order, right before the chunk.

    With grain "tokens" every head keeps those tokens of the older frames that differed most from what stood at their place one frame
    before: 1 - the cosine of their keys, as they are remembered. Nothing stood before the first frame: its tokens differ by 2, the most.
    """

    frames: int = 21
    recent: int = 4
    grain: Grain = "frames"

    def __post_init__(self) -> None:
        check_grain(self.grain, self.recent)
        holds_others("different", self.frames, self.recent)

    @classmethod
    def of_frames(cls, frames: int) -> "Different":
        """`frames` in all, a fifth of them the newest."""
        return cls(frames, _a_fifth(frames))

    @property
    def criterion(self) -> Criterion:
        """By how much frames differ from what is kept, or tokens from what stood there."""
        return "tokens' change" if self.grain == "tokens" else "difference"

    def capacity(self, max_chunk: int) -> int:
        """`frames` slots; the recent frames and another must fit beside a chunk."""
        return holds_chunk("different", self.frames, self.recent, max_chunk)

    def _is_full(self, chunk: Chunk, remembered: tuple[int, ...]) -> bool:
        return len(remembered) + chunk.length > self.frames

    def _older(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        return remembered[: len(remembered) - self.recent]

    def candidates(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """All but the recent frames, when the cache is full."""
        return self._older(remembered) if self._is_full(chunk, remembered) else ()

    def asking(self, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """All: candidates are held against the recent frames and against each other. Tokens were, when their frame was committed."""
        return () if self.grain == "tokens" else remembered

    def heirs(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[int, ...]:
        """As many as there is room for beside the recent frames and the chunk."""
        return self.candidates(chunk, remembered)[: self._room(chunk)] if self.grain == "tokens" else ()

    def _room(self, chunk: Chunk) -> int:
        return self.frames - self.recent - chunk.length

    def past(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        """The most different of the older frames, then the recent ones, in order and without gaps."""
        kept = remembered
        if self._is_full(chunk, remembered):
            chosen = self.heirs(chunk, remembered) or sorted(ranks[: self._room(chunk)])
            kept = (*chosen, *remembered[len(self._older(remembered)) :])
        return tuple(Source(frame, chunk.start - len(kept) + place) for place, frame in enumerate(kept))


def check_grain(grain: str, recent: int) -> None:
    """Refuse an unknown grain, and tokens that have no whole frame beside them to be held against."""
    choose({name: name for name in get_args(Grain)}, grain, "grain of a memory that chooses")
    if grain == "tokens":
        at_least_one("recent", recent)


def holds_others(name: str, frames: int, recent: int) -> None:
    """Refuse a cache that has no slot beside its recent frames and a chunk."""
    if recent < 0 or frames < recent + 2:
        raise ConfigError(f"a memory '{name}' of {frames} frames cannot keep {recent} recent ones and another beside a chunk")


def holds_chunk(name: str, frames: int, recent: int, max_chunk: int) -> int:
    """`frames`, of which the recent ones, another and the longest chunk take a part."""
    if frames < recent + 1 + max_chunk:
        raise ConfigError(f"a memory '{name}' of {frames} frames, {recent} of them recent, cannot hold a chunk of {max_chunk}; add some")
    return frames


def _a_fifth(frames: int) -> int:
    """How many of `frames` are recent ones, 4 of 21, where that leaves room for another and a chunk of one."""
    return min(max(1, round(frames * 4 / 21)), max(0, frames - 2))
