"""Tiled decoding for small GPUs: the picture in overlapping tiles, one after the other, each with its own stream.

A tile sees nothing beyond its border: neither the convolutions nor, in Wan's VAE, the attention in the middle of the decoder, which in an
untiled picture looks everywhere. So a tiled picture is another picture, close to the untiled one; ramps over the overlap hide the seams.

Tiles save what a frame needs while it is decoded. The streams' states together are a little more than the untiled one, because tiles
overlap; they can lie on the host, from where each tile fetches its own. A clip decoded whole keeps the state of one tile at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape
from mutoscope.models.codec import Codec, CodecState, move_state


class SizedCodec(Codec, Protocol):
    """A codec whose weights serve any picture size."""

    @property
    def decoder(self) -> nn.Module:
        """The part that makes pictures."""
        ...

    def resized(self, height: int, width: int) -> Codec:
        """The same weights for pictures of another size."""
        ...


@dataclass(frozen=True)
class Tiles:
    """The size of a tile and how much neighbours share at least, in latent cells."""

    height: int
    width: int
    overlap: int

    def __post_init__(self) -> None:
        if self.overlap < 0 or min(self.height, self.width) <= self.overlap:
            size = f"{self.height}x{self.width}"
            raise ConfigError(f"tiles of {size} cells cannot share {self.overlap}; the overlap is at least 0 and smaller than a tile")


def tile_starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First cells of the fewest tiles that cover `length` cells and share at least `overlap`, spread evenly; one where a tile is enough."""
    if tile >= length:
        return (0,)
    count = ceil((length - overlap) / (tile - overlap))
    return tuple(round(index * (length - tile) / (count - 1)) for index in range(count))


def tile_ramp(starts: tuple[int, ...], index: int, tile: int) -> Tensor:
    """Weights `[tile]` of tile `index`, all in pixels: 1, and over what it shares with a neighbour a linear ramp from 0 or to it."""
    ramp, place = torch.ones(tile), torch.arange(tile) + 0.5
    if index > 0:
        ramp = ramp * (place / max(starts[index - 1] + tile - starts[index], 1)).clamp(max=1)
    if index < len(starts) - 1:
        ramp = ramp * ((tile - place) / max(starts[index] + tile - starts[index + 1], 1)).clamp(max=1)
    return ramp


class TiledCodec:
    """A codec that encodes whole and decodes in tiles of one size. Its state is the states of the tiles, one after the other.

    `keep` says where states lie between frames: beside the latents, or on the host.
    """

    def __init__(self, whole: SizedCodec, tiles: Tiles, keep: Literal["device", "host"] = "device") -> None:
        latent, stride = whole.latent, whole.spatial_stride
        self.whole, self.keep = whole, keep
        self._height, self._width = min(tiles.height, latent.height), min(tiles.width, latent.width)
        self.tile = whole.resized(stride * self._height, stride * self._width)
        self.tops = tile_starts(latent.height, tiles.height, tiles.overlap)
        self.lefts = tile_starts(latent.width, tiles.width, tiles.overlap)

    @property
    def decoder(self) -> nn.Module:
        """The part that makes pictures, for who counts its weights."""
        return self.whole.decoder

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell."""
        return self.whole.spatial_stride

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame after the first."""
        return self.whole.temporal_stride

    @property
    def latent(self) -> LatentShape:
        """Size of a latent frame."""
        return self.whole.latent

    @property
    def num_tiles(self) -> int:
        """Tiles of a picture."""
        return len(self.tops) * len(self.lefts)

    def encode(self, pixels: Tensor) -> Tensor:
        """That of the whole codec, untiled."""
        return self.whole.encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents `[B, F, C, h, w]` -> pixels, clamped to [-1, 1]; one tile's whole clip after the other."""
        canvas = Canvas(self)
        for row, column, part in self._parts(latents):
            canvas.add(row, column, self.tile.decode(part))
        return canvas.picture()

    def start_decoding(self, batch: int) -> CodecState:
        """The states of all tiles before the first frame."""
        return self.tile.start_decoding(batch) * self.num_tiles

    def decode_next(self, latents: Tensor, state: CodecState) -> tuple[Tensor, CodecState]:
        """The next latent frames in every tile, blended."""
        size, after, canvas = len(state) // self.num_tiles, list[Tensor](), Canvas(self)
        for index, (row, column, part) in enumerate(self._parts(latents)):
            own = move_state(state[index * size : (index + 1) * size], latents.device)
            pixels, told = self.tile.decode_next(part, own)
            canvas.add(row, column, pixels)
            after += move_state(told, "cpu") if self.keep == "host" else told
        return canvas.picture(), tuple(after)

    def _parts(self, latents: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """Row, column and latents of every tile."""
        wanted = (self.latent.channels, self.latent.height, self.latent.width)
        if latents.ndim != 5 or tuple(latents.shape[2:]) != wanted or not latents.shape[1]:
            raise ConfigError(f"latents are {tuple(latents.shape)}; this codec takes [batch, frame, {', '.join(map(str, wanted))}]")
        for row, top in enumerate(self.tops):
            for column, left in enumerate(self.lefts):
                yield row, column, latents[..., top : top + self._height, left : left + self._width]


class Canvas:
    """Pixels of tiles, weighted and added up; where one tile stands alone they stay as they are."""

    def __init__(self, codec: TiledCodec) -> None:
        self._tops, self._lefts = (tuple(codec.spatial_stride * first for first in firsts) for firsts in (codec.tops, codec.lefts))
        self._size = (codec.spatial_stride * codec.latent.height, codec.spatial_stride * codec.latent.width)
        self._sums: Tensor | None = None
        self._shares = torch.zeros(self._size)

    def add(self, row: int, column: int, pixels: Tensor) -> None:
        """Pixels `[B, T, 3, tile height, tile width]` of one tile."""
        if self._sums is None:
            self._sums = pixels.new_zeros(*pixels.shape[:-2], *self._size)
        height, width = pixels.shape[-2:]
        ys = slice(self._tops[row], self._tops[row] + height)
        xs = slice(self._lefts[column], self._lefts[column] + width)
        share = tile_ramp(self._tops, row, height)[:, None] * tile_ramp(self._lefts, column, width)
        self._sums[..., ys, xs] += share.to(pixels) * pixels
        self._shares[ys, xs] += share

    def picture(self) -> Tensor:
        """What all tiles together show, `[B, T, 3, H, W]`."""
        assert self._sums is not None
        return self._sums / self._shares.to(self._sums)
