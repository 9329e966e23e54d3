"""Published codec weights: Wan's VAE as a diffusers folder or in its original layout, and tiny autoencoders in TAEHV's layout.

Foreign files are read with `weights_only=True`. Every key must fit: what is missing, unexpected or of another shape is named.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mutoscope.core.errors import CheckpointError, ConfigError, optional_import
from mutoscope.core.files import read_json
from mutoscope.models.checkpoint import freeze
from mutoscope.models.tiny_codec import Grow, TinyCodec, TinyCodecConfig
from mutoscope.models.wan_codec import WanCodec, wan_codec
from mutoscope.models.wan_config import WanCodecConfig, wan_2_1

CLASS_NAME = "AutoencoderKLWan"
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
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
MOST_NAMED = 8


def load_wan_codec(path: Path, height: int, width: int) -> WanCodec:
    """A Wan VAE for pictures of a size, frozen, in float32.

    `path` is a diffusers folder (the VAE's own or that of a pipeline, with `vae/` in it) or the original `Wan2.1_VAE.pth`, whose sizes are
    those of `wan_2_1`: that layout has none of its own.
    """
    path = Path(path)
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        codec = wan_codec(read_wan_config(folder / "config.json", height, width))
        fill(codec.vae, read_weights(folder / WEIGHTS_NAME), folder / WEIGHTS_NAME)
        return freeze(codec)
    return original_wan_codec(path, wan_2_1(height, width))


def original_wan_codec(path: Path, config: WanCodecConfig) -> WanCodec:
    """The original layout with a configuration, through diffusers' converter, which knows its four stages of two blocks alone."""
    if len(config.dim_mult) != 4 or config.num_res_blocks != 2:
        raise ConfigError(
            f"the original layout has 4 widths and 2 blocks per stage, not {len(config.dim_mult)} and {config.num_res_blocks}"
        )
    converters = optional_import("diffusers.loaders.single_file_utils", package="diffusers", extra="wan")
    codec = wan_codec(config)
    fill(codec.vae, converters.convert_wan_vae_to_diffusers(read_weights(path)), path)
    return freeze(codec)


def read_wan_config(path: Path, height: int, width: int) -> WanCodecConfig:
    """A diffusers `config.json`; a VAE of another class, or with parts that this codec does not have, is a CheckpointError."""
    plain = read_json(path, CheckpointError)
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
    tensors = read_weights(Path(path))
    for name, layer in codec.decoder.named_children():
        key = f"decoder.{name}.conv.weight"
        if isinstance(layer, Grow) and key in tensors:
            tensors[key] = tensors[key][-len(layer.conv.weight) :].contiguous()
    fill(codec, tensors, Path(path))
    return freeze(codec)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Named tensors in float32 out of a `.safetensors` or PyTorch file."""
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give a diffusers folder, a .safetensors or a .pth file")
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read as weights ({error}); copy it again") from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise CheckpointError(f"{path} holds something else than named tensors; give the file of a VAE alone")
    return {name: tensor.float() for name, tensor in tensors.items()}


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Weights into a module on the meta device; every key that does not fit is named, up to a few."""
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in sorted(set(wanted) - set(tensors))]
    problems += [f"unexpected {name}" for name in sorted(set(tensors) - set(wanted))]
    for name in sorted(set(wanted) & set(tensors)):
        if tensors[name].shape != wanted[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)}, needed {tuple(wanted[name].shape)}")
        elif not torch.isfinite(tensors[name]).all():
            problems.append(f"{name} holds NaN or infinity")
    if problems:
        more = f" and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
        raise CheckpointError(f"{source} does not fit the codec: {'; '.join(problems[:MOST_NAMED])}{more}")
    module.load_state_dict(tensors, assign=True)
