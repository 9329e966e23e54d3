"""Wan 2.1's dimensions as its checkpoints write them (config.json of diffusers and of the original repository), and as we do.

Both kinds of config.json are read strictly: a value that this transformer does not have is refused by its name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import ceil
from typing import Any

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.shapes import LatentShape


@dataclass(frozen=True)
class WanCodecConfig:
    """A Wan VAE for pictures of one size; the other fields are those of diffusers' class.

    Every entry of `dim_mult` after the first halves the picture; where `temporal_downsample` says so, it halves the frame rate as well.
    `latents_mean` and `latents_std` per channel make the latents standard.
    """

    height: int
    width: int
    base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temporal_downsample: tuple[bool, ...]
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]

    def __post_init__(self) -> None:
        halvings, told = len(self.dim_mult) - 1, len(self.temporal_downsample)
        if told != halvings:
            raise ConfigError(f"temporal_downsample has {told} entries; {len(self.dim_mult)} widths have {halvings} halvings")
        if len(self.latents_mean) != self.z_dim or len(self.latents_std) != self.z_dim or min(self.latents_std) <= 0:
            raise ConfigError(f"latents_mean and latents_std need {self.z_dim} numbers each, one per channel, and every deviation above 0")
        if self.height % self.spatial_stride or self.width % self.spatial_stride or min(self.height, self.width) <= 0:
            raise ConfigError(f"a picture of {self.height}x{self.width} does not divide by the codec's stride {self.spatial_stride}")

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        return LatentShape(self.z_dim, self.height // self.spatial_stride, self.width // self.spatial_stride)

    @property
    def reach(self) -> int:
        """Latent cells on each side that the decoder's convolutions see of a pixel's own; the attention in the middle sees all of them."""
        per_block = 2 * (self.num_res_blocks + 1)
        halvings = range(1, len(self.dim_mult))
        return ceil(5 + per_block + sum((per_block + 1) / 2**level for level in halvings) + 1 / self.spatial_stride) + 1


def wan_2_1(height: int, width: int) -> WanCodecConfig:
    """The published VAE of Wan 2.1 (2503.20314), all sizes of the model: stride 8 in space, 4 in time, 16 channels."""
    return WanCodecConfig(
        height, width, base_dim=96, z_dim=16, dim_mult=(1, 2, 4, 4), num_res_blocks=2, temporal_downsample=(False, True, True),
        latents_mean=(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
                      0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
        latents_std=(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                     3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
    )  # fmt: skip


@dataclass(frozen=True)
class WanSizes:
    """The dimensions that a Wan checkpoint and a transformer of ours must have in common; the picture's size is none of them."""

    channels: int
    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    patch: int
    freq_dim: int
    text_dim: int
    eps: float

    def __post_init__(self) -> None:
        counts = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "eps"}
        if any(not isinstance(count, int) or count < 1 for count in counts.values()) or self.dim % self.num_heads:
            raise CheckpointError(f"these are no dimensions of a Wan transformer: {self}")


# Keys of a diffusers config.json that say nothing about the weights, and those that must be as they are in Wan 2.1's text-to-video models.
DIFFUSERS_IGNORED = {"_class_name", "_diffusers_version", "_name_or_path", "rope_max_seq_len"}
DIFFUSERS_FIXED = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
DIFFUSERS_POSITIONS = 1024  # the length of its table of rotary positions; ours are computed and have no end
# The same of the original config.json. What it leaves out has the value of the original code.
ORIGINAL_IGNORED = {"_class_name", "_diffusers_version", "_name_or_path", "text_len", "window_size"}
ORIGINAL_FIXED = {"model_type": "t2v", "qk_norm": True, "cross_attn_norm": True}
ORIGINAL_DEFAULTS = {"patch_size": (1, 2, 2), "text_dim": 4096}
INSTEAD = (
    "a text-to-video checkpoint fits; for image-to-video take the text-to-video checkpoint of the same size and begin with the image "
    "(--image of generate and play), which is encoded and committed as frame 0"
)


def read_sizes(config: Mapping[str, Any], where: str) -> WanSizes:
    """The dimensions in a config.json, diffusers' or the original one; `where` names the file in errors."""
    read = sizes_of_original if "model_type" in config or "in_dim" in config else sizes_of_diffusers
    try:
        return read(config, where)
    except KeyError as error:
        raise CheckpointError(f"{where} lacks {error.args[0]}; it is not the config.json of a Wan transformer") from error


def sizes_of_diffusers(config: Mapping[str, Any], where: str) -> WanSizes:
    """Those of `WanTransformer3DModel`."""
    if config["_class_name"] != "WanTransformer3DModel":
        raise CheckpointError(f"{where} is of a {config['_class_name']}; needed: the transformer folder, of a WanTransformer3DModel")
    named = {"in_channels", "out_channels", "num_attention_heads", "attention_head_dim", "ffn_dim", "num_layers", "patch_size"}
    refuse_others(config, named | {"freq_dim", "text_dim", "eps"} | DIFFUSERS_IGNORED, DIFFUSERS_FIXED, where)
    return WanSizes(
        channels=same_channels(config["in_channels"], config["out_channels"], where),
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_attention_heads"],
        num_layers=config["num_layers"],
        patch=square_patch(config["patch_size"], where),
        freq_dim=config["freq_dim"],
        text_dim=config["text_dim"],
        eps=config["eps"],
    )


def sizes_of_original(config: Mapping[str, Any], where: str) -> WanSizes:
    """Those of the original repository's `WanModel`."""
    config = {**ORIGINAL_DEFAULTS, **config}
    named = {"in_dim", "out_dim", "dim", "ffn_dim", "num_heads", "num_layers", "patch_size", "freq_dim", "text_dim", "eps"}
    refuse_others(config, named | ORIGINAL_IGNORED, ORIGINAL_FIXED, where)
    return WanSizes(
        channels=same_channels(config["in_dim"], config["out_dim"], where),
        dim=config["dim"],
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_heads"],
        num_layers=config["num_layers"],
        patch=square_patch(config["patch_size"], where),
        freq_dim=config["freq_dim"],
        text_dim=config["text_dim"],
        eps=config["eps"],
    )


def refuse_others(config: Mapping[str, Any], known: set[str], fixed: Mapping[str, Any], where: str) -> None:
    """Nothing but the known keys, and those with one possible value at that value."""
    others = {key: value for key, value in config.items() if key not in known and (key not in fixed or value != fixed[key])}
    if others:
        listed = ", ".join(f"{key} = {value!r}" for key, value in sorted(others.items()))
        raise CheckpointError(f"{where} says {listed}, which this transformer does not have; {INSTEAD}")


def same_channels(channels_in: int, channels_out: int | None, where: str) -> int:
    """As many latent channels in as out; image-to-video models take more in."""
    if channels_out not in (None, channels_in):
        raise CheckpointError(f"{where} has {channels_in} channels in and {channels_out} out, and this transformer as many; {INSTEAD}")
    return channels_in


def square_patch(patch: Any, where: str) -> int:
    """(1, p, p) -> p."""
    sides = tuple(patch) if isinstance(patch, (list, tuple)) else (patch,)
    if len(sides) != 3 or sides != (1, sides[1], sides[1]):
        raise CheckpointError(f"{where} has patches of {sides}; this transformer cuts one frame into square ones, (1, p, p)")
    return sides[1]


def diffusers_config(sizes: WanSizes) -> dict[str, Any]:
    """The config.json of a `WanTransformer3DModel` of these dimensions."""
    return {
        "_class_name": "WanTransformer3DModel",
        **DIFFUSERS_FIXED,
        "patch_size": [1, sizes.patch, sizes.patch],
        "num_attention_heads": sizes.num_heads,
        "attention_head_dim": sizes.dim // sizes.num_heads,
        "in_channels": sizes.channels,
        "out_channels": sizes.channels,
        "text_dim": sizes.text_dim,
        "freq_dim": sizes.freq_dim,
        "ffn_dim": sizes.ffn_dim,
        "num_layers": sizes.num_layers,
        "eps": sizes.eps,
        "rope_max_seq_len": DIFFUSERS_POSITIONS,
    }


def original_config(sizes: WanSizes) -> dict[str, Any]:
    """The config.json of the original repository's `WanModel` of these dimensions."""
    return {
        "_class_name": "WanModel",
        **ORIGINAL_FIXED,
        "patch_size": [1, sizes.patch, sizes.patch],
        "text_dim": sizes.text_dim,
        "in_dim": sizes.channels,
        "dim": sizes.dim,
        "ffn_dim": sizes.ffn_dim,
        "freq_dim": sizes.freq_dim,
        "out_dim": sizes.channels,
        "num_heads": sizes.num_heads,
        "num_layers": sizes.num_layers,
        "eps": sizes.eps,
    }
