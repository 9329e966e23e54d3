"""How fast this machine is at a model's own products, and what share of that a whole pass of it reaches."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from mutoscope.commands.roofline import measure_bandwidth
from mutoscope.core.devices import Device
from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import normal, stream
from mutoscope.models.arithmetic import Going, flops, whole_clip
from mutoscope.models.conditions import action_conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.models.transformer import TransformerConfig, VideoTransformer

TOKENS = 64  # of a frame of the small pass
FRAMES = 2
LINK = 12e9
REPEATS = 3


@dataclass(frozen=True)
class Here:
    """This machine: its FLOP/s of one large product, and the share of them that a forward and backward reach."""

    device: Device
    share: float


def measured_device(config: TransformerConfig) -> Here:
    """Of one layer of `config` on a small picture, without a prompt, forward and backward, on CUDA where there is one."""
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = config.patch * int(TOKENS**0.5)
    small = replace(config, latent=LatentShape(config.latent.channels, side, side), num_layers=1, text_dim=0, recall=None, camera=None)
    model = VideoTransformer(small).initialise(stream(0, "measured")).to(place)
    latents = normal((1, FRAMES, small.latent.channels, side, side), stream(0, "measured latents")).to(place)
    told = action_conditions(torch.zeros(1, FRAMES, small.temporal_stride, small.action_dim), torch.ones(1, FRAMES, dtype=torch.bool))
    conditions, sigma = told.to(place, torch.float32), torch.full((1, FRAMES), 0.5, device=place)

    def update() -> None:
        with torch.autocast(place.type, torch.bfloat16, enabled=place.type == "cuda"):
            loss = bidirectional(model, latents, sigma, conditions).square().mean()
        loss.backward()

    counted = flops(Going(small, 1, FRAMES, whole_clip(FRAMES)))
    reached = (counted.forward + counted.backward) / least_seconds(update, place)
    peak = max(measured_peak(small, place), reached)
    return Here(Device("this machine", 0, peak, peak, measure_bandwidth(place), LINK, LINK), reached / peak)


def measured_peak(config: TransformerConfig, place: torch.device) -> float:
    """FLOP/s of the feed-forward's first product, in the type that a pass computes in."""
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    left = torch.ones(FRAMES * TOKENS, config.dim, device=place, dtype=dtype)
    right = torch.ones(config.dim, config.ffn_dim, device=place, dtype=dtype)
    return 2.0 * FRAMES * TOKENS * config.dim * config.ffn_dim / least_seconds(lambda: left @ right, place)


def least_seconds(work: Callable[[], object], place: torch.device) -> float:
    """The best of a few, after one that warms up."""
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        times.append(time.perf_counter() - begin)
    return min(times[1:])
