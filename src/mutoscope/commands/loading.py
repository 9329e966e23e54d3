"""How a checkpoint is brought onto a device to be played: in which numbers, and how its passes run."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.models.quantised import WeightName, quantise_weights
from mutoscope.rollout.session import SessionConfig
from mutoscope.rollout.speed import PLAIN_SPEED, Speed

PrecisionName = Literal["fp32", "bf16"]
PRECISIONS: dict[PrecisionName, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Loading:
    """Device, type of the model's numbers (the codec keeps its own), type of the layers' matrices, and speed of sessions."""

    device: str = "cpu"
    precision: PrecisionName = "fp32"
    weights: WeightName = "plain"
    speed: Speed = PLAIN_SPEED

    def load(self, path: Path) -> Checkpoint:
        """The checkpoint as asked for."""
        checkpoint = load_checkpoint(path, self.device)
        checkpoint.model.to(PRECISIONS[self.precision])
        quantise_weights(checkpoint.model, self.weights)
        return checkpoint

    def config(self, config: SessionConfig) -> SessionConfig:
        """A session's config with the speed that was asked for."""
        return replace(config, speed=self.speed)
