"""Stage 4: asymmetric distribution matching on the student's own rollouts (Causal Forcing, arXiv 2602.02214, section 4).

Rollouts may be longer than a clip; the scores then judge their last `clip_frames` frames, a clip that has a distant past.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.models.checkpoint import freeze
from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import bidirectional, played_layout, replay_since
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import add_noise, few_step_levels, shift, velocity_target, x0_from_velocity
from mutoscope.objectives.flow import flow_loss
from mutoscope.objectives.guidance import guide
from mutoscope.objectives.matching import matching_gradient, matching_loss
from mutoscope.rollout.training import Rollout, RolloutPlan, ScoreWindow, roll_out, score_window
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import MatchingStage, RunConfig
from mutoscope.train.learner import Learner, learning_copy, make_learner
from mutoscope.train.stages.clips import draw_context
from mutoscope.train.stages.windows import WindowStart, as_generated


@dataclass
class MatchingRun:
    """The critic learns the student's distribution in every update, the student follows the score difference in every n-th."""

    run: RunConfig
    config: MatchingStage
    teacher: VideoTransformer
    learners: dict[str, Learner[VideoTransformer]]
    begin: WindowStart
    made: dict[Draws, Rollout] = field(default_factory=dict)

    @staticmethod
    def make(
        run: RunConfig, config: MatchingStage, student: VideoTransformer, score: VideoTransformer, begin: WindowStart = as_generated
    ) -> "MatchingRun":
        """Student from the stage before; teacher and critic from the bidirectional teacher. `begin` is how windows of the codec begin."""
        if config.frames_beyond_clip and student.config.temporal_stride > 1 and begin is as_generated:
            raise ConfigError(
                "a window of a long rollout begins with a frame of several pixel frames: give the codec that encodes it again"
            )
        learners = {
            "critic": make_learner(learning_copy(score, config.update, run.seed), config.update, learning_rate=config.critic_learning_rate),
            "model": make_learner(learning_copy(student, config.update, run.seed), config.update, average_from=config.average_from),
        }
        return MatchingRun(run, config, freeze(score), learners, begin)

    def turns(self, update: int) -> tuple[str, ...]:
        """The critic first, so that it is never a step behind the student that it judges."""
        return ("critic", "model") if update % self.config.student_every == self.config.student_every - 1 else ("critic",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """Those of the rollout, which a student that has not moved would make again."""
        return ("rollout", update // self.config.student_every) if self.config.rollouts == "shared" else (turn, update)

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """The critic's flow loss or the student's matching loss, on the window at the end of a rollout."""
        frames = self.rollout_frames(batch.clip_draws)
        batch = replace(batch, clean=batch.clean[:, :frames], conditions=batch.conditions.frames(0, frames))
        rollout = self._rollout(batch) if self.config.rollouts == "own" else self._shared_rollout(batch)
        window = self.begin(rollout, score_window(rollout, batch.conditions, self.run.clip_frames))
        return self._critic_loss(window, batch.draws) if turn == "critic" else self._student_loss(batch, rollout, window)

    def rollout_frames(self, draws: Draws) -> int:
        """Where a random window of the longest rollout ends: what comes after it is not generated. One draw per batch of clips."""
        step = self.run.chunk_frames
        return self.run.clip_frames + step * draws.shared("score window", 1 + self.config.frames_beyond_clip // step)

    def rollout_plan(self, draws: Draws) -> RolloutPlan:
        """Random context length and exit steps: one draw per batch of clips for all chunks, one for the first chunk's own grid."""
        config, run = self.config, self.run
        levels = tuple(few_step_levels(config.student_steps, run.shift).tolist())
        first = tuple(few_step_levels(config.first_chunk_steps, run.shift).tolist())
        context = draw_context(run, draws, run.clip_frames, config.max_context)
        stop, first_stop = draws.shared("exit step", len(levels)) + 1, draws.shared("first exit step", len(first)) + 1
        return RolloutPlan(run.memory_of(config), context, run.chunk_frames, first[:first_stop], levels[:stop])

    def _shared_rollout(self, batch: ClipBatch) -> Rollout:
        """The rollout of these clips, made at the first turn that asks; those of clips before them are let go."""
        key = batch.clip_draws
        if key not in self.made:
            self.made = {draws: rollout for draws, rollout in self.made.items() if draws.step == key.step}
            self.made[key] = self._rollout(batch)
        return self.made[key]

    def _rollout(self, batch: ClipBatch) -> Rollout:
        size = batch.clean.shape[2:]

        def noise(frame: int, draw: int) -> Tensor:
            return batch.clip_draws.normal(f"rollout/{frame}/{draw}", self.run.chunk_frames, *size)

        # A processor plays in float32, and gains nothing from bfloat16 for products as small as one frame's.
        with torch.autocast("cpu", enabled=False):
            return roll_out(self.learners["model"].module, self.rollout_plan(batch.clip_draws), batch.clean, batch.conditions, noise)

    def _sigma(self, draws: Draws) -> Tensor:
        """Uniform, shifted, clamped to [.02, .98]; the same for all frames of a clip."""
        sigma = shift(draws.uniform("score sigma", 1), self.run.shift).clamp(0.02, 0.98)
        return sigma.expand(-1, self.run.clip_frames)

    def _critic_loss(self, window: ScoreWindow, draws: Draws) -> tuple[Tensor, dict[str, float]]:
        """Flow matching on the student's clips."""
        sigma, noise = self._sigma(draws), draws.normal("score noise", *window.clean.shape[1:])
        velocity = bidirectional(self.learners["critic"].module, add_noise(window.clean, noise, sigma), sigma, window.conditions)
        return flow_loss(velocity, velocity_target(window.clean, noise), window.scored), {}

    def _student_loss(self, batch: ClipBatch, rollout: Rollout, window: ScoreWindow) -> tuple[Tensor, dict[str, float]]:
        """The sample moves to where the scores say that it should go."""
        sample = self._sample(batch, rollout, window)
        gradient = self._score_difference(sample.detach(), window, batch.draws)
        figures = {"score_difference": float(gradient.square().mean().sqrt()), "sample_std": float(sample.detach().std())}
        return matching_loss(sample, gradient, window.scored), figures

    def _sample(self, batch: ClipBatch, rollout: Rollout, window: ScoreWindow) -> Tensor:
        """The window `[B, F, C, H, W]` with its gradient, from one teacher-forced replay of its whole chunks."""
        student, first = self.learners["model"].module, window.first
        clip = played_layout(student, rollout.sources, batch.clean.device, rollout.context)
        velocity = replay_since(
            student, rollout.clean, rollout.noisy, rollout.sigma, batch.conditions, clip, first, self.config.memory_writes
        )
        sample = x0_from_velocity(rollout.noisy[:, first:], velocity, rollout.sigma[:, first:])
        return torch.cat([window.clean[:, : first - window.start], sample], dim=1)

    @torch.no_grad()
    def _score_difference(self, sample: Tensor, window: ScoreWindow, draws: Draws) -> Tensor:
        sigma, noise = self._sigma(draws), draws.normal("score noise", *sample.shape[1:])
        noisy = add_noise(sample, noise, sigma)
        teacher = self._teacher_velocity(noisy, sigma, window.conditions)
        critic = bidirectional(self.learners["critic"].module, noisy, sigma, window.conditions)
        return matching_gradient(sample, x0_from_velocity(noisy, critic, sigma), x0_from_velocity(noisy, teacher, sigma), window.scored)

    def _teacher_velocity(self, noisy: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        conditional = bidirectional(self.teacher, noisy, sigma, conditions)
        null = conditions.null((noisy.shape[1],))
        return guide(conditional, bidirectional(self.teacher, noisy, sigma, null), self.config.guidance)
