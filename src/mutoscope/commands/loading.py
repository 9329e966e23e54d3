"""How a checkpoint is brought onto a device to be played: in which numbers, by which decoder it is shown, and how its passes run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from mutoscope.models.checkpoint import Checkpoint, load_adapter, load_codec, load_model, load_starts, read_manifest
from mutoscope.models.decoders import check_decoder, computing_in, parse_decoder, with_decoder
from mutoscope.models.quantised import WeightName, quantise_weights
from mutoscope.rollout.session import SessionConfig
from mutoscope.rollout.speed import PLAIN_SPEED, CommitName, Speed

if TYPE_CHECKING:
    from mutoscope.commands.loading_options import LoadingOptions

PrecisionName = Literal["fp32", "bf16"]
CodecPrecisionName = Literal["model", "fp32", "bf16"]
PRECISIONS: dict[PrecisionName, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """Device, type of the model's numbers and of the codec's ("model": the same), type of the layers' matrices, decoder, speed of sessions.

    decoder: as in models.decoders.parse_decoder. What is narrowed is narrowed before it goes to the device.
    """

    device: str = "cpu"
    precision: PrecisionName = "fp32"
    weights: WeightName = "plain"
    speed: Speed = PLAIN_SPEED
    codec_precision: CodecPrecisionName = "model"
    decoder: str = "whole"

    def check(self, path: Path) -> None:
        """Whether the checkpoint can be shown by this decoder; its weights are not read."""
        check_decoder(parse_decoder(self.decoder), read_manifest(path).codec)

    def load(self, path: Path) -> Checkpoint:
        """The checkpoint as asked for."""
        self.check(path)
        manifest, codec = load_codec(path)
        codec = computing_in(codec, self.codec_dtype).to(self.device)
        quantised = self.weights != "plain"  # layer by layer, from the host
        _, model = load_model(path, "cpu" if quantised else self.device, mapped=quantised, dtype=PRECISIONS[self.precision])
        quantise_weights(model, self.weights, self.device)
        starts = load_starts(path / "starts.safetensors", manifest.world)
        return Checkpoint(path, manifest, model, with_decoder(codec, parse_decoder(self.decoder)), starts, load_adapter(path))

    @property
    def codec_dtype(self) -> torch.dtype:
        """Type of the codec's numbers."""
        return PRECISIONS[self.precision if self.codec_precision == "model" else self.codec_precision]

    def config(self, config: SessionConfig) -> SessionConfig:
        """A session's config with the speed that was asked for."""
        return replace(config, speed=self.speed)


def loading_of(device: str, options: LoadingOptions, commits: CommitName = "own") -> Loading:
    """What the options of a command say."""
    speed = Speed(options.speed.attention, options.speed.runner, options.speed.cache, commits)
    return Loading(device, options.precision, options.speed.weights, speed, options.codec_precision, options.decoder)
