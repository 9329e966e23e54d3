"""Single tokens that heads choose: by hand, and what a store holds after it."""

import pytest
import torch

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.choosing import Different, Participative
from mutoscope.memory.contents import slot_contents
from mutoscope.memory.sifting import NEW, best_tokens, note_changes, sifted, token_change, token_participation
from mutoscope.memory.store import CacheSpec, MemoryStore
from mutoscope.models.scorers import TokenParticipation

ROW = slice(0, 1)


def test_what_recent_queries_attend_to_by_hand():
    """Two tokens of one head; the queries of two recent frames add up to (3, 1)."""
    keys = torch.tensor([[[1.0, 0.0]], [[0.0, -2.0]]])
    queries = torch.tensor([[[1.0, 0.0]], [[2.0, 1.0]]])
    assert token_participation(keys, queries).tolist() == [[3.0], [-2.0]]


def test_change_by_hand():
    """Turned by nothing, by a right angle, round; lengths do not count."""
    now, before = torch.tensor([[1.0, 0.0], [0.0, 5.0], [2.0, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    assert token_change(now, before).tolist() == pytest.approx([0.0, 1.0, 2.0])


def test_the_best_are_in_order_and_of_equal_ones_the_older():
    worth = torch.tensor([[1.0, 5.0, 1.0, 1.0], [0.0, 1.0, 2.0, 3.0]])
    assert best_tokens(worth, 2).tolist() == [[0, 1], [2, 3]]


def test_every_head_gives_its_own_tokens():
    tokens = torch.arange(8.0).view(2, 4, 1)
    assert sifted(tokens, torch.tensor([[0, 3], [1, 2]])).flatten().tolist() == [0, 3, 5, 6]
    assert torch.equal(sifted(tokens[None], torch.tensor([[0, 3], [1, 2]]))[0], sifted(tokens, torch.tensor([[0, 3], [1, 2]])))


def filled(policy: Participative | Different, frames: int) -> MemoryStore:
    """A store of one layer, two heads and three tokens; the values say of every token whose it is: 10 * frame + place."""
    store = MemoryStore(CacheSpec(1, 2, 12, 3, policy, max_chunk=1), scorer=TokenParticipation(12), dtype=torch.float64)
    for frame in range(frames):
        plan = store.choose_chunk(0, 1, torch.zeros(1))
        keys = normal((1, 2, 3, 12), stream(0, "sifting test", frame), torch.float64)
        values = (10.0 * frame + torch.arange(3.0)).double()[None, None, :, None].expand(1, 2, 3, 12)
        store.write(0, ROW, plan.write_slots, keys, keys, values)
        if store.spec.noted_slots:
            note_changes(store, 0, ROW, plan)
        else:
            store.note_layer(0, ROW, plan.write_slots, normal((1, 1, 1, 2, 12), stream(1, "sifting test", frame), torch.float64))
        store.note_positions(0, plan)
        store.commit(ROW)
    return store


def held(store: MemoryStore, frame: int) -> list[list[int]]:
    """Whose tokens lie in a frame's slot, head by head, as 10 * frame + place."""
    return store.values[0, 0, :, store.span(store.ledgers[0].slot_of[frame]), 0].int().tolist()


@pytest.mark.parametrize("policy", [Participative(4, 1, 1, 2), Different(5, 1, "tokens")], ids=["participative", "different"])
def test_a_mosaic_holds_what_was_picked_from_where_it_stood(policy):
    store = filled(policy, 6)
    plan = store.choose_chunk(0, 1, torch.zeros(1))
    (item,) = plan.sifts
    assert item.heirs == item.frames[: len(item.heirs)] and store.ledgers[0].mosaics == set(item.heirs)
    for place, heir in enumerate(item.heirs):
        picked = item.picks[0, :, 3 * place : 3 * place + 3].tolist()
        slot = store.span(store.ledgers[0].slot_of[heir])
        if policy.criterion == "tokens' participation":  # none was chosen before: the candidates are whole frames
            assert held(store, heir) == [[10 * item.frames[number // 3] + number % 3 for number in row] for row in picked]
        assert (store.homes[0, 0, :, slot] == store.values[0, 0, :, slot, 0] % 10).all()
    rows = [held(store, heir) for heir in item.heirs]
    assert all(sorted(sum(per_head, [])) == sum(per_head, []) for per_head in zip(*rows, strict=True)), "in the order of time"
    assert len({tuple(map(tuple, row)) for row in zip(*rows, strict=True)}) == 2, "heads choose for themselves"


def test_the_first_frame_is_new_and_what_repeats_goes_first():
    """All frames are alike but for one token of frame 3: what is kept of four older frames in two slots is frame 0, and that token."""
    store = MemoryStore(CacheSpec(1, 1, 12, 3, Different(4, 1, "tokens"), max_chunk=1), dtype=torch.float64)
    same = normal((1, 1, 3, 12), stream(2, "sifting test"), torch.float64)
    for frame in range(6):
        plan, keys = store.choose_chunk(0, 1, torch.zeros(1)), same.clone()
        keys[:, :, 1] *= -1 if frame == 3 else 1
        store.write(0, ROW, plan.write_slots, keys, keys, torch.full_like(keys, frame))
        note_changes(store, 0, ROW, plan)
        store.note_positions(0, plan)
        store.commit(ROW)
    slots, values = store.ledgers[0].slot_of, store.values[0, 0, 0, :, 0]
    assert sorted(slots) == [0, 1, 4, 5] or sorted(slots) == [0, 1, 2, 5], "heirs are the first candidates"
    assert values[store.span(slots[0])].tolist() == [0, 0, 0]
    mosaic = [frame for frame in slots if frame in store.ledgers[0].mosaics and frame][0]
    kept = values[store.span(slots[mosaic])].tolist()
    assert 3.0 in kept and store.changes[0, 0, 0, store.span(slots[0])].tolist() == [NEW] * 3


def test_the_strip_says_what_is_a_mosaic_and_bytes_count_marks():
    store = filled(Different(5, 1, "tokens"), 9)
    told = slot_contents(store)
    assert {content.kind for content in told} == {"mosaic", "frame"} and sum(content.bytes for content in told) == store.bytes
    plain = CacheSpec(1, 2, 12, 3, Different(5, 1), 1)
    marks = store.spec.bytes() + 5 * plain.note_bytes - plain.bytes()
    assert marks == 5 * 2 * 3 * (4 + 4)


def test_tokens_that_nobody_picked_are_refused():
    store = filled(Participative(4, 1, 1, 2), 6)
    with pytest.raises(ConfigError, match="open its chunks where its scorer is asked"):
        store.ledgers[0].open_chunk(1, store.ledgers[0].candidates(1))
