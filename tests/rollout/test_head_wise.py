"""Head-wise memories in streams: groups of all heads are the plain memories, rows and memories share forwards, heads find their way."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from fakes import CHOOSING, STATEFUL, model_for, tiny_conditions, tiny_latents, tiny_model
from listed import HeadPlayer, list_player
from mutoscope.core.errors import ConfigError
from mutoscope.memory import head_store as head_stores
from mutoscope.memory.choosing import Different, Grain
from mutoscope.memory.head_store import HeadStore
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.policy import PolicyConfig, SinkWindow, Window
from mutoscope.models import heads as head_room
from mutoscope.models.heads import HeadSplit, head_split
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout.executor import Executor, Pass, drive
from mutoscope.rollout.planner import commit_chunk, open_chunk
from streaming import random_clip, stream_clip

POLICY = CHOOSING["head-wise"]
LENGTHS = (1,) * 9


def streamed(policy: PolicyConfig) -> Tensor:
    """Velocities of a random clip."""
    with torch.no_grad():
        return stream_clip(tiny_model(), policy, LENGTHS, random_clip(LENGTHS))


@pytest.mark.parametrize("grain", get_args(Grain))
def test_groups_of_all_heads_are_the_plain_memories(grain):
    """The twin, with heads in both groups, is neither of them."""
    sizes = dict(sink=1, window=3, frames=5, recent=1, grain=grain)
    static, dynamic, both = (streamed(HeadWise(count, **sizes)) for count in (2, 0, 1))
    plain = streamed(SinkWindow(1, 3)), streamed(Different(5, 1, grain))
    assert torch.allclose(static, plain[0], atol=1e-12) and torch.allclose(dynamic, plain[1], atol=1e-12)
    assert not any(torch.allclose(both, other, atol=1e-6) for other in plain)


def as_lists(policy: HeadWise) -> bool:
    """Whether streaming gives the velocities of list players."""
    model, clip = tiny_model(), random_clip(LENGTHS)
    player, velocities = list_player(model, policy, 1), []
    assert isinstance(player, HeadPlayer)
    with torch.no_grad():
        for frame in range(len(LENGTHS)):
            own, span = clip.conditions.frames(frame, frame + 1).rows(slice(0, 1)), slice(frame, frame + 1)
            player.open([frame], own)
            velocities.append(player.run(clip.noisy[:1, span], float(clip.sigma[0, frame]), own))
            player.commit(clip.clean[:1, span], own)
        return torch.allclose(stream_clip(model, policy, LENGTHS, clip)[:1], torch.cat(velocities, dim=1), atol=1e-9)


def side_by_side(self: HeadSplit, layer: int, parts: list[Tensor]) -> Tensor:
    """Twin: heads stay where their groups are."""
    return torch.cat(parts, dim=1)


def turned_round(self: HeadSplit, layer: int, x: Tensor) -> list[Tensor]:
    """Twin: each group is given the heads of another layer."""
    return [x.index_select(1, group[1 - layer]) for group in self.groups]


@pytest.mark.parametrize(("place", "wrong"), [("join", side_by_side), ("share", turned_round)])
def test_broken_twins_whose_heads_lose_their_way(place, wrong, monkeypatch):
    assert as_lists(POLICY)
    monkeypatch.setattr(HeadSplit, place, wrong)
    assert not as_lists(POLICY)


def test_broken_twin_whose_static_heads_choose(monkeypatch):
    wanted, tables = streamed(POLICY), POLICY.groups(2, 2)
    monkeypatch.setattr(head_stores, "head_parts", lambda *arguments: tuple((Different(slots, 1), tables[slots > 4]) for slots in (4, 6)))
    assert not torch.allclose(streamed(POLICY), wanted, atol=1e-6)


def test_heads_are_shared_out_and_put_together_again():
    split = head_split((((2, 0), (1, 3)), ((1, 3), (0, 2))), torch.device("cpu"))
    x = torch.arange(4.0).view(1, 4, 1, 1)
    for layer, wanted in ((0, [[2, 0], [1, 3]]), (1, [[1, 3], [0, 2]])):
        parts = split.share(layer, x)
        assert [part.flatten().tolist() for part in parts] == wanted and torch.equal(split.join(layer, parts), x)


def aged(model: VideoTransformer, policy: PolicyConfig, ages: list[int], rows: list[int]) -> list[Pass]:
    """Passes of rows that remember `ages` frames, in one store; `rows` says which of the clips each is given."""
    clean, noisy, conditions = tiny_latents(9, batch=3), tiny_latents(9, batch=3, seed=1), tiny_conditions(9, batch=3)
    store, passes = model.new_store(policy, 1, len(rows), clean), []
    for row, clip in enumerate(rows):
        here, source = slice(row, row + 1), slice(clip, clip + 1)
        for frame in range(ages[row]):
            own = conditions.frames(frame, frame + 1).rows(source)
            drive(Executor(model), [commit_chunk(store, here, clean[source, frame : frame + 1], own)])
        own = conditions.frames(ages[row], ages[row] + 1).rows(source)
        plan = open_chunk(store, here, 1, own)
        passes.append(Pass(store, here, plan, noisy[source, ages[row] : ages[row] + 1], 0.25 * (row + 1), own))
    return passes


def test_rows_of_different_age_and_other_memories_share_a_forward():
    model, ages = tiny_model(), [2, 8, 5]
    shared, plain = aged(model, POLICY, ages, [0, 1, 2]), aged(model, Window(4), [3], [0])
    made = Executor(model).run([*shared, *plain])
    alone = [Executor(model).run([item])[0] for item in (*aged(model, POLICY, ages, [0, 1, 2]), *plain)]
    assert all(torch.allclose(*pair, atol=1e-12) for pair in zip(made, alone, strict=True))
    for row, age in enumerate(ages):
        (item,) = aged(model, POLICY, [age], [row])
        (own,) = Executor(model).run([replace(item, sigma=0.25 * (row + 1))])
        assert torch.allclose(own, made[row], atol=1e-12)


def test_a_learned_memory_beside_it_is_refused():
    policy = STATEFUL["window+linear"]
    model = model_for(policy)
    with pytest.raises(ConfigError, match="this model's learned memory is LinearState"):
        model.new_store(POLICY, 1, 1, tiny_latents(1))
    mode = head_room.HeadByHead(head_split(POLICY.groups(2, 2), torch.device("cpu")), ())
    with pytest.raises(ConfigError, match="has one past for all heads"):
        mode.recall(0, model.memories[0], *[torch.zeros(1, 2, 1, 12)] * 3)


@pytest.mark.parametrize("policy", [replace(POLICY, heads=((0,),)), HeadWise(3)])
def test_heads_that_the_model_has_not_are_refused_before_anything_is_allocated(policy, monkeypatch):
    monkeypatch.setattr(HeadStore, "__init__", lambda *arguments, **names: pytest.fail("a store would have been made"))
    with pytest.raises(ConfigError, match="name heads that it has"):
        tiny_model().new_store(policy, 1, 1, tiny_latents(1))
