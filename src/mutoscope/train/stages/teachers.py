"""Stages 1 and 2: the bidirectional teacher (whole clips) and the autoregressive teacher (teacher forcing)."""

from dataclasses import dataclass

from torch import Tensor

from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import bidirectional, teacher_forced
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import add_noise, per_chunk, shift, velocity_target
from mutoscope.objectives.flow import WEIGHTS, flow_loss, no_weight
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import AutoregressiveStage, BidirectionalStage, RunConfig
from mutoscope.train.learner import Learner, adapters_on, make_learner
from mutoscope.train.stages.clips import draw_layout


def draw_sigma(draws: Draws, count: int, sampler: str, k: float) -> Tensor:
    """`[sample, count]` noise levels: shift of a uniform or logit-normal draw."""
    if sampler == "uniform":
        return shift(draws.uniform("sigma", count), k)
    return shift(draws.normal("sigma", count).sigmoid(), k)


def drop_conditions(conditions: Conditions, draws: Draws, share: float, chunks: tuple[int, ...]) -> Conditions:
    """Null all conditions, actions and prompt together, of a random share of the samples, for guidance."""
    return conditions.dropped(draws.uniform("action dropout") >= share, chunks)


@dataclass
class BidirectionalRun:
    """Flow loss on whole clips, one sigma each."""

    run: RunConfig
    config: BidirectionalStage
    learners: dict[str, Learner[VideoTransformer]]

    @staticmethod
    def make(run: RunConfig, config: BidirectionalStage, model: VideoTransformer) -> "BidirectionalRun":
        """Fresh optimiser state around a model."""
        return BidirectionalRun(run, config, {"model": make_learner(model, config.update)})

    def turns(self, update: int) -> tuple[str, ...]:
        """The model, always."""
        return ("model",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """New ones in every update."""
        return turn, update

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """|| v(x_s, s) - (n - x0) ||^2."""
        clean, draws = batch.clean, batch.draws
        noise = draws.normal("noise", *clean.shape[1:])
        sigma = draw_sigma(draws, 1, self.config.sampler, self.run.shift).expand(-1, clean.shape[1])
        conditions = drop_conditions(batch.conditions, draws, self.config.action_dropout, (clean.shape[1],))
        velocity = bidirectional(self.learners["model"].module, add_noise(clean, noise, sigma), sigma, conditions)
        return flow_loss(velocity, velocity_target(clean, noise), no_weight(sigma)), {}


@dataclass
class AutoregressiveRun:
    """Flow loss on `[clean | noisy]`, one sigma per chunk, through the clean half too."""

    run: RunConfig
    config: AutoregressiveStage
    learners: dict[str, Learner[VideoTransformer]]

    @staticmethod
    def make(run: RunConfig, config: AutoregressiveStage, model: VideoTransformer) -> "AutoregressiveRun":
        """Fresh optimiser state around a model."""
        return AutoregressiveRun(run, config, {"model": make_learner(adapters_on(model, config.update, run.seed), config.update)})

    def turns(self, update: int) -> tuple[str, ...]:
        """The model, always."""
        return ("model",)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        """New ones in every update."""
        return turn, update

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        """w(s) || v(x_s, s | clean past) - (n - x0) ||^2; null conditions are those of the noisy half alone."""
        clean, draws, model = batch.clean, batch.draws, self.learners["model"].module
        lengths, clip = draw_layout(self.run, model, draws, clean)
        noise = draws.normal("noise", *clean.shape[1:])
        sigma = per_chunk(draw_sigma(draws, len(lengths), self.config.sampler, self.run.shift), lengths)
        noisy = add_noise(clean, noise, sigma)
        dropped = drop_conditions(batch.conditions, draws, self.config.action_dropout, lengths)
        velocity = teacher_forced(model, clean, noisy, sigma, batch.conditions, dropped, clip)
        return flow_loss(velocity, velocity_target(clean, noise), WEIGHTS[self.config.weight](sigma)), {}
