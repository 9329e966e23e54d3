"""Stage 3a: causal ODE regression (Causal Forcing, arXiv 2602.02214): dear, exact, and the yardstick for 3b."""

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from mutoscope.core.progress import Progress
from mutoscope.models.attention import ClipLayout
from mutoscope.models.checkpoint import freeze
from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import denoise_last, encode_context
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import euler_step, few_step_levels, per_chunk, uniform_grid
from mutoscope.objectives.ode import ode_loss
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import OdeStage, RunConfig
from mutoscope.train.learner import Learner, learning_copy, make_learner
from mutoscope.train.loop import BatchSource
from mutoscope.train.stages.clips import draw_layout
from mutoscope.train.stages.consistency import guided_velocity


@dataclass(frozen=True)
class Trajectory:
    """A micro-batch of solved clips: states `[level, B, F, C, H, W]` at the student's levels, and the end point.

    `lengths` and `clip` are the chunks that they were solved with: the student is asked under the same ones.
    """

    lengths: tuple[int, ...]
    clip: ClipLayout
    clean: Tensor
    conditions: Conditions
    states: Tensor
    end_point: Tensor


@dataclass
class OdeRun:
    """The clips of `trajectories / batch_size` batches are solved once and kept; every update visits the next batch of them."""

    run: RunConfig
    config: OdeStage
    teacher: VideoTransformer
    source: BatchSource
    learners: dict[str, Learner[VideoTransformer]]
    solved: list[Trajectory] = field(default_factory=list)

    @staticmethod
    def make(run: RunConfig, config: OdeStage, teacher: VideoTransformer, source: BatchSource) -> "OdeRun":
        """Student starts from the autoregressive teacher."""
        return OdeRun(
            run, config, freeze(teacher), source, {"model": make_learner(learning_copy(teacher, config.update, run.seed), config.update)}
        )

    def turns(self, update: int) -> tuple[str, ...]:
        """The student, always."""
        return ("model",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """New ones in every update."""
        return turn, update

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """|| x0_student(x_s, s | clean past) - teacher's end point ||^2 at a random student level per chunk."""
        student, draws = self.learners["model"].module, batch.draws
        solved = self._trajectory(draws)
        lengths, clip = solved.lengths, solved.clip
        levels = few_step_levels(self.config.student_steps, self.run.shift).to(solved.clean)
        index = per_chunk(draws.integer("level", len(levels), len(lengths)), lengths)
        picked = index[None, :, :, None, None, None].expand(1, *solved.states.shape[1:])
        x, sigma = solved.states.gather(0, picked)[0], levels[index]
        context = encode_context(student, solved.clean, solved.conditions, clip)
        velocity, _ = denoise_last(student, x, sigma, solved.conditions, clip, context)
        return ode_loss(x, velocity, sigma, solved.end_point), {}

    def _trajectory(self, draws: Draws) -> Trajectory:
        """The stored clips at this micro-batch's place in the whole batch, so that cutting a batch differently changes nothing.

        All are solved at the first call; a resumed run solves the same ones again.
        """
        update = self.config.update
        if not self.solved:
            count = max(1, self.config.trajectories // update.batch_size)
            with Progress(count * update.accumulate, "solving trajectories") as bar:
                for number, micro in product(range(count), range(update.accumulate)):
                    self.solved.append(self.solve(self.source.batch("trajectories", number, micro, update.accumulate)))
                    bar.advance()
        micro = draws.samples[0] // len(draws.samples) % update.accumulate
        return self.solved[(draws.step * update.accumulate + micro) % len(self.solved)]

    @torch.no_grad()
    def solve(self, batch: ClipBatch) -> Trajectory:
        """Euler steps of the guided teacher for every chunk given its clean past; states kept at the student's levels."""
        clean, conditions = batch.clean, batch.conditions
        lengths, clip = draw_layout(self.run, self.teacher, batch.draws, clean)
        context = encode_context(self.teacher, clean, conditions, clip)
        grid = solver_grid(self.config.solver_steps, self.config.student_steps, self.run.shift)
        wanted = set(few_step_levels(self.config.student_steps, self.run.shift).tolist())
        x, states = batch.draws.normal("noise", *clean.shape[1:]), []
        for now, after in zip(grid[:-1], grid[1:], strict=True):
            if now in wanted:
                states.append(x)
            sigma, next_sigma = (clean.new_full(clean.shape[:2], level) for level in (now, after))
            x = euler_step(x, guided_velocity(self.teacher, x, sigma, conditions, clip, context, self.config.guidance), sigma, next_sigma)
        return Trajectory(lengths, clip, clean, conditions, torch.stack(states), x)


def solver_grid(solver_steps: int, student_steps: int, k: float) -> list[float]:
    """The solver's grid, refined so that every student level lies on it, from 1 to 0."""
    levels = set(uniform_grid(solver_steps, k).tolist()) | set(few_step_levels(student_steps, k).tolist())
    return sorted(levels, reverse=True)
