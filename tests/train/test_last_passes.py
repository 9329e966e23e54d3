"""Memories that last passes write, under teacher forcing: real beginnings as drawn, and both branches of guidance beside one memory."""

from dataclasses import replace

import pytest
import torch
from training_fakes import CHUNKS, RUN, UPDATE, FakeSource, stage_config

from fakes import LAST_PASS, ODD, STATEFUL, model_for
from mutoscope.models.denoise import encode_context, teacher_forced
from mutoscope.noise.schedule import euler_step
from mutoscope.objectives.consistency import consistency_loss
from mutoscope.objectives.guidance import guide
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import ConsistencyStage
from mutoscope.train.stages.clips import draw_context, draw_layout
from mutoscope.train.stages.consistency import ConsistencyRun, guided_velocity

RUNS = {"frame-wise": RUN, "chunk-wise": CHUNKS}
POLICIES = [*LAST_PASS, "window+linear", "window+fast-mlp"]


def clips(update: int = 1) -> ClipBatch:
    """Random clips in float64."""
    return FakeSource(UPDATE, (RUN.clip_frames, ODD.channels, ODD.height, ODD.width), wide=True).batch("model", update, 0, 1)


@pytest.mark.parametrize("run", RUNS)
def test_the_context_that_was_drawn_is_the_real_beginning(run):
    model, policy, found = model_for(STATEFUL["window+linear"]), STATEFUL["window+linear"], set()
    for update in range(8):
        batch = clips(update)
        lengths, parts = draw_layout(replace(RUNS[run], memory=policy), model, batch.draws, batch.clean)
        assert parts.context == draw_context(RUNS[run], batch.draws, RUN.clip_frames, RUN.clip_frames)
        assert set(lengths[: parts.context]) == {1} and set(lengths[parts.context :]) == {RUNS[run].chunk_frames}
        found.add(parts.context)
    assert len(found) > 1, "it is drawn anew for every update"


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_teacher_s_branches_stand_beside_the_memory_that_the_conditional_one_wrote(policy, run):
    """The twin, in which guidance nulls the past too, is another teacher."""
    model, batch = model_for(STATEFUL[policy]), clips()
    x, sigma = batch.draws.normal("x", *batch.clean.shape[1:]), batch.draws.uniform("sigma", 1).expand(-1, RUN.clip_frames)
    told = batch.conditions
    lengths, parts = draw_layout(replace(RUNS[run], memory=STATEFUL[policy]), model, clips(2).draws, batch.clean)
    null = told.null(lengths)
    with torch.no_grad():
        found = guided_velocity(model, x, sigma, told, parts, encode_context(model, batch.clean, told, parts), 1.5)
        branches = [teacher_forced(model, batch.clean, x, sigma, told, known, parts) for known in (told, null)]
        own = [teacher_forced(model, batch.clean, x, sigma, known, known, parts) for known in (told, null)]
    assert torch.allclose(found, guide(*branches, 1.5), atol=1e-9)
    assert not torch.allclose(guide(*branches, 1.5), guide(*own, 1.5), atol=1e-6)


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("policy", POLICIES)
def test_teacher_student_and_average_each_stand_beside_their_own_memory(policy, run):
    """Consistency, written out with teacher forcing."""
    settings = replace(RUNS[run], memory=STATEFUL[policy])
    config = stage_config("consistency", UPDATE)
    assert isinstance(config, ConsistencyStage)
    stage, batch = ConsistencyRun.make(settings, config, model_for(STATEFUL[policy])), clips()
    stage.learners["model"].average.load_state_dict(model_for(STATEFUL[policy], seed=1).state_dict())
    student, target, told = stage.learners["model"].module, stage.learners["model"].average, batch.conditions
    lengths, parts = draw_layout(settings, student, batch.draws, batch.clean)
    now, after = stage._levels(batch, lengths)
    noise = batch.draws.normal("noise", *batch.clean.shape[1:])
    x = (1 - now[..., None, None, None]) * batch.clean + now[..., None, None, None] * noise
    with torch.no_grad():
        branches = [teacher_forced(stage.teacher, batch.clean, x, now, told, known, parts) for known in (told, told.null(lengths))]
        x_after = euler_step(x, guide(*branches, config.guidance), now, after)
        velocity_after = teacher_forced(target, batch.clean, x_after, after, told, told, parts)
        wanted = consistency_loss(x, teacher_forced(student, batch.clean, x, now, told, told, parts), now, x_after, velocity_after, after)
    loss, _ = stage.loss("model", batch)
    assert float(loss.detach()) == pytest.approx(float(wanted), rel=1e-9)
