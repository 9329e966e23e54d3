"""Long sessions: bytes and work per frame stay, positions stay where training was, states fade nothing, and full stops in words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ACTIONS, ALL_POLICIES, STATEFUL, tiny_checkpoint, tiny_config, tiny_manifest, tiny_model
from grids import every_third
from mutoscope.core.errors import CapacityError
from mutoscope.core.streams import normal, numpy_stream, stream
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import Chunk, Full, Policy, PolicyConfig, SinkWindow, Source, state_of
from mutoscope.memory.store import MemoryStore
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.rollout.session import Session, SessionConfig

FRAMES, LONG, TRAINED_FRAMES = 120, 3000, 12
ENDLESS = {name: policy for name, policy in ALL_POLICIES.items() if not isinstance(policy, Full)}


def one_layer(policy: PolicyConfig, chunk: int = 1) -> Checkpoint:
    """A playable model of one layer with the learned memory that a policy wants."""
    config = tiny_config(recall=state_of(policy), num_layers=1)
    manifest = replace(tiny_manifest("matching", chunk), model=config)
    return replace(tiny_checkpoint("matching", chunk), manifest=manifest, model=freeze(tiny_model(config).float()))


def started(policy: PolicyConfig, chunk: int = 1) -> Session:
    """A session of one step per frame after its reset."""
    session = Session(one_layer(policy, chunk), SessionConfig(1, 1, policy))
    session.reset(0, 5)
    return session


def keys(frame: int) -> np.ndarray:
    """The buttons held at a frame, float32 `[dim]`."""
    return numpy_stream(0, "long keys", frame).integers(0, 2, ACTIONS.dim).astype(np.float32)


def play_to(session: Session, frame: int, watch: Callable[[Session], None] = lambda session: None) -> None:
    """Frames and their commits up to `frame`; `watch` sees the session after each."""
    while session.num_frames < frame:
        session.step(keys(session.num_frames))
        session.commit()
        watch(session)


@dataclass
class Books:
    """What a session holds: the bytes of every tensor its store has, and the entries in its books."""

    sizes: set[tuple[int, int]]

    def __call__(self, session: Session) -> None:
        store = session.store
        held = sum(value.numel() * value.element_size() for value in vars(store).values() if isinstance(value, Tensor))
        entries = len(store.positions[0]) + len(store.ledgers[0].slot_of) + len(store.ledgers[0].evicted)
        self.sizes.add((held, entries))


def holdings(policy: PolicyConfig, kind: type[MemoryStore], monkeypatch: pytest.MonkeyPatch) -> tuple[set[tuple[int, int]], int]:
    """What a session holds after each frame once it is warm, and what its policy declares."""
    monkeypatch.setattr("mutoscope.models.transformer.MemoryStore", kind)
    session, books = started(policy), Books(set())
    play_to(session, 20)
    play_to(session, FRAMES, books)
    assert session.memory_bytes == session.checkpoint.model.config.cache(policy, 1).bytes()
    return books.sizes, session.memory_bytes


@pytest.mark.parametrize("policy", ENDLESS)
def test_bytes_and_books_never_change_and_are_what_was_declared(policy, monkeypatch):
    sizes, declared = holdings(ENDLESS[policy], MemoryStore, monkeypatch)
    assert len(sizes) == 1 and {held for held, _ in sizes} == {declared}


class Hoarder(MemoryStore):
    """Twin: keeps what was evicted, a little for every frame."""

    attic = torch.zeros(0)

    def commit(self, rows):
        self.attic = torch.cat([self.attic, torch.zeros(1)])
        super().commit(rows)


def test_bytes_broken_twin_that_keeps_a_number_per_frame(monkeypatch):
    sizes, _ = holdings(ENDLESS["window"], Hoarder, monkeypatch)
    assert len(sizes) == FRAMES - 20


def distances(chunk: Chunk, sources: Iterable[Source]) -> set[int]:
    """How far behind a chunk's queries its keys stand, in frames."""
    return {query - source.position for query in chunk.frames for source in sources}


def planned_distances(policy: Policy, chunk: int, chunks: int) -> set[int]:
    """Those of a clip of one frame and some chunks, from the ledger that sessions and training use."""
    parts = layout(policy, (1,) + (chunk,) * chunks)
    return set().union(*(distances(part.chunk, part.sources) for part in parts))


def trained_distances(policy: Policy, chunk: int) -> set[int]:
    """Those of a training clip."""
    return planned_distances(policy, chunk, (TRAINED_FRAMES - 1) // chunk)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("policy", ENDLESS)
def test_keys_stand_no_further_away_than_in_a_training_clip(policy, chunk):
    assert planned_distances(ENDLESS[policy], chunk, LONG // chunk) == trained_distances(ENDLESS[policy], chunk)


def held_distances(policy: PolicyConfig) -> set[int]:
    """Those of a late chunk of a session, from where its store says that the keys it reads were rotated to."""
    session = started(policy)
    play_to(session, FRAMES)
    session.step(keys(FRAMES))
    plan = session.store.ledgers[0].open_chunk(1)
    return {plan.chunk.start - session.store.positions[0][source.slot] for source in plan.sources}


@dataclass(frozen=True)
class StillSink(SinkWindow):
    """Twin: the sink keeps the position at which it was written."""

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        return tuple(Source(source.frame, source.frame) for source in super().past(chunk, remembered))


def test_distance_broken_twins_that_grow_with_the_session():
    still = StillSink(2, 4)
    assert max(planned_distances(still, 1, LONG)) == LONG > max(trained_distances(still, 1))
    assert not planned_distances(Full(40), 1, 30) <= trained_distances(Full(40), 1)


def test_a_session_s_keys_stand_where_the_plan_says():
    assert held_distances(SinkWindow(2, 4)) <= trained_distances(SinkWindow(2, 4), 1)
    assert max(held_distances(StillSink(2, 4))) == FRAMES


def test_full_stops_at_its_capacity_in_words_and_plays_on_after_a_reset():
    session = started(Full(30))
    before = session.memory_bytes
    with pytest.raises(CapacityError, match="holds 30 frames and frame 30 does not fit; use 'window' or 'sink' to play on, or declare"):
        play_to(session, 31)
    assert session.num_frames == 30 and session.memory_bytes == before
    session.reset(1, 6)
    play_to(session, 30)
    assert session.num_frames == 30 and session.store.states.isfinite().all()


def resumed_alike(policy: PolicyConfig, forget: Callable[[dict], None] = lambda memory: None) -> bool:
    """Whether a session parked at a late frame goes on bit for bit in a fresh one."""
    session = started(policy)
    play_to(session, FRAMES)
    parked = session.snapshot()
    forget(parked.memory)
    fresh = Session(session.checkpoint, session.config)
    fresh.restore(parked)
    for resumed in (session, fresh):
        play_to(resumed, FRAMES + 8)
    return all(torch.equal(mine, theirs) for mine, theirs in zip(session.store.tensors, fresh.store.tensors, strict=True))


def zero_states(memory: dict) -> None:
    """Twin: states are not parked."""
    memory["tensors"][-1].zero_()


@pytest.mark.parametrize("policy", every_third(STATEFUL))
def test_parking_late_is_bit_exact_for_learned_memories(policy):
    assert resumed_alike(STATEFUL[policy])


def test_parking_broken_twin_without_states():
    assert not resumed_alike(STATEFUL["window+linear"], zero_states)


@pytest.mark.parametrize("policy", every_third(STATEFUL))
def test_a_state_is_finite_and_as_loud_late_as_early(policy):
    """What one query reads; a linear state itself grows, as sums do, and so does its divisor."""
    session = started(STATEFUL[policy])
    spec, memory, loud = session.store.spec, session.checkpoint.model.memories[0], []
    query = normal((1, spec.heads, spec.tokens, spec.head_dim), stream(0, "long query"))
    turn = torch.ones(spec.tokens, spec.head_dim // 2, dtype=torch.complex64)
    for frame in (FRAMES // 10, FRAMES):
        play_to(session, frame)
        with torch.no_grad():
            loud.append(float(memory.read(session.store.states[0], memory.address(query, turn)).norm()))
    assert session.store.states.isfinite().all() and loud[0] > 1e-3
    assert 0.5 < loud[1] / loud[0] < 2
