"""Which slot holds which frame: the integers of one row (one player). No torch here."""

from dataclasses import dataclass, field

from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.memory.policy import Blend, Chunk, Policy, Source, blends_of, chunk_position


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
class ChunkPlan:
    """All integers that the passes of one chunk need: what to read, where to write, at which positions.

    `sources` are the past; the chunk's own frames are written to `write_slots` by every one of its passes and
    read there too. The commit is the last pass that writes them. `evicted` are the frames that the past lost since the
    last commit, oldest first: still in their slots until this chunk's first pass, and then no more; `blends` say what
    becomes of them. The chunk's own frames stand at `position` and after it.
    """

    chunk: Chunk
    sources: tuple[SlotSource, ...]
    write_slots: tuple[int, ...]
    position: int
    evicted: tuple[SlotSource, ...] = ()
    blends: tuple[SlotBlend, ...] = ()

    @property
    def positions(self) -> range:
        """Those of the chunk's own frames."""
        return range(self.position, self.position + self.chunk.length)

    @property
    def read_slots(self) -> tuple[int, ...]:
        """Slots to read, past first, then the chunk's own."""
        return tuple(source.slot for source in self.sources) + self.write_slots


@dataclass
class Ledger:
    """The book of one row: slot -> frame. `open_chunk` plans a chunk, `commit` makes it part of the past."""

    policy: Policy
    num_slots: int
    next_frame: int = 0
    slot_of: dict[int, int] = field(default_factory=dict)
    open_plan: ChunkPlan | None = None
    evicted: tuple[SlotSource, ...] = ()
    blends: tuple[SlotBlend, ...] = ()

    def open_chunk(self, length: int) -> ChunkPlan:
        """Plan the next chunk; frames that its policy no longer reads give their slots back.

        Opening the same chunk again before its commit gives the same plan.
        """
        if self.open_plan is not None:
            if self.open_plan.chunk.length != length:
                raise ConfigError(f"a chunk of {self.open_plan.chunk.length} frames is open; commit it before opening one of {length}")
            return self.open_plan
        chunk = Chunk(self.next_frame, length)
        sources = self.policy.past(chunk, tuple(sorted(self.slot_of)))
        kept = {source.frame for source in sources}
        lost = tuple(SlotSource(slot, frame, frame) for frame, slot in sorted(self.slot_of.items()) if frame not in kept)
        blends = blends_of(self.policy, tuple(source.frame for source in lost))
        self.blends += tuple(SlotBlend(self.slot_of[blend.frame], self.slot_of[blend.heir], blend) for blend in blends)
        self.evicted += lost
        self.slot_of = {frame: slot for frame, slot in self.slot_of.items() if frame in kept}
        taken = set(self.slot_of.values())
        free = [slot for slot in range(self.num_slots) if slot not in taken]
        if len(free) < length:
            raise CapacityError(f"{self.num_slots} slots cannot hold {len(taken)} remembered frames and a chunk of {length}")
        placed = tuple(SlotSource(self.slot_of[source.frame], source.frame, source.position, source.bias) for source in sources)
        position = chunk_position(self.policy, chunk, sources)
        self.open_plan = ChunkPlan(chunk, placed, tuple(free[:length]), position, self.evicted, self.blends)
        return self.open_plan

    def commit(self) -> None:
        """The open chunk's frames become part of the past."""
        if self.open_plan is None:
            raise ConfigError("there is no open chunk to commit")
        for frame, slot in zip(self.open_plan.chunk.frames, self.open_plan.write_slots, strict=True):
            self.slot_of[frame] = slot
        self.next_frame = self.open_plan.chunk.start + self.open_plan.chunk.length
        self.open_plan, self.evicted, self.blends = None, (), ()

    def drop_open(self) -> None:
        """Forget an open chunk that will not be finished. What its opening evicted stays evicted."""
        self.open_plan = None

    def copy(self) -> "Ledger":
        """An independent copy."""
        return Ledger(self.policy, self.num_slots, self.next_frame, dict(self.slot_of), self.open_plan, self.evicted, self.blends)


@dataclass(frozen=True)
class ChunkSources:
    """What a chunk may read, in frames: the teacher-forced counterpart of a ChunkPlan. The chunk itself stands at its frames' indices."""

    chunk: Chunk
    sources: tuple[Source, ...]
    evicted: tuple[int, ...] = ()
    blends: tuple[Blend, ...] = ()


def layout(policy: Policy, lengths: tuple[int, ...]) -> tuple[ChunkSources, ...]:
    """The key sources of every chunk of a clip, from the very ledger that streaming uses.

    Training takes visibility and positions from here, so that they are those of play; where play numbers a chunk otherwise than by its
    frames' indices, its sources are moved along with it (rotary positions are relative).
    """
    ledger = Ledger(policy, policy.capacity(max(lengths)))
    chunks = []
    for length in lengths:
        plan = ledger.open_chunk(length)
        shift = plan.chunk.start - plan.position
        sources = tuple(Source(source.frame, source.position + shift, source.bias) for source in plan.sources)
        evicted, blends = tuple(source.frame for source in plan.evicted), tuple(item.blend for item in plan.blends)
        chunks.append(ChunkSources(plan.chunk, sources, evicted, blends))
        ledger.commit()
    return tuple(chunks)


def chunk_lengths(num_frames: int, chunk_frames: int, first: int = 0) -> tuple[int, ...]:
    """Cut a clip into chunks: `first` context frames one by one, then chunks of `chunk_frames`, which must divide the rest."""
    rest = num_frames - first
    if rest < 0 or rest % chunk_frames:
        raise ConfigError(f"{num_frames} frames minus {first} context frames do not divide into chunks of {chunk_frames}")
    return (1,) * first + (chunk_frames,) * (rest // chunk_frames)
