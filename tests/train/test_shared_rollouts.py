"""Matching whose turns share a rollout until the student moves: fewer rollouts, the same losses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_fakes import ALONE, UPDATE, FakeSource, different, everything, loop_plan, make_stage

from mutoscope.rollout.training import Rollout, RolloutPlan, roll_out
from mutoscope.train.loop import one_update
from mutoscope.train.stages import matching
from mutoscope.train.stages.matching import MatchingRun

KIND, EVERY = "sharing-matching", 2
ALL_TURNS = [(turn, update) for update in range(6) for turn in (("critic", "model") if update % EVERY == EVERY - 1 else ("critic",))]


class Rollouts:
    """Counts rollouts, and keeps them with the student's weights as they were."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[RolloutPlan, Rollout, dict[str, torch.Tensor]]] = []
        monkeypatch.setattr(matching, "roll_out", self)

    def __call__(self, model, plan, real, conditions, noise) -> Rollout:
        rollout = roll_out(model, plan, real, conditions, noise)
        self.made.append((plan, rollout, {name: value.clone() for name, value in model.state_dict().items()}))
        return rollout


def run_updates(stage: MatchingRun, source: FakeSource, updates: range, accumulate: int = 1) -> None:
    plan = loop_plan(Path("nowhere"), UPDATE if accumulate == 1 else source.config)
    for update in updates:
        one_update(stage, source, plan, ALONE, update)


@pytest.mark.parametrize(("kind", "rollouts"), [("matching", 9), (KIND, 3)])
def test_one_rollout_per_move_of_the_student(kind, rollouts, monkeypatch):
    counted = Rollouts(monkeypatch)
    run_updates(*make_stage(kind), range(6))
    assert len(counted.made) == rollouts


def test_every_rollout_is_of_the_student_as_it_stands(monkeypatch):
    """A stage that kept a rollout over the student's move would play weights that are gone."""
    counted, (stage, source) = Rollouts(monkeypatch), make_stage(KIND)
    for cycle in range(3):
        now = {name: value.clone() for name, value in stage.learners["model"].module.state_dict().items()}
        run_updates(stage, source, range(EVERY * cycle, EVERY * (cycle + 1)))
        assert different(counted.made[cycle][2], now) == []
    first, last = counted.made[0], counted.made[-1]
    assert different(first[2], last[2]) != [] and not torch.equal(first[1].clean, last[1].clean)


def test_the_turns_of_a_move_read_one_batch_with_draws_of_their_own():
    stage, source = make_stage(KIND)
    batches = {turn: source.batch(*turn, 0, 1, stage.clips(*turn)) for turn in ALL_TURNS}
    for one, other in ((one, other) for one in ALL_TURNS for other in ALL_TURNS if one < other):
        same = one[1] // EVERY == other[1] // EVERY
        assert torch.equal(batches[one].clean, batches[other].clean) == same
        assert (batches[one].clip_draws == batches[other].clip_draws) == same
        noise = [batches[turn].draws.normal("score noise", 8) for turn in (one, other)]
        assert not torch.equal(*noise)


def test_losses_are_those_of_own_rollouts_of_the_same_clips():
    shared, own = make_stage(KIND, wide=True)[0], make_stage("matching", wide=True)[0]
    source = make_stage(KIND, wide=True)[1]
    for turn, update in ALL_TURNS[:3]:
        batch = source.batch(turn, update, 0, 1, shared.clips(turn, update))
        found, wanted = shared.loss(turn, batch)[0], own.loss(turn, batch)[0]
        assert torch.equal(found, wanted)


def test_micro_batches_have_rollouts_of_their_own(monkeypatch):
    counted = Rollouts(monkeypatch)
    update = replace(UPDATE, accumulate=2)
    run_updates(*make_stage(KIND, update), range(4), accumulate=2)
    assert len(counted.made) == 4
    assert not torch.equal(counted.made[0][1].clean, counted.made[1][1].clean)


def test_what_is_kept_is_bounded():
    """One rollout per micro-batch, however long the stage goes on."""
    stage, source = make_stage(KIND)
    run_updates(stage, source, range(6))
    assert len(stage.made) == 1


def test_broken_twin_that_keeps_rollouts_over_a_move_is_found(monkeypatch):
    """The same clips and draws, but what the first student made of the first ones is played for ever."""
    honest, source = make_stage(KIND)
    run_updates(honest, source, range(4))
    twin, _ = make_stage(KIND)
    counted, first = Rollouts(monkeypatch), []

    def stale(batch):
        if not first:
            first.append(twin._rollout(batch))
        return first[0]

    monkeypatch.setattr(twin, "_shared_rollout", stale)
    run_updates(twin, source, range(4))
    assert len(counted.made) == 1, "two moves of the student need two"
    assert different(everything(honest), everything(twin)) != []
