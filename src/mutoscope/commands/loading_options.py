"""Options that several commands have: in which numbers a model runs, how its passes run, and which decoder shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro


@dataclass(frozen=True)
class SpeedOptions:
    """How passes run (docs/speed.md)."""

    attention: Literal["sdpa", "cudnn", "flash", "flex"] = "sdpa"
    """Kernel of attention: torch's choice, or by name; cudnn and flash need CUDA."""
    runner: Literal["plain", "static", "graph", "compile", "compile-graph"] = "plain"
    """How passes run: as they are, with tensors that stay in place, as CUDA graphs, through torch.compile (docs/speed.md)."""
    cache: Literal["plain", "int8", "fp8"] = "plain"
    """Type of keys and values in memory: the model's, or eight bits with a scale per token and head."""
    weights: Literal["plain", "int8", "int8-dynamic", "fp8", "fp8-dynamic"] = "plain"
    """Type of the layers' matrices; all but plain need torchao."""


@dataclass(frozen=True)
class LoadingOptions:
    """How a checkpoint is loaded to be played."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the model's weights, cache and arithmetic; bf16 is for GPUs."""
    codec_precision: Literal["model", "fp32", "bf16"] = "model"
    """Type of the codec's weights and arithmetic; default: that of the model."""
    decoder: str = "whole"
    """What makes the pictures of a world with Wan's codec: whole, tiles, tiles=HEIGHTxWIDTH,OVERLAP in latent cells (such as
    tiles=32x32,8), or a file of a tiny decoder in TAEHV's layout (taew2_1.pth, taew2_1.safetensors)."""
    speed: tyro.conf.OmitArgPrefixes[SpeedOptions] = SpeedOptions()
