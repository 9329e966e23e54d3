"""What lies in each slot of a store: the ledger's integers beside the bytes they stand for. No torch is imported here."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mutoscope.memory.choosing import Different, Retrieval
from mutoscope.memory.policy import AnyPolicy, sinks_of

if TYPE_CHECKING:
    from mutoscope.memory.head_store import AnyStore
    from mutoscope.memory.store import MemoryStore

SlotKind = Literal["frame", "sink", "chosen", "mosaic", "open", "empty", "state", "archive"]
# What stands behind the slots: it has bytes, but no frame of its own.
BESIDE_SLOTS: tuple[SlotKind, ...] = ("state", "archive")


@dataclass(frozen=True)
class SlotContent:
    """One slot: the frame in it and how many frames old that is (None where there is none), and the bytes that it takes.

    sink     a frame that stays
    chosen   a frame that is older than the window, there for what is in it
    mosaic   tokens of several frames, every head's own choice, under the number of one that gave some
    open     a frame of the chunk that is being denoised; its commit makes it part of the past
    empty    a slot that nothing reads; its bytes are allocated all the same
    state    a learned memory's state: no frame, no age, the same bytes for ever; its number is that after the last slot
    archive  what is kept on the host, with the bytes that it takes there; likewise
    """

    slot: int
    kind: SlotKind
    frame: int | None
    age: int | None
    bytes: int


def slot_contents(store: "AnyStore", row: int = 0) -> tuple[SlotContent, ...]:
    """Every slot of a row in the order in which attention reads them: past, the open chunk's own; empty ones; what stands beside.

    Ages count back from the newest frame, which is the open chunk's last or the last one committed. Where head groups remember different
    frames, group follows group, their slots numbered through: a frame may lie in several, each with the bytes of its heads.
    """
    told: list[SlotContent] = []
    first = 0
    for part in store.parts:
        told += [replace(content, slot=first + content.slot) for content in _contents_of(part, row)]
        first += part.spec.slots
    return tuple(told)


def shelved_frames(store: "AnyStore", row: int = 0) -> set[int]:
    """Frames of a row that lie on the host, from where they may come back."""
    return {frame for part in store.parts for frame in part.ledgers[row].shelf_of}


def most_frames(store: "AnyStore", row: int = 0) -> int:
    """For how many frames a row has slots and shelves."""
    return sum(part.ledgers[row].num_slots + part.ledgers[row].num_shelves for part in store.parts)


def _contents_of(store: "MemoryStore", row: int) -> tuple[SlotContent, ...]:
    """Those of one head group."""
    ledger, plan = store.ledgers[row], store.ledgers[row].open_plan
    if plan is None:
        past = [(ledger.slot_of[frame], frame) for frame in sorted(ledger.slot_of)]
        own: list[tuple[int, int]] = []
        newest = ledger.next_frame - 1
    else:
        past = [(source.slot, source.frame) for source in plan.sources]
        own = list(zip(plan.write_slots, plan.chunk.frames, strict=True))
        newest = plan.chunk.frames[-1]

    def content(slot: int, kind: SlotKind, frame: int | None) -> SlotContent:
        return SlotContent(slot, kind, frame, None if frame is None else newest - frame, store.spec.slot_bytes(slot, store.dtype))

    def kind(frame: int) -> SlotKind:
        return "mosaic" if frame in ledger.mosaics else kind_of(store.spec.policy, frame, newest - frame)

    remembered = [content(slot, kind(frame), frame) for slot, frame in past]
    opened = [content(slot, "open", frame) for slot, frame in own]
    taken = {slot for slot, _ in (*past, *own)}
    empty = [content(slot, "empty", None) for slot in range(ledger.num_slots) if slot not in taken]
    size = store.spec.state_bytes(store.dtype) // store.spec.rows
    state = [SlotContent(ledger.num_slots, "state", None, None, size)] if size else []
    archived = store.archive.bytes // store.spec.rows
    archive = [SlotContent(ledger.num_slots, "archive", None, None, archived)] if archived else []
    return (*remembered, *opened, *empty, *state, *archive)


def kind_of(policy: AnyPolicy, frame: int, age: int) -> SlotKind:
    """What a remembered frame is to its policy."""
    if frame < sinks_of(policy):
        return "sink"
    match policy:
        case Retrieval(window=window) | Different(frames=window) if age >= window:
            return "chosen"
    return "frame"
