"""Which decoder shows a world: its codec's own, whole or in tiles, or a tiny one from a file; and in which numbers a codec works.

All but the first are for worlds with Wan's codec. The planner counts what is made here (`commands/fitting.py`).
"""

import re
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.checkpoint import CodecConfig, LoadedCodec
from mutoscope.models.codec import ConvCodec
from mutoscope.models.codec_weights import load_tiny_codec, tiny_channels
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.tiled_codec import TiledCodec, Tiles
from mutoscope.models.tiny_codec import taew_2_1
from mutoscope.models.wan_codec import WanCodec
from mutoscope.models.wan_config import WanCodecConfig

Decoding = Literal["whole"] | Tiles | Path
"""A codec's own decoder for the whole picture, or in tiles of so many latent cells, or that of a file."""
TILES = Tiles(32, 32, 8)
DECODERS = "whole, tiles, tiles=HEIGHTxWIDTH,OVERLAP in latent cells (such as tiles=32x32,8), or a file of a tiny decoder (taew2_1.pth)"
Weights = TypeVar("Weights", bound=nn.Module)


def parse_decoder(text: str) -> Decoding:
    """'whole', 'tiles' (those of `TILES`), 'tiles=32x32,8', or a file's path, which must exist."""
    if text == "whole":
        return "whole"
    if text == "tiles":
        return TILES
    if text.startswith("tiles="):
        found = re.fullmatch(r"tiles=(\d+)x(\d+),(\d+)", text)
        if found is None:
            raise ConfigError(f"'{text}' are no tiles; the decoder is one of: {DECODERS}")
        return Tiles(*map(int, found.groups()))
    if not Path(text).is_file():
        raise ConfigError(f"decoder '{text}' is no name and no file that is there; give one of: {DECODERS}")
    return Path(text)


def check_decoder(decoding: Decoding, config: CodecConfig) -> None:
    """Whether a world with such a codec can be shown so; a file is opened, and its weights are not kept."""
    if decoding == "whole":
        return
    if not isinstance(config, WanCodecConfig):
        raise ConfigError(
            "this world has a small codec of its own, and decoders in tiles or from a file are for Wan's; take decoder 'whole'"
        )
    if isinstance(decoding, Path) and (channels := tiny_channels(decoding)) != config.z_dim:
        raise CheckpointError(f"{decoding} decodes latents of {channels} channels, and this world's have {config.z_dim}; take another file")


def with_decoder(codec: LoadedCodec, decoding: Decoding) -> LoadedCodec | TiledCodec | SplitCodec:
    """A codec that decodes so and encodes as before.

    Tiles keep their states on the host; a file's weights get the type and the device of the codec.
    """
    check_decoder(decoding, codec.config)
    if not isinstance(codec, WanCodec) or decoding == "whole":
        return codec
    if isinstance(decoding, Tiles):
        return TiledCodec(codec, decoding, keep="host")
    config = taew_2_1(codec.config.height, codec.config.width, codec.config.z_dim)
    like = next(codec.parameters())
    return SplitCodec(codec, load_tiny_codec(decoding, config).to(like.dtype).to(like.device))


def computing_in(codec: Weights, dtype: torch.dtype) -> Weights:
    """A codec whose weights and arithmetic are of a type, in place; statistics of latents stay in float32, as do pixels and latents."""
    parts = (codec.encoder, codec.decoder) if isinstance(codec, ConvCodec) else (codec,)
    for part in parts:
        part.to(dtype)
    return codec
