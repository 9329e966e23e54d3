"""Sessions whose memory chooses by content: parked bit for bit, of constant size on device and host, each row for itself."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ACTIONS, CHOOSING, tiny_checkpoint, tiny_config, tiny_manifest, tiny_model
from mutoscope.core.streams import numpy_stream
from mutoscope.memory.choosing import Participative, Retrieval
from mutoscope.memory.contents import slot_contents
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.ledger import Ledger
from mutoscope.memory.policy import ContentConfig
from mutoscope.memory.store import MemoryStore
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.rollout.session import Session, SessionConfig, SessionState, step_together

WARM, FRAMES, WAY = 18, 34, 8


def for_one_layer(policy: ContentConfig) -> ContentConfig:
    """Archives of six or seven frames of one layer in float32; one layer's heads."""
    match policy:
        case Retrieval():
            return replace(policy, host_mib=0.02)
        case HeadWise():
            return replace(policy, heads=((1,),))
    return policy


SMALL = {name: for_one_layer(policy) for name, policy in CHOOSING.items()}


def one_layer(chunk: int) -> Checkpoint:
    """A playable model of one layer."""
    config = tiny_config(num_layers=1)
    manifest = replace(tiny_manifest("matching", chunk), model=config)
    return replace(tiny_checkpoint("matching", chunk), manifest=manifest, model=freeze(tiny_model(config).float()))


def started(policy: ContentConfig, chunk: int = 1, seed: int = 5) -> Session:
    """A session of one step per frame after its reset."""
    session = Session(one_layer(chunk), SessionConfig(1, 1, policy))
    session.reset(0, seed)
    return session


def keys(frame: int, taste: int = 0) -> np.ndarray:
    """What is done at a frame, float32 `[dim]`: a way there, the same way back, and so on, so that places come again."""
    there, step = divmod(frame, WAY)
    sign, step = (-1, WAY - 1 - step) if there % 2 else (1, step)
    return sign * numpy_stream(taste, "keys", step).integers(0, 2, ACTIONS.dim).astype(np.float32)


def play(session: Session, frame: int, taste: int = 0) -> np.ndarray:
    """Pictures up to `frame`; every other chunk is committed at once, the rest by the next step."""
    pictures = []
    while session.num_frames < frame:
        pictures.append(session.step(keys(session.num_frames, taste)))
        if session.num_frames % 2:
            session.commit()
    return np.concatenate(pictures)


def resumes(session: Session, parked: SessionState, frames: int) -> bool:
    """Whether a fresh session goes on from `parked` exactly as `session` does."""
    fresh = Session(session.checkpoint, session.config)
    fresh.restore(parked)
    alike = np.array_equal(play(session, frames), play(fresh, frames))
    parts = list(zip(session.store.parts, fresh.store.parts, strict=True))
    pairs = [pair for one, other in parts for pair in zip(held_by(one), held_by(other), strict=True)]
    return alike and all(torch.equal(*pair) for pair in pairs) and all(one.ledgers == other.ledgers for one, other in parts)


def held_by(store: MemoryStore) -> list[Tensor]:
    """All that one head group's store holds."""
    return [*store.tensors, *store.archive.tensors]


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("policy", SMALL)
def test_parking_is_bit_exact(policy, chunk):
    session = started(SMALL[policy], chunk)
    for frame in (6, 17):
        play(session, frame)
        assert resumes(session, session.snapshot(), frame + 7)


@pytest.mark.parametrize("policy", SMALL)
def test_parking_broken_twins_that_forget_notes_or_shelves(policy):
    for forgotten in ("tensors", "archive"):
        session = started(SMALL[policy])
        play(session, 16)
        parked = session.snapshot()
        # Behind keys, values, originals and two scales lie notes, homes of tokens and their changes; an archive has notes of its own.
        for part in parked.memory.get("parts", [parked.memory]):
            for tensor in (part["tensors"][5], part["tensors"][7]) if forgotten == "tensors" else part["archive"]:
                tensor.normal_(generator=torch.Generator().manual_seed(1))
        assert resumes(session, parked, 26) == (forgotten == "archive" and not isinstance(SMALL[policy], Retrieval))


@pytest.mark.parametrize("policy", [name for name, rule in SMALL.items() if rule.criterion.startswith("tokens'")])
def test_parking_broken_twin_that_forgets_where_tokens_stood(policy):
    session = started(SMALL[policy])
    play(session, 16)
    parked = session.snapshot()
    for part in parked.memory.get("parts", [parked.memory]):
        part["tensors"][6].zero_()
    assert not resumes(session, parked, 26)


def holdings(session: Session) -> tuple[int, ...]:
    """Bytes on device and host, and the entries of the books."""
    parts = session.store.parts
    held = sum(value.numel() * value.element_size() for store in parts for value in vars(store).values() if isinstance(value, Tensor))
    ledgers = [store.ledgers[0] for store in parts]
    books = [book for ledger in ledgers for book in (ledger.slot_of, ledger.shelf_of, ledger.evicted, ledger.blends, ledger.sifts)]
    archived = sum(tensor.untyped_storage().nbytes() for store in parts for tensor in store.archive.tensors)
    return held, archived, *(len(store.positions[0]) for store in parts), *map(len, books)


def late_holdings(policy: ContentConfig) -> set[tuple[int, ...]]:
    """What a session holds after each frame once it is warm; the cache of a participative memory fills and empties in its turn."""
    session, found = started(policy), set()
    play(session, WARM)
    for frame in range(WARM, FRAMES):
        play(session, frame + 1)
        session.commit()
        found.add(holdings(session))
    return found


@pytest.mark.parametrize("policy", SMALL)
def test_bytes_and_books_never_grow_and_are_what_was_declared(policy):
    rule, found = SMALL[policy], late_holdings(SMALL[policy])
    spec = one_layer(1).model.config.cache(rule, 1)
    assert {held[:2] for held in found} == {(spec.bytes(), spec.host_bytes())}
    assert len(found) == (rule.room if isinstance(rule, Participative) else 1)


class Hoarder(Ledger):
    """Twin: a shelf for every frame that was ever given back."""

    def _shelve(self, lost):
        self.shelf_of |= {source.frame: 0 for source in lost}
        return ()


def test_books_broken_twin_that_grow(monkeypatch):
    monkeypatch.setattr("mutoscope.memory.store.Ledger", Hoarder)
    assert len(late_holdings(SMALL["place"])) > 10


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("policy", SMALL)
def test_no_key_stands_further_away_than_there_are_slots(policy, chunk):
    session, distances, old = started(SMALL[policy], chunk), set(), set()
    while session.num_frames < FRAMES:
        play(session, session.num_frames + chunk)
        for store in session.store.parts:
            plan, known = store.ledgers[0].open_plan, store.positions[0]
            if plan is not None:
                distances |= {plan.chunk.frames[-1] - known[source.slot] for source in plan.sources}
                old |= {plan.chunk.start - source.frame for source in plan.sources}
    assert max(distances) < session.store.spec.slots <= max(old)


@dataclass(frozen=True)
class Players:
    """The same players, as rows of one session or as sessions of their own."""

    policy: ContentConfig

    def rows(self, count: int) -> np.ndarray:
        """Rows of one session."""
        session = Session(one_layer(1), SessionConfig(1, 1, self.policy), rows=count)
        session.reset(0, 5)
        pictures = [session.step_rows(np.stack([keys(frame, row)[None] for row in range(count)])) for frame in range(14)]
        return np.concatenate(pictures, axis=1)

    def together(self, count: int) -> np.ndarray:
        """Sessions that share forwards; each is given its row's seed."""
        rows = Session(one_layer(1), SessionConfig(1, 1, self.policy), rows=count)
        rows.reset(0, 5)
        sessions = [Session(rows.checkpoint, rows.config) for _ in range(count)]
        for session, seed in zip(sessions, rows.seeds, strict=True):
            session.reset(0, 5)
            session.seeds = (seed,)
        steps = [step_together(sessions, [keys(frame, row)[None, None] for row in range(count)]) for frame in range(14)]
        return np.concatenate([np.concatenate(step) for step in steps], axis=1)


@pytest.mark.parametrize("policy", SMALL)
def test_rows_are_players_of_their_own(policy):
    players = Players(SMALL[policy])
    three = players.rows(3)
    assert np.abs(three.astype(int) - players.together(3)).max() <= 1
    assert np.abs(three[:1].astype(int) - players.rows(1)).max() <= 1 and (three[0] != three[1]).any()


def test_the_strip_tells_what_came_back_and_what_lies_on_the_host():
    session = started(SMALL["place"])
    play(session, 20)
    told = slot_contents(session.store)
    plan = session.store.ledgers[0].open_plan
    assert plan is not None and [content.frame for content in told[:5]] == [source.frame for source in plan.sources]
    assert [content.kind for content in told] == ["chosen"] * 2 + ["frame"] * 3 + ["open", "archive"]
    assert told[-1].bytes == session.host_bytes > 0 and sum(content.bytes for content in told[:-1]) == session.memory_bytes
    session = started(SMALL["participative"])
    play(session, 20)
    kinds = [content.kind for content in slot_contents(session.store)]
    assert kinds.count("sink") == 1 and "archive" not in kinds and session.host_bytes == 0


def test_choosing_counts_as_time_spent_on_memory():
    session = started(SMALL["similarity"])
    before = session.store.moving_seconds
    play(session, 12)
    assert session.store.moving_seconds > before > 0
