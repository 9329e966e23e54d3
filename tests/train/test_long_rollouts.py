"""Matching on windows of rollouts that are longer than a clip: the same loss, of the last clip of a student that has its own past."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training_fakes import CHUNKS, CPU, RUN, UPDATE, FakeSource, make_stage, stage_config

from fakes import ALL_POLICIES, ODD, model_for, tiny_model
from grids import taking_turns
from mutoscope.models.conditions import Conditions, action_conditions
from mutoscope.models.denoise import bidirectional, clip_layout, replay
from mutoscope.noise.schedule import add_noise, shift, velocity_target, x0_from_velocity
from mutoscope.objectives.flow import flow_loss
from mutoscope.objectives.guidance import guide
from mutoscope.objectives.matching import matching_gradient, matching_loss
from mutoscope.rollout.training import roll_out
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import RunConfig
from mutoscope.train.stages.matching import MatchingRun

CLIP, LONGEST = RUN.clip_frames, RUN.clip_frames + 6
RUNS = {"frame-wise": RUN, "chunk-wise": CHUNKS}
# Who learns, under which memory, and where the window ends.
CASES = [("model", policy, stop) for policy in ALL_POLICIES for stop in (CLIP + 3, LONGEST)]
CASES += [("model", "sink", CLIP), *(("critic", "sink", stop) for stop in (CLIP, CLIP + 3, LONGEST))]


def stage_under(policy: str, run: RunConfig = RUN, kind: str = "long-matching") -> MatchingRun:
    """A float64 stage of a run under some memory."""
    run = replace(run, memory=ALL_POLICIES[policy])
    return MatchingRun.make(run, stage_config(kind, UPDATE), model_for(run.memory, seed=3), tiny_model(seed=1))


def clips(turn: str = "model", update: int = 1) -> ClipBatch:
    """Clips as long as the longest rollout."""
    return FakeSource(UPDATE, (LONGEST, ODD.channels, ODD.height, ODD.width), wide=True).batch(turn, update, 0, 1)


def cut(batch: ClipBatch, frames: int) -> ClipBatch:
    """Their first frames."""
    return replace(batch, clean=batch.clean[:, :frames], conditions=batch.conditions.frames(0, frames))


def with_window_at(stage: MatchingRun, stop: int) -> MatchingRun:
    """The stage, its window always ending at `stop`."""
    stage.rollout_frames = lambda draws: stop
    return stage


def written_out(stage: MatchingRun, turn: str, batch: ClipBatch, stop: int) -> Tensor:
    """The loss from the longest rollout and the replay of all of it; the window is cut out at the very end."""
    run, draws, student, start = stage.run, batch.draws, stage.learners["model"].module, stop - CLIP
    size, plan = batch.clean.shape[2:], stage.rollout_plan(draws)
    told, null = batch.conditions.frames(start, stop), batch.conditions.frames(start, stop).null((CLIP,))
    rollout = roll_out(
        student, plan, batch.clean, batch.conditions, lambda frame, draw: draws.normal(f"rollout/{frame}/{draw}", run.chunk_frames, *size)
    )
    scored = rollout.generated[:, start:stop].clone()
    if run.chunk_frames > 1:
        scored[:, 0] = 0  # in the context, or cut off from its chunk
    sigma = shift(draws.uniform("score sigma", 1), run.shift).clamp(0.02, 0.98).expand(-1, CLIP)
    noise = draws.normal("score noise", CLIP, *size)
    if turn == "critic":
        clean = rollout.clean[:, start:stop]
        velocity = bidirectional(stage.learners["critic"].module, add_noise(clean, noise, sigma), sigma, told)
        return flow_loss(velocity, velocity_target(clean, noise), scored)
    parts = clip_layout(student, run.memory, rollout.lengths, CPU, rollout.context)
    velocity = replay(student, rollout.clean, rollout.noisy, rollout.sigma, batch.conditions, parts)
    sample = x0_from_velocity(rollout.noisy, velocity, rollout.sigma)[:, start:stop]
    with torch.no_grad():
        noisy = add_noise(sample, noise, sigma)
        teacher = guide(*(bidirectional(stage.teacher, noisy, sigma, known) for known in (told, null)), stage.config.guidance)
        critic = bidirectional(stage.learners["critic"].module, noisy, sigma, told)
        x0 = [x0_from_velocity(noisy, velocity, sigma) for velocity in (critic, teacher)]
        gradient = matching_gradient(sample, *x0, scored)
    return matching_loss(sample, gradient, scored)


def gradient(stage: MatchingRun, turn: str, loss: Tensor) -> Tensor:
    """The gradient with respect to all weights of who learns."""
    parts = torch.autograd.grad(loss, list(stage.learners[turn].module.parameters()), materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize(("turn", "policy", "stop", "run"), taking_turns(CASES, RUNS))
def test_the_loss_is_that_of_the_window_of_the_longest_rollout(turn, policy, stop, run):
    stage, batch = stage_under(policy, RUNS[run]), clips(turn)
    expected, (loss, _) = written_out(stage, turn, batch, stop), with_window_at(stage, stop).loss(turn, batch)
    found, wanted = gradient(stage, turn, loss), gradient(stage, turn, expected)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-8


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("turn", ["critic", "model"])
def test_a_rollout_as_long_as_the_clip_gives_the_loss_without_long_rollouts(run, turn):
    """Bit for bit: asking for long rollouts moves no other draw."""
    short, long = (stage_under("sink", RUNS[run], kind) for kind in ("matching", "long-matching"))
    batch = clips(turn)
    losses = [short.loss(turn, cut(batch, CLIP))[0], with_window_at(long, CLIP).loss(turn, batch)[0]]
    assert torch.equal(*losses) and torch.equal(gradient(short, turn, losses[0]), gradient(long, turn, losses[1]))


def stops(stage: MatchingRun, turn: str, samples: tuple[int, ...], kind: type[Draws] = Draws, updates: int = 400) -> list[int]:
    """Where the rollouts of a turn end, as its draws decide."""
    seed = FakeSource(UPDATE, (1, 1, 1, 1)).batch(turn, 0, 0, 1).draws.seed
    return [stage.rollout_frames(kind(seed, update, samples, CPU)) for update in range(updates)]


class DrawsOfTheSample(Draws):
    """The broken twin: the window depends on who asks."""

    def shared(self, purpose: str, high: int) -> int:
        return int(self.integer(purpose, high)[0])


def test_all_micro_batches_and_ranks_take_the_same_window_and_critic_and_student_their_own():
    stage = make_stage("long-matching")[0]
    assert stops(stage, "model", (0, 1)) == stops(stage, "model", (2, 3))
    assert stops(stage, "model", (0, 1), DrawsOfTheSample) != stops(stage, "model", (2, 3), DrawsOfTheSample)
    assert stops(stage, "model", (0,)) != stops(stage, "critic", (0,))


@pytest.mark.parametrize(("run", "step"), [(RUN, 1), (CHUNKS, 3)])
def test_windows_end_where_chunks_end_equally_often(run, step):
    found = stops(make_stage("long-matching", run=run)[0], "model", (0,))
    wanted = range(CLIP, LONGEST + 1, step)
    assert set(found) == set(wanted)
    assert all(abs(found.count(stop) / len(found) - 1 / len(wanted)) < 0.1 for stop in wanted)
    assert set(stops(make_stage("matching", run=run)[0], "model", (0,))) == {CLIP}


@pytest.mark.parametrize("turn", ["critic", "model"])
def test_two_windows_differ(turn):
    stage, batch = stage_under("window"), clips(turn)
    losses = [float(with_window_at(stage, stop).loss(turn, batch)[0].detach()) for stop in range(CLIP, LONGEST + 1)]
    assert len(set(losses)) == len(losses)


def told_otherwise(batch: ClipBatch, frame: int) -> ClipBatch:
    """Clips whose action at a frame is another; where the walk has led by then stays as it was."""
    actions = batch.conditions.actions.clone()
    actions[:, frame] += 1
    return replace(batch, conditions=replace(batch.conditions, actions=actions))


@pytest.mark.parametrize("policy", ALL_POLICIES)
def test_a_window_knows_what_was_before_it_and_not_what_comes_after(policy):
    stage, batch, stop = with_window_at(stage_under(policy), LONGEST - 1), clips(), LONGEST - 1
    loss = {frame: float(stage.loss("model", told_otherwise(batch, frame))[0].detach()) for frame in (0, 1, stop - CLIP - 1, stop)}
    assert loss[stop] == loss[0], "frame 0 has no known action, and the last is not generated"
    assert loss[1] != loss[0] and loss[stop - CLIP - 1] != loss[0]


def begun_anew(told: Conditions, frame: int) -> Conditions:
    """Conditions whose walk begins anew at a frame, as if nothing had been before it."""
    anew = action_conditions(told.actions[:, frame:], told.known[:, frame:])
    return replace(told, travel=torch.cat([told.travel[:, :frame], anew.travel], dim=1))


@torch.no_grad()
def scores(told: Conditions) -> Tensor:
    """What teacher and guidance's other branch say about a window under its conditions."""
    model, noisy = tiny_model(), clips().clean[:, :CLIP]
    sigma = torch.full(noisy.shape[:2], 0.5, dtype=torch.float64)
    return torch.stack([bidirectional(model, noisy, sigma, known) for known in (told, told.null((CLIP,)))])


def test_the_scores_do_not_mind_where_the_walk_to_the_window_led():
    told = clips().conditions.frames(LONGEST - CLIP, LONGEST)
    assert told.travel[:, 0].abs().max() > 1
    assert torch.allclose(scores(told), scores(begun_anew(told, 0)), atol=1e-9)
    assert not torch.allclose(scores(told)[0], scores(begun_anew(told, 3))[0], atol=1e-3)
