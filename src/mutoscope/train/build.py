"""From a stage's config to its run: the table of stages, and what their checkpoints say about how to be played."""

from dataclasses import dataclass, replace

from torch import nn

from mutoscope.core.errors import ConfigError
from mutoscope.memory.kinds import StateConfig
from mutoscope.memory.policy import state_of
from mutoscope.models.checkpoint import Checkpoint, CodecConfig, StageName, freeze
from mutoscope.models.codec import Codec, ConvCodec
from mutoscope.models.lora import share_weights, taken_apart
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.train.config import (
    AutoregressiveStage,
    AverageStage,
    BidirectionalStage,
    CodecStage,
    ConsistencyStage,
    LearningStage,
    MatchingStage,
    ModelConfig,
    OdeStage,
    PublishedStage,
    RunConfig,
    StageConfig,
)
from mutoscope.train.loop import StageRun
from mutoscope.train.sources import ClipSource
from mutoscope.train.stages.codec import CodecRun
from mutoscope.train.stages.consistency import ConsistencyRun
from mutoscope.train.stages.matching import MatchingRun
from mutoscope.train.stages.ode import OdeRun
from mutoscope.train.stages.teachers import AutoregressiveRun, BidirectionalRun
from mutoscope.train.stages.windows import window_start

MANY_STEPS = 32


@dataclass(frozen=True)
class StageFigures:
    """How a stage's checkpoint is meant to be sampled."""

    kind: StageName
    teacher_steps: int = 0
    student_steps: int = MANY_STEPS
    first_chunk_steps: int = MANY_STEPS
    guidance: float = 1.0
    action_dropout: float = 0.0


def build_stage(run: RunConfig, stage: LearningStage, inputs: dict[str, Checkpoint], fresh: nn.Module, source: ClipSource) -> StageRun:
    """A stage ready for the loop. `fresh` is a new model (or codec) for the stages that start from nothing."""
    models = parent_models(stage, inputs)
    for name, model in models.items():
        if isinstance(fresh, VideoTransformer) and replace(model.config, recall=None) != replace(fresh.config, recall=None):
            raise ConfigError(f"stage '{stage.name}': the checkpoint of '{name}' has a model of another size than this recipe's")
    match stage, fresh:
        case CodecStage(), ConvCodec():
            return CodecRun.make(stage, fresh)
        case BidirectionalStage(), VideoTransformer():
            return BidirectionalRun.make(run, stage, fresh)
        case AutoregressiveStage(), VideoTransformer():
            return AutoregressiveRun.make(run, stage, with_memory(models[stage.start], fresh).requires_grad_(True))
        case OdeStage(), _:
            return OdeRun.make(run, stage, models[stage.start], source)
        case ConsistencyStage(), _:
            return ConsistencyRun.make(run, stage, models[stage.start])
        case MatchingStage(), _:
            return MatchingRun.make(run, stage, models[stage.start], models[stage.score], window_start(inputs[stage.start].codec))
    raise ConfigError(f"stage '{stage.name}' of kind {type(stage).__name__} cannot be built around a {type(fresh).__name__}")


def parent_models(stage: LearningStage, inputs: dict[str, Checkpoint]) -> dict[str, VideoTransformer]:
    """The models of a stage's parents. Where the stage goes on with their adapters, these are taken off the weights that they stand beside.

    In matching, a student that stands on the very weights of the teacher then shares them with it and with the critic.
    """
    lora, models = stage.update.trains, {}
    for name, checkpoint in inputs.items():
        adapter = checkpoint.adapter
        goes_on = adapter is not None and adapter.config == lora
        models[name] = taken_apart(checkpoint.model, adapter) if adapter is not None and goes_on else checkpoint.model
    if isinstance(stage, MatchingStage) and lora != "all weights":
        share_weights(models[stage.start], models[stage.score])
    return {name: freeze(model) for name, model in models.items()}


def with_memory(model: VideoTransformer, fresh: VideoTransformer) -> VideoTransformer:
    """The trained model with the fresh one's learned memory, whose gate is shut, so that adding it changes nothing at first."""
    if model.config == fresh.config:
        return model
    if model.config.recall is not None:
        raise ConfigError(f"the checkpoint has the learned memory {model.config.recall}, and this recipe wants {fresh.config.recall}")
    weights = {name: value for name, value in fresh.state_dict().items() if ".recall." in name}
    fresh.load_state_dict(weights | model.state_dict(), assign=True)
    return fresh


def recall_of(run: RunConfig, stage: StageConfig) -> StateConfig | None:
    """The learned memory of a stage's model: that of the run's memory, but whole clips need none."""
    return None if isinstance(stage, (CodecStage, BidirectionalStage, PublishedStage)) else state_of(run.memory)


def transformer_config(model: ModelConfig, codec: Codec | CodecConfig, action_dim: int, recall: StateConfig | None) -> TransformerConfig:
    """A recipe's transformer, sized for its codec and world, with a learned memory or without.

    One with a camera needs a world whose actions move it (models.camera_config.CAMERA_ACTIONS), else it is a ConfigError.
    """
    return TransformerConfig(
        latent=codec.latent,
        dim=model.dim,
        ffn_dim=model.ffn_dim,
        num_heads=model.num_heads,
        num_layers=model.num_layers,
        patch=model.patch,
        freq_dim=model.freq_dim,
        action_dim=action_dim,
        temporal_stride=codec.temporal_stride,
        text_dim=model.text_dim,
        travel=model.travel,
        recall=recall,
        camera=model.camera,
    )


def stage_figures(stage: StageConfig, inputs: dict[str, Checkpoint]) -> StageFigures:
    """What the manifest says about sampling."""
    match stage:
        case CodecStage():
            return StageFigures("codec")
        case PublishedStage():
            return StageFigures("bidirectional")
        case BidirectionalStage():
            return StageFigures("bidirectional", action_dropout=stage.action_dropout)
        case AutoregressiveStage():
            return StageFigures("autoregressive", action_dropout=stage.action_dropout)
        case OdeStage():
            return StageFigures("ode", stage.solver_steps, stage.student_steps, max(4, stage.student_steps), stage.guidance)
        case ConsistencyStage():
            return StageFigures("consistency", stage.grid_steps, 4, 4, stage.guidance)
        case AverageStage():
            played = inputs[stage.of[0]].manifest
            figures = played.teacher_steps, played.student_steps, played.first_chunk_steps, played.distilled_guidance
            return StageFigures("matching", *figures)
    guidance = inputs[stage.start].manifest.distilled_guidance
    return StageFigures("matching", inputs[stage.start].manifest.teacher_steps, stage.student_steps, stage.first_chunk_steps, guidance)


def expected_figures(run: RunConfig, stage: StageConfig) -> StageFigures:
    """What the recipe says about sampling a stage whose parents are not at hand, such as imported weights."""
    if isinstance(stage, AverageStage):
        return expected_figures(run, run.stage(stage.of[0]))
    if isinstance(stage, MatchingStage):
        start = expected_figures(run, run.stage(stage.start))
        return StageFigures("matching", start.teacher_steps, stage.student_steps, stage.first_chunk_steps, start.guidance)
    return stage_figures(stage, {})
