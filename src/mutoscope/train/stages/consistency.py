"""Stage 3b: causal consistency distillation (Causal Forcing++, arXiv 2605.15141), the heart of the method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mutoscope.models.attention import ClipLayout
from mutoscope.models.checkpoint import freeze
from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import denoise_given_context, denoise_last, encode_context
from mutoscope.models.rows import AnyContext
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import add_noise, per_chunk, uniform_grid
from mutoscope.objectives.consistency import consistency_loss, consistency_pair
from mutoscope.objectives.guidance import guide
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import ConsistencyStage, RunConfig
from mutoscope.train.learner import Learner, learning_copy, make_learner
from mutoscope.train.stages.clips import draw_layout


@dataclass
class ConsistencyRun:
    """A frozen teacher makes one Euler step; the student must agree with its own average across it.

    The average is the target, so it is part of the learner's saved state.
    """

    run: RunConfig
    config: ConsistencyStage
    teacher: VideoTransformer
    learners: dict[str, Learner[VideoTransformer]]

    @staticmethod
    def make(run: RunConfig, config: ConsistencyStage, teacher: VideoTransformer) -> "ConsistencyRun":
        """Student and target start from the teacher."""
        learner = make_learner(learning_copy(teacher, config.update, run.seed), config.update, decay=config.target_average)
        return ConsistencyRun(run, config, freeze(teacher), {"model": learner})

    def turns(self, update: int) -> tuple[str, ...]:
        """The student, always."""
        return ("model",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """New ones in every update."""
        return turn, update

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """|| G(x_i, s_i | past) - stopgrad G_ema(x_i+1, s_i+1 | past) ||^2, one index per chunk."""
        student, target = self.learners["model"].module, self.learners["model"].average
        clean, conditions, draws = batch.clean, batch.conditions, batch.draws
        lengths, clip = draw_layout(self.run, student, draws, clean)
        now, after = self._levels(batch, lengths)
        x_now = add_noise(clean, draws.normal("noise", *clean.shape[1:]), now)
        with torch.no_grad():
            x_after = consistency_pair(x_now, self._guided(x_now, now, clean, conditions, clip), now, after)
            velocity_after, _ = denoise_last(target, x_after, after, conditions, clip, encode_context(target, clean, conditions, clip))
        velocity_now, _ = denoise_last(student, x_now, now, conditions, clip, encode_context(student, clean, conditions, clip))
        return consistency_loss(x_now, velocity_now, now, x_after, velocity_after, after), {}

    def _levels(self, batch: ClipBatch, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Levels s_i and s_i+1 per frame, i uniform per chunk; the last pair (whose target is x0 itself) by name."""
        grid = uniform_grid(self.config.grid_steps, self.run.shift).to(batch.clean)
        pairs = self.config.grid_steps - (0 if self.config.last_pair == "included" else 1)
        index = per_chunk(batch.draws.integer("grid index", pairs, len(lengths)), lengths)
        return grid[index], grid[index + 1]

    def _guided(self, x: Tensor, sigma: Tensor, clean: Tensor, conditions: Conditions, clip: ClipLayout) -> Tensor:
        """The teacher's guided velocity; one context serves both branches."""
        return guided_velocity(
            self.teacher, x, sigma, conditions, clip, encode_context(self.teacher, clean, conditions, clip), self.config.guidance
        )


def guided_velocity(
    teacher: VideoTransformer, x: Tensor, sigma: Tensor, conditions: Conditions, clip: ClipLayout, context: AnyContext, weight: float
) -> Tensor:
    """v_u + w (v_c - v_u) given one clean context, and one learned memory, which the conditional passes write."""
    conditional, context = denoise_last(teacher, x, sigma, conditions, clip, context)
    unconditional = denoise_given_context(teacher, x, sigma, conditions.null(clip.lengths), clip, context)
    return guide(conditional, unconditional, weight)
