"""Matching: who learns when, from which rollouts, and that nobody steps on a gradient that is not its own."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_fakes import ALONE, CHUNKS, CPU, KINDS, RUN, UPDATE, FakeSource, different, everything, loop_plan, make_stage

from mutoscope.train.batch import Draws
from mutoscope.train.loop import StageRun, is_logged, one_update
from mutoscope.train.stages.matching import MatchingRun


def learns_in(stage: StageRun, source: FakeSource, update: int) -> set[str]:
    """Names of the learners whose weights an update changes."""
    before = {name: {key: value.clone() for key, value in learner.module.state_dict().items()} for name, learner in stage.learners.items()}
    one_update(stage, source, loop_plan(Path("nowhere")), ALONE, update)
    return {name for name, learner in stage.learners.items() if different(before[name], learner.module.state_dict())}


def test_the_critic_learns_in_every_update_and_the_student_in_every_nth():
    stage, source = make_stage("matching")
    stage.config = replace(stage.config, student_every=3)
    assert [learns_in(stage, source, update) for update in range(6)] == 2 * [{"critic"}, {"critic"}, {"critic", "model"}]
    assert stage.learners["critic"].updates == 6 and stage.learners["model"].updates == 2


@pytest.mark.parametrize(("every", "wanted"), [(1, [0, 10, 20]), (2, [0, 1, 10, 11, 20, 21]), (3, [0, 2, 10, 11, 20])])
def test_every_learner_is_logged_once_per_interval_whenever_its_turn_comes(every, wanted):
    """The twin that logs every tenth update alone never sees a student that moves in odd ones."""
    stage, _ = make_stage("matching")
    stage.config = replace(stage.config, student_every=every)
    logged = [update for update in range(22) if is_logged(stage, 10, update)]
    assert logged == [update for update in wanted if update < 22]
    assert {turn for update in logged for turn in stage.turns(update)} == {"critic", "model"}
    assert every != 2 or not any("model" in stage.turns(update) for update in range(0, 22, 10))


def test_the_critic_comes_first():
    stage, _ = make_stage("matching")
    assert stage.turns(1) == ("critic", "model")


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_learn_never_changes(kind):
    stage, source = make_stage(kind)
    frozen = [module for module in (vars(stage).get("teacher"),) if module is not None]
    before = [{key: value.clone() for key, value in module.state_dict().items()} for module in frozen]
    for update in range(2):
        one_update(stage, source, loop_plan(Path("nowhere")), ALONE, update)
    assert all(not different(state, module.state_dict()) for state, module in zip(before, frozen, strict=True))
    assert all(value.grad is None for module in frozen for value in module.parameters())
    assert all(value.grad is None for learner in stage.learners.values() for value in learner.average.parameters())


def leave_gradients(stage: StageRun) -> None:
    """What a failed or foreign backward pass may have left behind."""
    for learner in stage.learners.values():
        for value in learner.module.parameters():
            value.grad = torch.full_like(value, 3.0)


def after_two_updates(kind: str, spoil: bool) -> dict[str, torch.Tensor]:
    stage, source = make_stage(kind)
    for update in range(2):
        if spoil:
            leave_gradients(stage)
        one_update(stage, source, loop_plan(Path("nowhere")), ALONE, update)
    return everything(stage)


@pytest.mark.parametrize("kind", KINDS)
def test_stale_gradients_are_never_used(kind):
    assert different(after_two_updates(kind, False), after_two_updates(kind, True)) == []


def test_broken_twin_that_does_not_clear_gradients_is_found(monkeypatch):
    clean = after_two_updates("matching", False)
    monkeypatch.setattr(torch.optim.AdamW, "zero_grad", lambda self, set_to_none=True: None)
    assert different(clean, after_two_updates("matching", True)) != []


def test_one_learners_loss_leaves_no_gradient_in_the_other():
    stage, source = make_stage("matching")
    one_update(stage, source, loop_plan(Path("nowhere")), ALONE, 0)
    assert all(value.grad is None for value in stage.learners["model"].module.parameters())


def plans(stage: MatchingRun, turn: str, samples: tuple[int, ...], updates: int = 40) -> list:
    """The rollout plans of a turn as the source's draws decide them."""
    source = FakeSource(UPDATE, (1, 1, 1, 1))
    seeds = {name: source.batch(name, 0, 0, 1).draws.seed for name in ("critic", "model")}
    return [stage.rollout_plan(Draws(seeds[turn], update, samples, CPU)) for update in range(updates)]


@pytest.mark.parametrize("run", [RUN, CHUNKS])
def test_all_micro_batches_and_ranks_take_the_same_exit_steps_and_context(run):
    stage, _ = make_stage("matching", run=run)
    assert plans(stage, "model", (0, 1)) == plans(stage, "model", (2, 3)) == plans(stage, "model", (3,))


def test_broken_twin_whose_exit_step_depends_on_the_sample_is_found(monkeypatch):
    stage, _ = make_stage("matching")
    monkeypatch.setattr(Draws, "shared", lambda self, purpose, high: int(self.integer(purpose, high)[0]))
    assert plans(stage, "model", (0, 1)) != plans(stage, "model", (2, 3))


def exit_shares(turn: str, updates: int = 600) -> dict[tuple[int, int], float]:
    """How often a turn leaves the first chunk's grid and the others' after so many steps."""
    stage, _ = make_stage("matching")
    stage.config = replace(stage.config, first_chunk_steps=4)
    found = [(len(plan.first_levels), len(plan.levels)) for plan in plans(stage, turn, (0,), updates)]
    return {key: found.count(key) / updates for key in set(found)}


@pytest.mark.parametrize("turn", ["critic", "model"])
def test_critic_and_student_take_exit_steps_from_one_distribution(turn):
    """Uniform over 4 x 2 pairs; the first chunk's step is a draw of its own."""
    shares = exit_shares(turn)
    assert len(shares) == 8
    assert all(abs(share - 1 / 8) < 4 * math.sqrt(1 / 8 * 7 / 8 / 600) for share in shares.values())


def test_critic_and_student_use_draws_of_their_own():
    stage, _ = make_stage("matching")
    assert plans(stage, "critic", (0,)) != plans(stage, "model", (0,))


def test_the_exit_levels_are_the_beginning_of_the_students_grid():
    stage, _ = make_stage("matching")
    longest = max((plan.levels for plan in plans(stage, "model", (0,))), key=len)
    assert longest == pytest.approx((1.0, 2 * 0.5 / 1.5)) and all(
        plan.levels == longest[: len(plan.levels)] for plan in plans(stage, "critic", (0,))
    )


@pytest.mark.parametrize("run", [RUN, CHUNKS])
def test_contexts_are_at_least_one_frame_and_leave_whole_chunks(run):
    stage, _ = make_stage("matching", run=run)
    contexts = {plan.context for plan in plans(stage, "model", (0,))}
    assert contexts == ({1, 2, 3, 4} if run is RUN else {1, 4})
