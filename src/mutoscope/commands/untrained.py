"""A recipe's model with random weights: as large and as fast as the trained one, to measure before anything is trained."""

from pathlib import Path

import torch

from mutoscope.core.streams import stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.memory.policy import state_of
from mutoscope.models.checkpoint import FORMAT_VERSION, Checkpoint, CheckpointManifest, Starts, freeze, placeless
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.train.build import transformer_config
from mutoscope.train.config import RunConfig

CONTEXT_FRAMES = 4


def untrained_checkpoint(run: RunConfig, device: str) -> Checkpoint:
    """A student of the recipe's dimensions, with random weights and one grey start clip."""
    codec_stage = run.codec_stage
    codec = ConvCodec(ConvCodecConfig(run.data.height, run.data.width, codec_stage.latent_channels, codec_stage.widths, codec_stage.blocks))
    actions = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
    config = transformer_config(run.model, codec, actions.dim, state_of(run.memory))
    model = VideoTransformer(config).initialise(stream(run.seed, "model weights"))
    codec.initialise(stream(run.seed, "codec weights"))
    world = WorldSpec(run.data.world, run.data.height, run.data.width, 17.5, actions)
    path = Path(f"untrained-{run.name}")
    return Checkpoint(path, _manifest(run, codec, config, world), freeze(model.to(device)), freeze(codec.to(device)), _grey_start(world))


def _manifest(run: RunConfig, codec: ConvCodec, config: TransformerConfig, world: WorldSpec) -> CheckpointManifest:
    return CheckpointManifest(
        format_version=FORMAT_VERSION,
        stage="matching",
        world=world,
        codec=codec.config,
        model=config,
        codec_hash="",
        memory=run.memory,
        chunk_frames=run.chunk_frames,
        clip_frames=run.clip_frames,
        shift=run.shift,
        teacher_steps=0,
        student_steps=2,
        first_chunk_steps=4,
        distilled_guidance=1.0,
        action_dropout=0.0,
        precision="fp32",
        updates=0,
        parents=(),
        recipe=run.name,
        recipe_hash="",
        latent_mean=(),
        latent_std=(),
    )


def _grey_start(world: WorldSpec) -> Starts:
    frames = torch.full((1, CONTEXT_FRAMES, world.height, world.width, 3), 128, dtype=torch.uint8)
    actions, known = torch.zeros(1, CONTEXT_FRAMES, world.actions.dim), torch.zeros(1, CONTEXT_FRAMES, dtype=torch.bool)
    return placeless(frames, actions, known)
