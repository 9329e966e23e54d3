"""Published codec weights: Wan's VAE as a diffusers folder or in its original layout, and tiny autoencoders in TAEHV's layout.

Foreign files are read with `weights_only=True`. Every key must fit: what is missing, unexpected or of another shape is named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.checkpoint import freeze
from mutoscope.models.fitting import misfits, shortened
from mutoscope.models.foreign import read_foreign
from mutoscope.models.tiny_codec import Grow, TinyCodec, TinyCodecConfig
from mutoscope.models.wan_codec import WanCodec, wan_codec
from mutoscope.models.wan_codec_weights import from_original
from mutoscope.models.wan_config import WanCodecConfig, wan_2_1

CLASS_NAME = "AutoencoderKLWan"
FIRST_OF_TINY = "decoder.1.weight"  # [width, latent channels, 3, 3]
# Fields of a diffusers config that this codec has under its own names, and values of the others that it can do without.
OWN_FIELDS = ("base_dim", "z_dim", "dim_mult", "num_res_blocks", "temperal_downsample", "latents_mean", "latents_std")
FIXED_FIELDS: dict[str, tuple[Any, ...]] = {
    "attn_scales": ([],),
    "dropout": (0.0,),
    "is_residual": (False,),
    "in_channels": (3,),
    "out_channels": (3,),
    "patch_size": (None,),
}


def load_wan_codec(path: Path, height: int, width: int) -> WanCodec:
    """A Wan VAE for pictures of a size, frozen, in float32.

    `path` is a diffusers folder (the VAE's own or that of a pipeline, with `vae/` in it) or the original `Wan2.1_VAE.pth`, whose sizes are
    those of `wan_2_1`: that layout has none of its own.
    """
    weights = read_foreign(Path(path), folder="vae")
    if weights.config is None:
        return original_wan_codec(Path(path), wan_2_1(height, width))
    codec = wan_codec(read_wan_config(weights.config, weights.source / "config.json", height, width))
    fill(codec.vae, weights.tensors, weights.source)
    return freeze(codec)


def original_wan_codec(path: Path, config: WanCodecConfig) -> WanCodec:
    """The original layout with a configuration, through diffusers' converter, which knows its four stages of two blocks alone."""
    if len(config.dim_mult) != 4 or config.num_res_blocks != 2:
        raise ConfigError(
            f"the original layout has 4 widths and 2 blocks per stage, not {len(config.dim_mult)} and {config.num_res_blocks}"
        )
    codec = wan_codec(config)
    fill(codec.vae, from_original(read_foreign(path).tensors), path)
    return freeze(codec)


def read_wan_config(plain: Mapping[str, Any], path: Path, height: int, width: int) -> WanCodecConfig:
    """What a diffusers `config.json` at `path` says; a VAE of another class, or with parts that this codec lacks, is a CheckpointError."""
    told = {name: value for name, value in plain.items() if not name.startswith("_")}
    if plain.get("_class_name") != CLASS_NAME:
        raise CheckpointError(f"{path} describes a {plain.get('_class_name')!r}; this codec reads an {CLASS_NAME}")
    missing = [name for name in OWN_FIELDS if name not in told]
    if missing:
        raise CheckpointError(f"{path} does not say {', '.join(missing)}; copy the whole folder again")
    config = WanCodecConfig(
        height,
        width,
        told["base_dim"],
        told["z_dim"],
        tuple(told["dim_mult"]),
        told["num_res_blocks"],
        tuple(told["temperal_downsample"]),
        tuple(told["latents_mean"]),
        tuple(told["latents_std"]),
    )
    allowed = FIXED_FIELDS | {
        "decoder_base_dim": (None, config.base_dim),
        "scale_factor_spatial": (config.spatial_stride,),
        "scale_factor_temporal": (config.temporal_stride,),
    }
    odd = [f"{name} = {told[name]!r}" for name in told if name not in OWN_FIELDS and told[name] not in allowed.get(name, ())]
    if odd:
        raise CheckpointError(f"{path} has {', '.join(odd)}; this codec is the VAE of Wan 2.1, which has none of that")
    return config


def load_tiny_codec(path: Path, config: TinyCodecConfig) -> TinyCodec:
    """A tiny autoencoder from a `.pth` or `.safetensors` file of TAEHV's layout, frozen, in float32.

    Where a stage of the decoder keeps the frame rate but the file's layer could double it, the layer's last frame is taken, as that
    project does.
    """
    with torch.device("meta"):
        codec = TinyCodec(config)
    tensors = dict(read_foreign(Path(path)).tensors)
    for name, layer in codec.decoder.named_children():
        key = f"decoder.{name}.conv.weight"
        if isinstance(layer, Grow) and key in tensors:
            tensors[key] = tensors[key][-len(layer.conv.weight) :].contiguous()
    fill(codec, tensors, Path(path))
    return freeze(codec)


def tiny_channels(path: Path) -> int:
    """Channels of the latents that a file of TAEHV's layout decodes; a file of another layout is a CheckpointError."""
    first = read_foreign(Path(path)).tensors.get(FIRST_OF_TINY)
    if first is None or first.ndim != 4:
        raise CheckpointError(f"{path} has no layer '{FIRST_OF_TINY}'; a tiny decoder is a file of TAEHV's layout, such as taew2_1.pth")
    return first.shape[1]


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Weights in float32 into a module on the meta device; every key that does not fit is named, up to a few."""
    if problems := misfits(module.state_dict(), tensors):
        raise CheckpointError(f"{source} does not fit the codec: {shortened(problems)}")
    module.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
