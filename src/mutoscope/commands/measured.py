"""How fast this machine is at a model's own products, and what share of that a whole pass of it reaches."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn

from mutoscope.commands.roofline import measure_bandwidth
from mutoscope.core.devices import Device
from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import normal, stream
from mutoscope.models.arithmetic import Going, flops, whole_clip
from mutoscope.models.conditions import action_conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.models.transformer import TransformerConfig, VideoTransformer

FRAMES = 2
MOST_CLIPS = 32
LONG = 0.2  # seconds: a pass that is longer by the speed of a product has enough tokens
LINK = 12e9
REPEATS = 3


@dataclass(frozen=True)
class Here:
    """This machine: its FLOP/s of one large product, and the share of them that a forward and backward reach."""

    device: Device
    share: float


def measured_device(config: TransformerConfig) -> Here:
    """Of one layer of `config`, without a prompt, forward and backward, on CUDA where there is one.

    Two frames of the model's own tokens, of small models those of several clips, so that on a fast device products are timed and not their
    launches; on a slower one as many of them as it goes through in a second or so.
    """
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for small, clips in layers(config):
        counted, product = flops(Going(small, clips, FRAMES, whole_clip(FRAMES))), measured_peak(small, clips, place)
        if (counted.forward + counted.backward) / product > LONG:
            break
    reached = (counted.forward + counted.backward) / least_seconds(layer_pass(small, clips, place), place)
    peak = max(product, reached)
    return Here(Device("this machine", 0, peak, peak, measure_bandwidth(place), LINK, LINK), reached / peak)


def layers(config: TransformerConfig) -> Iterator[tuple[TransformerConfig, int]]:
    """A layer of a model on ever more of its tokens: of a row twice as many every time, then of rows, then of clips."""
    height, width = config.latent.height // config.patch, config.latent.width // config.patch
    columns = [min(width, 1 << power) for power in range(2, (width - 1).bit_length() + 1)] or [width]
    rows = [min(height, 1 << power) for power in range(1, (height - 1).bit_length() + 1)]
    for high, wide in (*((1, count) for count in columns), *((count, width) for count in rows)):
        latent = LatentShape(config.latent.channels, config.patch * high, config.patch * wide)
        whole = replace(config, latent=latent, num_layers=1, text_dim=0, recall=None, camera=None)
        yield whole, 1
    yield from ((whole, 1 << power) for power in range(1, MOST_CLIPS.bit_length()))


def layer_pass(config: TransformerConfig, clips: int, place: torch.device) -> Callable[[], None]:
    """A forward and backward, of weights that are all alike: drawing those of a large model takes longer than its passes."""
    with torch.device("meta"):
        model = VideoTransformer(config)
    model.to_empty(device=place)
    for weight in model.parameters():
        nn.init.constant_(weight, 0.01)
    shape = (clips, FRAMES, config.latent.channels, config.latent.height, config.latent.width)
    latents = normal(shape, stream(0, "measured latents")).to(place)
    told = action_conditions(
        torch.zeros(clips, FRAMES, config.temporal_stride, config.action_dim), torch.ones(clips, FRAMES, dtype=torch.bool)
    )
    conditions, sigma = told.to(place, torch.float32), torch.full((clips, FRAMES), 0.5, device=place)

    def update() -> None:
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            loss = bidirectional(model, latents, sigma, conditions).square().mean()
        loss.backward()

    return update


def measured_peak(config: TransformerConfig, clips: int, place: torch.device) -> float:
    """FLOP/s of the feed-forward's first product over the same tokens, in the type that a pass computes in."""
    dtype, tokens = (torch.bfloat16 if place.type == "cuda" else torch.float32), clips * FRAMES * config.grid.tokens
    left = torch.ones(tokens, config.dim, device=place, dtype=dtype)
    right = torch.ones(config.dim, config.ffn_dim, device=place, dtype=dtype)
    return 2.0 * tokens * config.dim * config.ffn_dim / least_seconds(lambda: left @ right, place)


def least_seconds(work: Callable[[], object], place: torch.device) -> float:
    """The best of a few, after one that warms up."""
    work()
    return min(timed(work, place) for _ in range(REPEATS))


def timed(work: Callable[[], object], place: torch.device) -> float:
    """Seconds until the device is done."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    begin = time.perf_counter()
    work()
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - begin
