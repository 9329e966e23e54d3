"""Which slot holds which frame: the integers of one row (one player). No torch here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different, Merging, Participative, Retrieval
from mutoscope.memory.frames import Sift
from mutoscope.memory.heads import HeadTable
from mutoscope.memory.policy import (
    AnyMemory,
    AnyPolicy,
    Blend,
    CacheConfig,
    ChoosingConfig,
    Chunk,
    ContentConfig,
    EmaSink,
    Source,
    blends_of,
    chunk_position,
    policy_name,
    training_base,
)


@dataclass(frozen=True)
class SlotSource:
    """A key source and the slot it lies in."""

    slot: int
    frame: int
    position: int
    bias: float = 0.0


@dataclass(frozen=True)
class SlotBlend:
    """A blend (class Blend) and the slots of both frames."""

    slot: int
    heir_slot: int
    blend: Blend


@dataclass(frozen=True)
class Transfer:
    """A frame that goes from its slot to a shelf of the archive on the host, or back."""

    frame: int
    slot: int
    shelf: int


@dataclass(frozen=True)
class ChunkPlan:
    """All integers that the passes of one chunk need: what to read, where to write, at which positions.

    `sources` are the past; the chunk's own frames are written to `write_slots` by every one of its passes and
    read there too. The commit is the last pass that writes them. `evicted` are the frames that the past lost since the
    last commit, oldest first: still in their slots until this chunk's first pass, and then no more; `blends` say what
    becomes of them. The chunk's own frames stand at `position` and after it.
    Where frames are kept on the host as well: `recalled` come back into slots when the chunk opens, `stored` go there.
    `sifts` are the choices of single tokens since the last commit, carried out when the chunk opens.
    """

    chunk: Chunk
    sources: tuple[SlotSource, ...]
    write_slots: tuple[int, ...]
    position: int
    evicted: tuple[SlotSource, ...] = ()
    blends: tuple[SlotBlend, ...] = ()
    recalled: tuple[Transfer, ...] = ()
    stored: tuple[Transfer, ...] = ()
    sifts: tuple[Sift, ...] = ()

    @property
    def positions(self) -> range:
        """Those of the chunk's own frames."""
        return range(self.position, self.position + self.chunk.length)

    @property
    def read_slots(self) -> tuple[int, ...]:
        """Slots to read, past first, then the chunk's own."""
        return tuple(source.slot for source in self.sources) + self.write_slots

    @property
    def parts(self) -> tuple["ChunkPlan", ...]:
        """All heads follow it."""
        return (self,)


@dataclass(frozen=True)
class HeadPlan:
    """A chunk of a memory whose head groups remember different frames: a plan for each, and which heads of every layer follow it."""

    groups: tuple[HeadTable, ...]
    parts: tuple[ChunkPlan, ...]

    @property
    def chunk(self) -> Chunk:
        """The same for all groups."""
        return self.parts[0].chunk


AnyPlan = ChunkPlan | HeadPlan


@dataclass
class Ledger:
    """The book of one row: where each frame lies (slot, shelf), how many merged into it, whose slot holds chosen tokens (`mosaics`),
    at which frames the prompt was switched (`marks`).

    Nothing is written into slots `in_use`. `open_chunk` plans a chunk, `commit` keeps it.
    """

    policy: AnyPolicy
    num_slots: int
    next_frame: int = 0
    slot_of: dict[int, int] = field(default_factory=dict)
    open_plan: ChunkPlan | None = None
    evicted: tuple[SlotSource, ...] = ()
    blends: tuple[SlotBlend, ...] = ()
    num_shelves: int = 0
    shelf_of: dict[int, int] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    sifts: tuple[Sift, ...] = ()
    mosaics: frozenset[int] = frozenset()
    marks: tuple[int, ...] = ()
    in_use: frozenset[int] = frozenset()

    @property
    def remembered(self) -> tuple[int, ...]:
        """Frames in slots or on shelves, oldest first."""
        return tuple(sorted(self.slot_of.keys() | self.shelf_of.keys()))

    def candidates(self, length: int) -> tuple[int, ...]:
        """The frames to be ranked before a chunk of `length` is opened; none where nothing is to be chosen, or a chunk is open."""
        if self.open_plan is not None or not isinstance(self.policy, ChoosingConfig):
            return ()
        return self.policy.candidates(Chunk(self.next_frame, length), self.remembered)

    def heirs(self, length: int) -> tuple[int, ...]:
        """The candidates whose slots take what is chosen, where that is single tokens."""
        if self.open_plan is not None or not isinstance(self.policy, ChoosingConfig):
            return ()
        return self.policy.heirs(Chunk(self.next_frame, length), self.remembered)

    def open_chunk(self, length: int, ranks: tuple[int, ...] = (), picks: Any = None) -> ChunkPlan:
        """Plan the next chunk; frames that its policy no longer reads give their slots back. `ranks` are the candidates, best first.

        Where single tokens are chosen, `picks` says which (class Sift), and the ranks are the candidates in any order. Opening the same
        chunk again before its commit gives the same plan.
        """
        if self.open_plan is not None:
            if self.open_plan.chunk.length != length:
                raise ConfigError(f"a chunk of {self.open_plan.chunk.length} frames is open; commit it before opening one of {length}")
            return self.open_plan
        chunk = Chunk(self.next_frame, length)
        sources = self._past(chunk, ranks, picks)
        self._sift(chunk, picks)
        kept = {source.frame for source in sources}
        lost = tuple(SlotSource(slot, frame, frame) for frame, slot in sorted(self.slot_of.items()) if frame not in kept)
        blends = self._merged(lost) if isinstance(self.policy, Merging) else blends_of(self.policy, tuple(source.frame for source in lost))
        self.blends += tuple(SlotBlend(self.slot_of[blend.frame], self.slot_of[blend.heir], blend) for blend in blends)
        self.evicted += lost
        held = {frame: slot for frame, slot in self.slot_of.items() if frame in kept}
        taken = {*held.values(), *self.in_use}
        free = [slot for slot in range(self.num_slots) if slot not in taken]
        back = sorted(kept - held.keys())
        if len(free) < len(back) + length:
            raise CapacityError(f"{self.num_slots} slots cannot hold {len(kept)} remembered frames and a chunk of {length}")
        recalled = tuple(Transfer(frame, slot, self.shelf_of[frame]) for frame, slot in zip(back, free, strict=False))
        self.slot_of = held | {item.frame: item.slot for item in recalled}
        stored = self._shelve(lost)
        placed = self._placed(sources)
        position, own = chunk_position(self.policy, chunk, sources), tuple(free[len(back) : len(back) + length])
        self.open_plan = ChunkPlan(chunk, placed, own, position, self.evicted, self.blends, recalled, stored, self.sifts)
        return self.open_plan

    def _sift(self, chunk: Chunk, picks: Any) -> None:
        """Note a choice of tokens, before anything is given up."""
        if picks is not None and isinstance(self.policy, ChoosingConfig):
            remembered = self.remembered
            item = Sift(self.policy.candidates(chunk, remembered), self.policy.heirs(chunk, remembered), picks)
            self.sifts += (item,)
            self.mosaics = (self.mosaics - set(item.frames)) | set(item.heirs)

    def _past(self, chunk: Chunk, ranks: tuple[int, ...], picks: Any) -> tuple[Source, ...]:
        policy, remembered = self.policy, self.remembered
        if not isinstance(policy, ChoosingConfig):
            return self._reads(chunk, remembered, ranks)
        if set(ranks) != set(policy.candidates(chunk, remembered)) or (picks is None) == bool(policy.heirs(chunk, remembered)):
            raise ConfigError("this memory chooses by content: open its chunks where its scorer is asked (MemoryStore.choose_chunk)")
        return self._reads(chunk, remembered, ranks)

    def _reads(self, chunk: Chunk, remembered: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[Source, ...]:
        match self.policy:
            case Anchored():
                return self.policy.past_switches(chunk, remembered, self.marks)
            case Participative() | Retrieval() | Merging() | Different():
                return self.policy.past(chunk, remembered, ranks)
        return self.policy.past(chunk, remembered)

    def _placed(self, sources: tuple[Source, ...]) -> tuple[SlotSource, ...]:
        return tuple(SlotSource(self.slot_of[source.frame], source.frame, source.position, self._bias(source)) for source in sources)

    def _merged(self, lost: tuple[SlotSource, ...]) -> tuple[Blend, ...]:
        """Every lost frame merges into its predecessor, the newest first, so that a row of them ends in the first."""
        remembered, blends = self.remembered, []
        for frame in sorted((source.frame for source in lost), reverse=True):
            heir = remembered[remembered.index(frame) - 1]
            own, other = self.counts.get(heir, 1), self.counts.pop(frame, 1)
            self.counts[heir] = own + other
            blends.append(Blend(frame, heir, own / (own + other)))
        return tuple(blends)

    def _bias(self, source: Source) -> float:
        """A source's own bias, and that of the frames that merged into it."""
        return source.bias + math.log(self.counts.get(source.frame, 1))

    def _shelve(self, lost: tuple[SlotSource, ...]) -> tuple[Transfer, ...]:
        """The archive keeps the newest of what it had and what comes; what it has already stays on its shelf."""
        coming = {source.frame: source.slot for source in lost if source.frame not in self.shelf_of}
        if not self.num_shelves or not coming:
            return ()
        newest = set(sorted((*self.shelf_of, *coming))[-self.num_shelves :])
        self.shelf_of = {frame: shelf for frame, shelf in self.shelf_of.items() if frame in newest}
        taken = set(self.shelf_of.values())
        free = (shelf for shelf in range(self.num_shelves) if shelf not in taken)
        stored = tuple(Transfer(frame, coming[frame], next(free)) for frame in sorted(coming.keys() & newest))
        self.shelf_of.update({item.frame: item.shelf for item in stored})
        return stored

    def is_whole(self, frame: int) -> bool:
        """Whether a frame lies in a slot as it was committed: no other frame merged into it, and no token left it."""
        blended = isinstance(self.policy, EmaSink) and frame < self.policy.sink
        return frame in self.slot_of and frame not in self.mosaics and self.counts.get(frame, 1) == 1 and not blended

    def rewrite(self, chunk: Chunk) -> ChunkPlan:
        """A plan to commit remembered frames once more, into the slots they lie in, given what is still there of the time before them."""
        if self.open_plan is not None or not all(map(self.is_whole, chunk.frames)):
            raise ConfigError(
                f"frames {chunk.start} .. {chunk.frames[-1]} cannot be committed again: they do not lie in the cache as they were"
            )
        sources = self._reads(chunk, tuple(sorted(frame for frame in self.slot_of if frame < chunk.start)), ())
        own = tuple(self.slot_of[frame] for frame in chunk.frames)
        return ChunkPlan(chunk, self._placed(sources), own, chunk_position(self.policy, chunk, sources))

    def mark_switch(self) -> None:
        """The next frame is the first under another prompt: some policies keep it longer."""
        if isinstance(self.policy, Anchored):
            self.marks = (*self.marks, self.next_frame)[-self.policy.switches :]

    def commit(self) -> None:
        """The open chunk's frames become part of the past."""
        if self.open_plan is None:
            raise ConfigError("there is no open chunk to commit")
        for frame, slot in zip(self.open_plan.chunk.frames, self.open_plan.write_slots, strict=True):
            self.slot_of[frame] = slot
        self.next_frame = self.open_plan.chunk.start + self.open_plan.chunk.length
        self.open_plan, self.evicted, self.blends, self.sifts = None, (), (), ()

    def open_ahead(self, length: int) -> ChunkPlan:
        """Commit the open chunk in the book before its pass was run, and open the next one in slots that this pass does not read."""
        if self.open_plan is None:
            raise ConfigError("there is no open chunk to commit beside the next one")
        self.in_use = frozenset(self.open_plan.read_slots)
        self.commit()
        try:
            return self.open_chunk(length)
        finally:
            self.in_use = frozenset()

    def drop_open(self) -> None:
        """Forget an open chunk that will not be finished. What its opening evicted stays evicted."""
        self.open_plan = None

    def copy(self) -> "Ledger":
        """An independent copy."""
        return replace(self, slot_of=dict(self.slot_of), shelf_of=dict(self.shelf_of), counts=dict(self.counts))


def agreed(plans: list[ChunkPlan]) -> ChunkPlan:
    """The plan of rows that remember the same frames."""
    if any(plan != plans[0] for plan in plans):
        raise ConfigError("these rows remember different frames; open their chunks one by one")
    return plans[0]


@dataclass(frozen=True)
class ChunkSources:
    """What a chunk may read, in frames: the teacher-forced counterpart of a ChunkPlan. The chunk itself stands at its frames' indices."""

    chunk: Chunk
    sources: tuple[Source, ...]
    evicted: tuple[int, ...] = ()
    blends: tuple[Blend, ...] = ()
    sifts: tuple[Sift, ...] = ()


@dataclass(frozen=True)
class HeadSources:
    """What the chunks of a row may read, head group by head group (class HeadPlan)."""

    groups: tuple[HeadTable, ...]
    parts: tuple[tuple[ChunkSources, ...], ...]


RowSources = tuple[ChunkSources, ...] | HeadSources


def layout(policy: AnyMemory, lengths: tuple[int, ...]) -> tuple[ChunkSources, ...]:
    """The key sources of every chunk of a clip, from the very ledger that streaming uses.

    Training takes visibility and positions from here, so that they are those of play. What content decides, a clip without a rollout
    cannot know: such policies are refused.
    """
    if isinstance(policy, ContentConfig):
        raise ConfigError(
            f"the memory '{policy_name(policy)}' chooses frames by their content while it plays, and clips of data are not played; "
            f"train under {described(training_base(policy))}, then play or match under '{policy_name(policy)}'"
        )
    ledger, plans = Ledger(policy, policy.capacity(max(lengths))), []
    for length in lengths:
        plans.append(ledger.open_chunk(length))
        ledger.commit()
    return tuple(map(sources_of, plans))


def sources_of(plan: ChunkPlan) -> ChunkSources:
    """A plan in frames. Where play numbers a chunk otherwise than by its frames' indices, its sources are moved along with it.

    Rotary positions are relative, so that this changes nothing.
    """
    shift = plan.chunk.start - plan.position
    sources = tuple(Source(source.frame, source.position + shift, source.bias) for source in plan.sources)
    blends = tuple(item.blend for item in plan.blends)
    return ChunkSources(plan.chunk, sources, tuple(source.frame for source in plan.evicted), blends, plan.sifts)


def row_sources(plans: Sequence[AnyPlan]) -> RowSources:
    """The plans of a row's chunks in frames."""
    parts = tuple(tuple(map(sources_of, group)) for group in zip(*(plan.parts for plan in plans), strict=True))
    return HeadSources(plans[0].groups, parts) if isinstance(plans[0], HeadPlan) else parts[0]


def described(policy: CacheConfig) -> str:
    """A policy's name and sizes: `'sink' (sink=10, window=11)`."""
    sizes = ", ".join(f"{name}={value}" for name, value in vars(policy).items())
    return f"'{policy_name(policy)}' ({sizes})"


def chunk_lengths(num_frames: int, chunk_frames: int, first: int = 0) -> tuple[int, ...]:
    """Cut a clip into chunks: `first` context frames one by one, then chunks of `chunk_frames`, which must divide the rest."""
    rest = num_frames - first
    if rest < 0 or rest % chunk_frames:
        raise ConfigError(f"{num_frames} frames minus {first} context frames do not divide into chunks of {chunk_frames}")
    return (1,) * first + (chunk_frames,) * (rest // chunk_frames)
