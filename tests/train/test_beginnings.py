"""Worlds that begin from nothing: no stage is given a real frame to go on from, and the first chunk is learned like any other."""

from dataclasses import replace

import pytest
import torch
from training_fakes import ALONE, CHUNKS, RUN, loop_plan, make_stage

from mutoscope.core.errors import ConfigError
from mutoscope.rollout.training import score_window
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import RunConfig
from mutoscope.train.loop import one_update
from mutoscope.train.stages.clips import draw_layout
from mutoscope.train.stages.matching import MatchingRun

FRAMES, THREES = (replace(run, beginning="nothing", clip_frames=6) for run in (RUN, CHUNKS))


@pytest.mark.parametrize("run", [FRAMES, THREES], ids=["frame-wise", "chunks of 3"])
def test_clips_have_no_context(run):
    stage, source = make_stage("autoregressive", run=run)
    model = stage.learners["model"].module
    for update in range(4):
        batch = source.batch("model", update, 0, 1)
        lengths, clip = draw_layout(run, model, batch.draws, batch.clean)
        assert clip.context == 0 and set(lengths) == {run.chunk_frames}
    batch = source.batch("model", 0, 0, 1)
    real_start = replace(run, beginning="real frames", chunk_frames=1)
    assert draw_layout(real_start, model, batch.draws, batch.clean)[1].context > 0


@pytest.mark.parametrize("kind", ["autoregressive", "ode", "consistency", "matching", "long-matching"])
@pytest.mark.parametrize("run", [FRAMES, THREES], ids=["frame-wise", "chunks of 3"])
def test_every_stage_learns_without_a_real_frame(run, kind, tmp_path):
    stage, source = make_stage(kind, run=run)
    before = {name: value.clone() for name, value in stage.learners["model"].module.state_dict().items()}
    for update in range(2):
        one_update(stage, source, loop_plan(tmp_path), ALONE, update)
    assert any(not torch.equal(before[name], value) for name, value in stage.learners["model"].module.state_dict().items())
    assert all(torch.isfinite(value).all() for value in stage.learners["model"].module.state_dict().values())


def rolled(run: RunConfig, seed: int) -> tuple[MatchingRun, ClipBatch]:
    """A float64 matching stage and a batch whose clips, but not their draws, come from `seed`."""
    stage, source = make_stage("matching", run=run, wide=True)
    assert isinstance(stage, MatchingRun)
    batch = source.batch("model", 1, 0, 1)
    return stage, replace(batch, clean=batch.clean + seed)


def sees_real_frames(run: RunConfig) -> bool:
    """Whether a rollout depends on the clip that it is made beside."""
    (stage, batch), (_, other) = rolled(run, 0), rolled(run, 1)
    return not torch.equal(stage._rollout(batch).clean, stage._rollout(other).clean)


@pytest.mark.parametrize("run", [FRAMES, THREES], ids=["frame-wise", "chunks of 3"])
def test_rollouts_begin_from_nothing(run):
    assert not sees_real_frames(run)
    stage, batch = rolled(run, 0)
    rollout = stage._rollout(batch)
    assert rollout.context == 0 and bool(rollout.generated.all()) and rollout.lengths == (run.chunk_frames,) * (6 // run.chunk_frames)


def test_rollouts_begin_from_nothing_broken_twin_with_a_real_frame():
    assert sees_real_frames(RUN)


@pytest.mark.parametrize("run", [FRAMES, THREES], ids=["frame-wise", "chunks of 3"])
def test_the_replay_gives_the_first_chunk_too(run):
    stage, batch = rolled(run, 0)
    rollout = stage._rollout(batch)
    sample = stage._sample(batch, rollout, score_window(rollout, batch.conditions, run.clip_frames))
    assert torch.allclose(sample, rollout.clean, atol=1e-10) and sample.requires_grad


@pytest.mark.parametrize(
    ("changes", "words"), [({"clip_frames": 7}, "0 \\+ a multiple"), ({"beginning": "real frames"}, "1 \\+ a multiple")]
)
def test_clips_are_whole_chunks(changes, words):
    with pytest.raises(ConfigError, match=words):
        replace(THREES, **changes)
