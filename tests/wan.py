"""A tiny Wan VAE with random weights: the world's pictures, 12 x 20, to 3 x 5 cells and four pixel frames to one."""

from dataclasses import replace

import pytest

pytest.importorskip("diffusers")

from fakes import CODEC, WORLD
from mutoscope.core.streams import normal, stream
from mutoscope.models.checkpoint import freeze
from mutoscope.models.wan_codec import WanCodec, wan_codec
from mutoscope.models.wan_config import WanCodecConfig

MEANS, DEVIATIONS = (0.2, -0.1, 0.3, 0.0), (1.5, 0.8, 1.2, 2.0)
TINY = WanCodecConfig(WORLD.height, WORLD.width, 4, CODEC.latent_channels, (1, 1, 2), 1, (True, True), MEANS, DEVIATIONS)
# Other depths, widths and strides: the published shape, one halving, and time halved late.
PUBLISHED_SHAPE = WanCodecConfig(16, 24, 4, 4, (1, 2, 4, 4), 2, (False, True, True), MEANS, DEVIATIONS)
ONE_HALVING = WanCodecConfig(6, 10, 6, 3, (1, 2), 1, (True,), MEANS[:3], DEVIATIONS[:3])
LATE = replace(TINY, temporal_downsample=(False, True), num_res_blocks=2, dim_mult=(1, 2, 1))


def tiny_wan(config: WanCodecConfig = TINY, seed: int = 0) -> WanCodec:
    """Random weights, with no gain of exactly 1 and no bias of 0."""
    codec = freeze(wan_codec(config).initialise(stream(seed, "fake wan")))
    for index, parameter in enumerate(codec.parameters()):
        parameter.add_(0.1 * normal(tuple(parameter.shape), stream(seed, "scatter", index)))
    return codec
