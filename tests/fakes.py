"""Tiny models, clips and checkpoints with random weights, for tests of every room."""

from pathlib import Path

import torch
from torch import Tensor, nn

from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import normal, stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.memory.anchored import Anchored
from mutoscope.memory.choosing import Different, Merging, Participative, Retrieval
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import FastWeights, GatedDelta, LinearState
from mutoscope.memory.policy import (
    ContentConfig,
    DeepSink,
    EmaSink,
    Full,
    Policy,
    PolicyConfig,
    RecencyBias,
    RollingWindow,
    SinkWindow,
    Stateful,
    Window,
    state_of,
)
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import FORMAT_VERSION, Checkpoint, CheckpointManifest, StageName, Starts, freeze, placeless
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.conditions import Conditions, action_conditions
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.recipes import recipe
from mutoscope.train.build import transformer_config

ACTIONS = ActionSpec("multi_binary", ("forward", "turn_left", "turn_right"))
WORLD = WorldSpec("fake", 12, 20, 17.5, ACTIONS)
CODEC = ConvCodecConfig(WORLD.height, WORLD.width, latent_channels=4, widths=(6, 8), blocks=1)
ODD = LatentShape(CODEC.latent_channels, 3, 5)
# One of each kind, small enough that eleven frames overflow what can overflow.
POLICIES: dict[str, PolicyConfig] = {"full": Full(16), "window": Window(4), "sink": SinkWindow(2, 4)}
# Rules of published memories: other positions, blended sinks, biased logits.
RULES: dict[str, PolicyConfig] = {
    "deep-sink": DeepSink(6),
    "ema-sink": EmaSink(2, 4, decay=0.5),
    "rolling": RollingWindow(4),
    "recency": RecencyBias(6, strength=2.0),
    "anchored": Anchored(1, 1, 4),
}
# Learned memories beside a cache, and one in place of it (the cache holds the chunk alone).
STATEFUL: dict[str, PolicyConfig] = {
    "window+linear": Stateful(Window(4), LinearState()),
    "sink+linear": Stateful(SinkWindow(2, 4), LinearState()),
    "window+gated-delta": Stateful(Window(4), GatedDelta()),
    "window+fast-mlp": Stateful(Window(4), FastWeights("mlp", 1)),
    "sink+fast-swiglu": Stateful(SinkWindow(1, 4), FastWeights("swiglu", 2)),
    "recency+linear": Stateful(RecencyBias(5), LinearState()),
    "rolling+gated-delta": Stateful(RollingWindow(4), GatedDelta()),
    "fast-swiglu alone": Stateful(Window(3), FastWeights("swiglu", 1)),
}
# Learned memories that are told what the last denoising pass made of a chunk, and nothing by its commit.
LAST_PASS: dict[str, PolicyConfig] = {
    "sink+linear, last pass": Stateful(SinkWindow(1, 4), LinearState("last pass")),
    "window+gated-delta, last pass": Stateful(Window(4), GatedDelta("last pass")),
    "window+fast-swiglu, last pass": Stateful(Window(4), FastWeights("swiglu", 1, "last pass")),
}
STATEFUL |= LAST_PASS
ALL_POLICIES = POLICIES | RULES | STATEFUL
# Those that choose by content; the archives hold five frames of the tiny model in float64, so that eleven overflow them.
CHOOSING: dict[str, ContentConfig] = {
    "participative": Participative(budget=4, recent=1, sink=1, room=3),
    "participative frames": Participative(budget=4, recent=1, sink=1, room=3, grain="frames"),
    "similarity": Retrieval(2, 4, "similarity", host_mib=0.06),
    "place": Retrieval(2, 4, "place", host_mib=0.06),
    "merging": Merging(6, recent=1),
    "different": Different(6, recent=2),
    "different tokens": Different(6, recent=2, grain="tokens"),
    "head-wise": HeadWise(1, sink=1, window=3, frames=6, recent=1, heads=((1,), (0,))),
    "head-wise frames": HeadWise(1, sink=1, window=3, frames=6, recent=1, heads=((1,), (0,)), grain="frames"),
}


def scatter_parameters(module: nn.Module, seed: int) -> None:
    """Add named noise to every parameter, so that no zero of a fresh module hides a path."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.2 * normal(tuple(parameter.shape), stream(seed, "scatter", index)))


def tiny_config(**changes: object) -> TransformerConfig:
    """Two layers of two heads over a 3 x 5 grid of single-cell patches."""
    sizes: dict = dict(latent=ODD, dim=24, ffn_dim=32, num_heads=2, num_layers=2, freq_dim=16, action_dim=ACTIONS.dim, travel=True)
    return TransformerConfig(**{**sizes, **changes})


def recipe_transformer(name: str) -> TransformerConfig:
    """The dimensions of a recipe with Wan's codec."""
    run = recipe(name)
    assert isinstance(run.codec, WanCodecConfig)
    return transformer_config(run.model, run.codec, 0 if run.model.camera is None else CAMERA_ACTIONS.dim, None)


def tiny_model(config: TransformerConfig | None = None, seed: int = 0) -> VideoTransformer:
    """A float64 model without a single zero weight."""
    model = VideoTransformer(config or tiny_config()).initialise(stream(seed, "fake model"))
    scatter_parameters(model, seed)
    return model.double()


def model_for(policy: Policy, seed: int = 0) -> VideoTransformer:
    """A tiny model with the learned memory that a policy wants, if it wants one."""
    return tiny_model(tiny_config(recall=state_of(policy)), seed)


def tiny_latents(frames: int, batch: int = 2, seed: int = 0, latent: LatentShape = ODD) -> Tensor:
    """Standard normal latents in float64."""
    shape = (batch, frames, latent.channels, latent.height, latent.width)
    return normal(shape, stream(seed, "fake latents"), torch.float64)


def tiny_conditions(frames: int, batch: int = 2, seed: int = 0) -> Conditions:
    """Random actions; those of frame 0 are not known."""
    actions = normal((batch, frames, 1, ACTIONS.dim), stream(seed, "fake actions"), torch.float64)
    known = torch.ones(batch, frames, dtype=torch.bool)
    known[:, 0] = False
    return action_conditions(actions, known)


def tiny_manifest(stage: StageName = "matching", chunk_frames: int = 1, **changes: object) -> CheckpointManifest:
    """A manifest that fits `tiny_config` and `CODEC`."""
    values: dict = dict(
        format_version=FORMAT_VERSION, stage=stage, world=WORLD, codec=CODEC, model=tiny_config(), codec_hash="0" * 16,
        memory=POLICIES["window"], chunk_frames=chunk_frames, clip_frames=8, shift=5.0, teacher_steps=8, student_steps=2,
        first_chunk_steps=4, distilled_guidance=1.0, action_dropout=0.0, precision="fp32", updates=0, parents=(), recipe="fake",
        recipe_hash="0" * 16, latent_mean=(0.0,) * 4, latent_std=(1.0,) * 4,
    )  # fmt: skip
    return CheckpointManifest(**{**values, **changes})


def tiny_codec(seed: int = 0) -> ConvCodec:
    """A random codec, 12 x 20 pixels to 3 x 5 cells."""
    codec = ConvCodec(CODEC).initialise(stream(seed, "fake codec"))
    scatter_parameters(codec, seed)
    return freeze(codec)


def tiny_starts(count: int = 2, context: int = 2, seed: int = 0) -> Starts:
    """Random pictures as start clips."""
    shape = (count, context, WORLD.height, WORLD.width, 3)
    frames = torch.randint(0, 256, shape, generator=stream(seed, "fake starts"), dtype=torch.uint8)
    known = torch.ones(count, context, dtype=torch.bool)
    known[:, 0] = False
    return placeless(frames, torch.zeros(count, context, ACTIONS.dim), known)


def tiny_checkpoint(stage: StageName = "matching", chunk_frames: int = 1, context: int = 2) -> Checkpoint:
    """A playable checkpoint in float32 that was never saved."""
    model = freeze(tiny_model().float())
    return Checkpoint(Path("nowhere"), tiny_manifest(stage, chunk_frames), model, tiny_codec(), tiny_starts(context=context))
