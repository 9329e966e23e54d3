"""Weights of Wan 2.1's video autoencoder, stored under the names of diffusers' AutoencoderKLWan and checked against that class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError, optional_import
from mutoscope.models.foreign import ForeignWeights
from mutoscope.models.wan_config import WanCodecConfig

# What a diffusers config.json calls the structure; all else in it that differs from the class's own default is refused.
STRUCTURE = ("z_dim", "base_dim", "dim_mult", "num_res_blocks", "temperal_downsample")
STATISTICS = ("latents_mean", "latents_std")
ORIGINAL = "decoder.middle.0.residual.0.gamma"  # a name that the original file has and diffusers' does not


@dataclass(frozen=True)
class CodecWeights:
    """Tensors under diffusers' names, and the mean and deviation of each latent channel."""

    tensors: dict[str, Tensor]
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]


def fit_codec(weights: ForeignWeights, config: WanCodecConfig) -> CodecWeights:
    """The tensors of a `vae` folder of diffusers or of Wan2.1_VAE.pth; what does not fit is named in the error."""
    shapes, settings = expected(config)
    if weights.config is not None:
        settings = compare_settings(weights.config, settings, weights)
    tensors = from_original(weights.tensors) if ORIGINAL in weights.tensors else weights.tensors
    problems = [f"missing {name}" for name in sorted(shapes.keys() - tensors.keys())]
    problems += [f"unmatched {name}" for name in sorted(tensors.keys() - shapes.keys())]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, needed {shapes[name]}"
        for name in sorted(shapes.keys() & tensors.keys())
        if tuple(tensors[name].shape) != shapes[name]
    ]
    if problems:
        raise CheckpointError(f"{weights.source} does not fit Wan's video autoencoder: {'; '.join(problems)}")
    mean, std = (tuple(map(float, settings[name])) for name in STATISTICS)
    if not len(mean) == len(std) == config.latent_channels:
        raise CheckpointError(
            f"{weights.source} has statistics of {len(mean)} and {len(std)} latent channels, needed {config.latent_channels}"
        )
    return CodecWeights(tensors, mean, std)


def expected(config: WanCodecConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, Any]]:
    """Name and shape of every weight, and the settings, of diffusers' class at this structure, without making weights."""
    diffusers = optional_import("diffusers", package="diffusers", extra="wan")
    structure = config.latent_channels, config.base_width, list(config.multipliers), config.blocks, list(config.halve_time)
    with torch.device("meta"):
        model = diffusers.AutoencoderKLWan(**dict(zip(STRUCTURE, structure, strict=True)))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}, dict(model.config)


def from_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Original names -> diffusers', by diffusers' own converter."""
    names = optional_import("diffusers.loaders.single_file_utils", package="diffusers", extra="wan")
    return names.convert_wan_vae_to_diffusers(dict(tensors))


def compare_settings(found: Mapping[str, Any], wanted: dict[str, Any], weights: ForeignWeights) -> dict[str, Any]:
    """The settings with the file's own statistics; any other that differs from what is needed is named."""
    read = {key: list(value) if isinstance(value, tuple) else value for key, value in found.items() if not key.startswith("_")}
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in wanted.items()}
    differing = [key for key, value in read.items() if key not in STATISTICS and (key not in plain or plain[key] != value)]
    if differing:
        each = ", ".join(f"{key} is {read[key]!r}, needed {plain.get(key, 'none such')!r}" for key in differing)
        raise CheckpointError(f"{weights.source / 'config.json'} is of another codec: {each}")
    return {**wanted, **{key: read[key] for key in STATISTICS if key in read}}
