"""Which slot holds which frame: the integers of one row (one player). No torch here."""

from dataclasses import dataclass, field

from mutoscope.core.errors import CapacityError, ConfigError
from mutoscope.memory.policy import Chunk, Policy, Source


@dataclass(frozen=True)
class SlotSource:
    """A key source and the slot it lies in."""

    slot: int
    frame: int
    position: int


@dataclass(frozen=True)
class ChunkPlan:
    """All integers that the passes of one chunk need: what to read, where to write, at which positions.

    `sources` are the past; the chunk's own frames are written to `write_slots` by every one of its passes and
    read there too. The commit is the last pass that writes them. `evicted` are the frames that the past lost since the
    last commit, oldest first: still in their slots until this chunk's first pass, and then no more.
    """

    chunk: Chunk
    sources: tuple[SlotSource, ...]
    write_slots: tuple[int, ...]
    evicted: tuple[SlotSource, ...] = ()

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
        self.evicted += tuple(SlotSource(slot, frame, frame) for frame, slot in sorted(self.slot_of.items()) if frame not in kept)
        self.slot_of = {frame: slot for frame, slot in self.slot_of.items() if frame in kept}
        taken = set(self.slot_of.values())
        free = [slot for slot in range(self.num_slots) if slot not in taken]
        if len(free) < length:
            raise CapacityError(f"{self.num_slots} slots cannot hold {len(taken)} remembered frames and a chunk of {length}")
        placed = tuple(SlotSource(self.slot_of[source.frame], source.frame, source.position) for source in sources)
        self.open_plan = ChunkPlan(chunk, placed, tuple(free[:length]), self.evicted)
        return self.open_plan

    def commit(self) -> None:
        """The open chunk's frames become part of the past."""
        if self.open_plan is None:
            raise ConfigError("there is no open chunk to commit")
        for frame, slot in zip(self.open_plan.chunk.frames, self.open_plan.write_slots, strict=True):
            self.slot_of[frame] = slot
        self.next_frame = self.open_plan.chunk.start + self.open_plan.chunk.length
        self.open_plan, self.evicted = None, ()

    def drop_open(self) -> None:
        """Forget an open chunk that will not be finished. What its opening evicted stays evicted."""
        self.open_plan = None

    def copy(self) -> "Ledger":
        """An independent copy."""
        return Ledger(self.policy, self.num_slots, self.next_frame, dict(self.slot_of), self.open_plan, self.evicted)


@dataclass(frozen=True)
class ChunkSources:
    """What a chunk may read, in frames: the teacher-forced counterpart of a ChunkPlan."""

    chunk: Chunk
    sources: tuple[Source, ...]
    evicted: tuple[int, ...] = ()


def layout(policy: Policy, lengths: tuple[int, ...]) -> tuple[ChunkSources, ...]:
    """The key sources of every chunk of a clip, from the very ledger that streaming uses.

    Training takes visibility and positions from here, so that they are those of play.
    """
    ledger = Ledger(policy, policy.capacity(max(lengths)))
    chunks = []
    for length in lengths:
        plan = ledger.open_chunk(length)
        sources = tuple(Source(source.frame, source.position) for source in plan.sources)
        chunks.append(ChunkSources(plan.chunk, sources, tuple(source.frame for source in plan.evicted)))
        ledger.commit()
    return tuple(chunks)


def chunk_lengths(num_frames: int, chunk_frames: int, first: int = 0) -> tuple[int, ...]:
    """Cut a clip into chunks: `first` context frames one by one, then chunks of `chunk_frames`, which must divide the rest."""
    rest = num_frames - first
    if rest < 0 or rest % chunk_frames:
        raise ConfigError(f"{num_frames} frames minus {first} context frames do not divide into chunks of {chunk_frames}")
    return (1,) * first + (chunk_frames,) * (rest // chunk_frames)
