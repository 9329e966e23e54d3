"""What `mutoscope bench RECIPE` times: a stream of a recipe's model with random weights, pass by pass and running free.

Torch, NumPy and safetensors suffice (and diffusers for Wan's own codec), so that it runs where only those are: benchmarks/gpu.py.
A stream begins with nothing, as text-to-video does: its first chunk sees itself alone and takes the first chunk's steps.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mutoscope.commands.loading import PRECISIONS, PrecisionName
from mutoscope.core.errors import ConfigError, MissingPackageError
from mutoscope.core.streams import normal, stream
from mutoscope.core.transfer import upload
from mutoscope.memory.policy import PolicyConfig, state_of
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import freeze
from mutoscope.models.codec import Codec, ConvCodec, ConvCodecConfig, to_frames
from mutoscope.models.conditions import Conditions
from mutoscope.models.decoders import computing_in
from mutoscope.models.quantised import WeightName, quantise_weights
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.models.transformer import VideoTransformer, told_once
from mutoscope.models.wan_codec import wan_codec
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.noise.schedule import few_step_levels
from mutoscope.rollout.executor import Runner, drive
from mutoscope.rollout.fused import FreeRun
from mutoscope.rollout.planner import Trace, commit_chunk, few_step_chunk, row_groups, row_jobs
from mutoscope.rollout.speed import PLAIN_SPEED, Speed
from mutoscope.train.build import transformer_config
from mutoscope.train.config import RunConfig

CodecName = Literal["own", "tiny", "none"]
ACTIONS = 4  # of a recipe whose world has keys
HEAD_SPREAD = 0.02  # of the output head, which otherwise starts at zero: its frames are to be of numbers that move


@dataclass(frozen=True)
class StreamSettings:
    """What is streamed and how: the recipe's model in a precision, steps (the first chunk has its own), memory, codec, prompt tokens."""

    run: RunConfig
    steps: int
    first_steps: int
    policy: PolicyConfig
    codec: CodecName
    precision: PrecisionName
    device: str
    rows: int = 1
    text: int = 512
    speed: Speed = PLAIN_SPEED
    weights: WeightName = "plain"

    def __post_init__(self) -> None:
        if min(self.steps, self.first_steps, self.rows, self.text) < 1:
            raise ConfigError(
                f"steps, rows and prompt tokens must be at least 1, got {self.steps}, {self.first_steps}, {self.rows}, {self.text}"
            )
        self.policy.capacity(self.run.chunk_frames)
        if state_of(self.policy) != state_of(self.run.memory):
            raise ConfigError("a learned memory is part of the model: change it in the recipe (--set memory=...), not in --policy")


def sized(run: RunConfig, size: str) -> RunConfig:
    """The recipe for pictures of `HEIGHTxWIDTH`, its codec too where that is Wan's."""
    height, x, width = size.partition("x")
    if not (x and height.isdigit() and width.isdigit()):
        raise ConfigError(f"'{size}' is no size; write it like 480x832, height first")
    data = replace(run.data, height=int(height), width=int(width))
    codec = replace(run.codec, height=data.height, width=data.width) if isinstance(run.codec, WanCodecConfig) else run.codec
    return replace(run, data=data, codec=codec)


def random_model(settings: StreamSettings) -> VideoTransformer:
    """The recipe's transformer with random weights, made where it will run."""
    run, device = settings.run, torch.device(settings.device)
    actions = 0 if isinstance(run.codec, WanCodecConfig) else ACTIONS
    if run.model.camera is not None:
        actions = CAMERA_ACTIONS.dim
    with torch.device("meta"):
        model = VideoTransformer(transformer_config(run.model, _codec_shape(run), actions, state_of(run.memory)))
    model = model.to(PRECISIONS[settings.precision]).to_empty(device=device)
    with torch.no_grad():
        drawn = stream(run.seed, "model weights", device=device)
        model.initialise(drawn)
        nn.init.normal_(model.head.head.weight, std=HEAD_SPREAD, generator=drawn)
    return quantise_weights(freeze(model), settings.weights, device)


def random_codec(settings: StreamSettings) -> tuple[Codec | None, str]:
    """The codec of the stream with random weights, and in words what it is: None where it is left out or cannot be had."""
    run, dtype = settings.run, PRECISIONS[settings.precision]
    if settings.codec == "none":
        return None, "not measured: left out"
    if settings.codec == "tiny":
        tiny = taew_2_1(run.data.height, run.data.width)
        if not isinstance(run.codec, WanCodecConfig) or run.codec.latent != TinyCodec(tiny).latent:
            raise ConfigError(f"the tiny codec has Wan's latents, and those of '{run.name}' are others; use --codec own or none")
        return freeze(TinyCodec(tiny).to(settings.device, dtype)), "taew2_1, a tiny decoder, random weights"
    if isinstance(run.codec, WanCodecConfig):
        try:
            codec = wan_codec(run.codec).initialise(stream(run.seed, "codec weights"))
        except MissingPackageError as error:
            return None, f"not measured: {error}"
        return freeze(codec.to(settings.device, dtype)), "Wan 2.1's VAE, random weights"
    own = ConvCodec(_conv_config(run)).initialise(stream(run.seed, "codec weights"))
    return freeze(computing_in(own, dtype).to(settings.device)), "the recipe's own, random weights"


def _conv_config(run: RunConfig) -> ConvCodecConfig:
    stage = run.codec_stage
    return ConvCodecConfig(run.data.height, run.data.width, stage.latent_channels, stage.widths, stage.blocks)


def _codec_shape(run: RunConfig) -> Codec | WanCodecConfig:
    return run.codec if isinstance(run.codec, WanCodecConfig) else ConvCodec(_conv_config(run))


class Stream:
    """One stream: a store, a codec state, and the chunks made so far. `pictures` decodes and brings pixel frames to the host."""

    def __init__(self, settings: StreamSettings, model: VideoTransformer, codec: Codec | None) -> None:
        self.settings, self.model, self.codec, speed = settings, model, codec, settings.speed
        self.rows, self.chunk = settings.rows, settings.run.chunk_frames
        like = torch.zeros(0, device=settings.device, dtype=PRECISIONS[settings.precision])
        self.store = model.new_store(settings.policy, self.chunk, self.rows, like, speed.extras(self.chunk))
        self.runner: Runner = speed.run(model)
        self.free = FreeRun(speed.executor(model), self.store) if speed.commits == "fused" else None
        self.groups = row_groups(settings.policy, self.rows)
        self.conditions = self._conditions()
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        for row in range(self.rows):
            self.store.clear(row)
        if self.free is not None:
            self.free.open = None
        self.chunks, self.latents = 0, torch.zeros(0)
        self.codec_state = () if self.codec is None else self.codec.start_decoding(self.rows)

    def denoise(self) -> None:
        """The next chunk's latents, left on the device."""
        steps = self.settings.steps if self.chunks else self.settings.first_steps
        levels = tuple(few_step_levels(steps, self.settings.run.shift).tolist())
        jobs = row_jobs(self.store, self.groups, self.chunk, self.conditions, self._noise)
        if self.free is not None:
            (job,) = jobs
            self.latents = self.free.chunk(job, few_step_chunk(job, levels, Trace()))
            return
        self.latents = torch.cat(drive(self.runner, [few_step_chunk(job, levels, Trace()) for job in jobs]))

    def commit(self) -> None:
        """Write the chunk into memory; where commits are fused, the next chunk does."""
        self.chunks += 1
        if self.free is not None:
            return
        parts = [(rows, self.latents[rows], self.conditions.rows(rows)) for rows in self.groups]
        drive(self.runner, [commit_chunk(self.store, rows, latents, conditions) for rows, latents, conditions in parts])

    def advance(self) -> None:
        """A chunk and its commit."""
        self.denoise()
        self.commit()

    def pictures(self) -> np.ndarray | None:
        """The chunk as uint8 pixel frames on the host, where there is a codec."""
        if self.codec is None:
            return None
        pixels, self.codec_state = self.codec.decode_next(self.latents, self.codec_state)
        return to_frames(pixels).cpu().numpy()

    @property
    def filled(self) -> bool:
        """Whether no frame reads more frames than the one before did."""
        parts = [(len(part.ledgers[0].slot_of), part.spec.policy.capacity(self.chunk)) for part in self.store.parts]
        return all(taken + self.chunk > slots - self.chunk for taken, slots in parts)

    @property
    def pixel_frames(self) -> int:
        """Of all rows, per chunk."""
        return self.rows * self.chunk * self.model.config.temporal_stride

    def _conditions(self) -> Conditions:
        """The same for every chunk: random actions, a random prompt, read once as a session reads it, cameras at the beginning."""
        config, seed, device = self.model.config, self.settings.run.seed, self.settings.device
        actions = normal((self.rows, self.chunk, config.temporal_stride, config.action_dim), stream(seed, "bench actions"))
        text = normal((self.rows, self.settings.text if config.text_dim else 0, config.text_dim), stream(seed, "bench prompt"))
        known, travel = torch.ones(self.rows, self.chunk, dtype=torch.bool), torch.zeros(self.rows, self.chunk, config.action_dim).double()
        conditions = with_cameras(Conditions(actions, known, travel, text, text), config.camera)
        return told_once(self.model, conditions.to(device, PRECISIONS[self.settings.precision]))

    def _noise(self, frame: int, draw: int) -> Tensor:
        latent = self.model.config.latent
        shape = (self.rows, self.chunk, latent.channels, latent.height, latent.width)
        return upload(normal(shape, stream(self.settings.run.seed, "bench noise", frame, draw)), self.settings.device)
