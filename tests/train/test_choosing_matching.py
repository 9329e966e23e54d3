"""Matching under a memory that chooses by content: its gradient pass replays what the rollout chose."""

from dataclasses import replace

import pytest
import torch
from training_fakes import CHUNKS, CPU, RUN, UPDATE, FakeSource, stage_config

from fakes import CHOOSING, ODD, tiny_model
from mutoscope.memory.policy import training_base
from mutoscope.models.denoise import clip_layout
from mutoscope.rollout.training import score_window
from mutoscope.train.stages import matching
from mutoscope.train.stages.matching import MatchingRun

RUNS = {"frame-wise": RUN, "chunk-wise": CHUNKS}
FRAMES = RUN.clip_frames + 6


def stage_under(policy: str, run: str) -> MatchingRun:
    """A float64 stage with a memory of its own: the run's is a window."""
    config = replace(stage_config("long-matching", UPDATE), memory=CHOOSING[policy])
    stage = MatchingRun.make(RUNS[run], config, tiny_model(seed=3), tiny_model(seed=1))
    stage.rollout_frames = lambda draws: FRAMES
    return stage


def distance(stage: MatchingRun) -> float:
    """How far the sample of the gradient pass is from the rollout that it replays."""
    batch = FakeSource(UPDATE, (FRAMES, ODD.channels, ODD.height, ODD.width), wide=True).batch("model", 1, 0, 1)
    rollout = stage._rollout(batch)
    window = score_window(rollout, batch.conditions, stage.run.clip_frames)
    return float((stage._sample(batch, rollout, window).detach() - window.clean).abs().max())


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("policy", CHOOSING)
def test_the_gradient_pass_is_the_rollout(policy, run):
    assert distance(stage_under(policy, run)) < 1e-9


@pytest.mark.parametrize("policy", CHOOSING)
def test_the_gradient_pass_broken_twin_that_reads_what_the_base_would(policy, monkeypatch):
    stage = stage_under(policy, "frame-wise")
    base = clip_layout(stage.learners["model"].module, training_base(CHOOSING[policy]), (1,) * FRAMES, CPU)
    monkeypatch.setattr(matching, "played_layout", lambda *arguments: base)
    assert distance(stage) > 1e-6


@pytest.mark.parametrize("turn", ["critic", "model"])
def test_both_turns_learn(turn):
    stage = stage_under("similarity", "chunk-wise")
    batch = FakeSource(UPDATE, (FRAMES, ODD.channels, ODD.height, ODD.width), wide=True).batch(turn, 1, 0, 1)
    loss, _ = stage.loss(turn, batch)
    gradient = torch.autograd.grad(loss, list(stage.learners[turn].module.parameters()), materialize_grads=True)
    assert loss.isfinite() and sum(float(part.abs().sum()) for part in gradient) > 0
