"""What a recipe says about the checkpoint of a stage: the part of its manifest that trained and imported weights have in common."""

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import WorldSpec
from mutoscope.memory.kinds import state_name
from mutoscope.models.checkpoint import FORMAT_VERSION, CheckpointManifest, CodecConfig
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.train.build import StageFigures, recall_of, transformer_config
from mutoscope.train.config import CodecStage, MatchingStage, PublishedStage, RunConfig, StageConfig


def recipe_manifest(run: RunConfig, stage: StageConfig, figures: StageFigures, world: WorldSpec, codec: CodecConfig) -> CheckpointManifest:
    """The manifest of a stage's result, its figures for play included; whose weights they are is still to be filled in."""
    dim, is_codec = world.actions.dim, isinstance(stage, CodecStage)
    camera = run.model.camera is not None
    told = (("actions", not camera and (dim or not run.model.text_dim)), ("camera", camera), ("text", run.model.text_dim))
    return CheckpointManifest(
        format_version=FORMAT_VERSION,
        stage=figures.kind,
        world=world,
        codec=codec,
        model=None if is_codec else transformer_config(run.model, codec, dim, recall_of(run, stage)),
        codec_hash="",
        memory=run.memory_of(stage),
        chunk_frames=run.chunk_frames,
        clip_frames=run.clip_frames,
        shift=run.shift,
        teacher_steps=figures.teacher_steps,
        student_steps=figures.student_steps,
        first_chunk_steps=figures.first_chunk_steps,
        distilled_guidance=figures.guidance,
        action_dropout=figures.action_dropout,
        precision=run.precision,
        updates=0,
        parents=(),
        recipe=run.name,
        recipe_hash="",
        latent_mean=codec.latents_mean if isinstance(codec, WanCodecConfig) else (),
        latent_std=codec.latents_std if isinstance(codec, WanCodecConfig) else (),
        conditions=tuple(name for name, size in told if size),
        memory_modules=memory_modules(run, stage),
        text=run.text,
        beginning=run.beginning,
    )


def memory_modules(run: RunConfig, stage: StageConfig) -> tuple[str, ...]:
    """The learned memory in a stage's model, and whether the stage taught its writing."""
    recall = recall_of(run, stage)
    if recall is None:
        return ()
    frozen = isinstance(stage, MatchingStage) and stage.memory_writes == "frozen"
    taught = "writing frozen (matching reads what the detached past wrote)" if frozen else "writing taught"
    source = ", from last passes" if recall.written_from == "last pass" else ""
    return (f"{state_name(recall)}: {taught}{source}",)


def codec_source(run: RunConfig) -> CodecStage | PublishedStage:
    """The stage whose checkpoint holds a run's codec: the first, which trains it, or the published weights that it came with."""
    if not isinstance(run.codec, WanCodecConfig):
        return run.codec_stage
    for stage in run.stages:
        if isinstance(stage, PublishedStage):
            return stage
    raise ConfigError(f"'{run.name}' has Wan's codec and no stage of published weights that it could come with; add a PublishedStage")


def temporal_stride(run: RunConfig) -> int:
    """Pixel frames of a run's codec per frame, after a clip's first."""
    return run.codec.temporal_stride if isinstance(run.codec, WanCodecConfig) else 1
