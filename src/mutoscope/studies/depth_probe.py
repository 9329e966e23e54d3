"""What of the past stands in the hidden states of a checkpoint: the mechanism behind the study of depth and memory.

Asked is what a memory would be told: the keys and values of each layer, as the layer made them, in the commit pass of a frame and in its
last denoising pass. Both run on true frames, so that every depth is given the same past; depths differ by their weights and by the noise
of their last pass.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.streams import normal, stream
from mutoscope.data.worlds.tiles import NUM_KINDS
from mutoscope.evaluate.probe import linearly_readable, past_tiles, split_episodes
from mutoscope.evaluate.recall import RecallClips, RecallTask
from mutoscope.memory.ledger import chunk_lengths
from mutoscope.memory.policy import PolicyConfig
from mutoscope.models.attention import Attend, CleanHalf, LastPasses, NoisyHalf, Place
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.conditions import Conditions, clip_conditions
from mutoscope.models.denoise import clip_layout
from mutoscope.models.recall import RecallLayer
from mutoscope.noise.schedule import add_noise, few_step_levels

CHANCE = 1 / NUM_KINDS


@dataclass(frozen=True)
class ProbeConfig:
    """A long turn of `task.lead` frames and more; what was in view `lags` frames before is asked for, in so many episodes.

    The default lags lie inside a window of 8, beyond it, and beyond what three layers of such windows hand on.
    """

    task: RecallTask = RecallTask(lead=32, away=8)
    lags: tuple[int, ...] = (4, 12, 24)
    episodes: int = 192
    seed: int = 2_000_003


class Listener:
    """A mode of attention that is overheard: `told` collects each layer's keys and values of some frames, `[batch, frame, feature]`."""

    def __init__(self, attend: Attend, frames: np.ndarray, tokens: int) -> None:
        self.attend, self.frames, self.tokens = attend, frames, tokens
        self.told: list[Tensor] = []

    def placed(self, place: Place) -> "Listener":
        """The same mode turned to places; it is overheard into the same list."""
        listener = Listener(self.attend.placed(place), self.frames, self.tokens)
        listener.told = self.told
        return listener

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        pair = torch.cat([keys, values], dim=-1).transpose(1, 2).unflatten(1, (-1, self.tokens))
        self.told.append(pair[:, self.frames].flatten(2))
        return self.attend(layer, queries, keys, values)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """As the mode that is overheard."""
        return self.attend.recall(layer, memory, queries, keys, values)


@torch.no_grad()
def hidden_states(
    checkpoint: Checkpoint, policy: PolicyConfig, clips: RecallClips, sigma: float, frames: np.ndarray, seed: int
) -> dict[str, list[Tensor]]:
    """Keys and values per layer of the passes "commit" and "last" (at level `sigma`) of some frames, given the true past.

    All frames but the first count as made, so that a memory told by last passes is told by them.
    """
    model = checkpoint.model
    clean, conditions = _encoded(checkpoint, clips)
    noise = normal(tuple(clean.shape), stream(seed, "probe noise")).to(clean)
    lengths = chunk_lengths(clean.shape[1], checkpoint.manifest.chunk_frames, 1)
    parts = clip_layout(model, policy, lengths, clean.device, context=1)
    half = CleanHalf(parts)
    commit = Listener(half, frames, parts.grid.tokens)
    model(clean, clean.new_zeros(clean.shape[:2]), conditions, commit)
    levels = clean.new_full(clean.shape[:2], sigma)
    last = Listener(LastPasses(NoisyHalf(parts, half.context)), frames, parts.grid.tokens)
    model(add_noise(clean, noise, levels), levels, conditions, last)
    return {"commit": commit.told, "last": last.told}


def _encoded(checkpoint: Checkpoint, clips: RecallClips) -> tuple[Tensor, Conditions]:
    """True frames as latents, and the actions that led to them; none is known to have led to the first."""
    device, codec = next(checkpoint.model.parameters()).device, checkpoint.codec
    latents = codec.encode(to_model_pixels(torch.from_numpy(clips.frames).to(device)))
    known = torch.arange(clips.frames.shape[1], device=device).expand(len(clips.frames), -1) > 0
    return latents, clip_conditions(torch.from_numpy(clips.actions).to(device), known, codec.temporal_stride)


def probe_rows(
    depth: str, checkpoint: Checkpoint, policy: PolicyConfig, steps: int, clips: RecallClips, config: ProbeConfig
) -> list[dict[str, object]]:
    """Per pass, layer (from 1) and lag the balanced accuracy with which tiles out of sight are read, on episodes kept for that."""
    asked, split = past_tiles(clips, config.lags), split_episodes(len(clips.frames), config.seed)
    sigma = float(few_step_levels(steps, checkpoint.manifest.shift)[-1])
    states = hidden_states(checkpoint, policy, clips, sigma, asked.frames, config.seed)
    return [
        {"depth": depth, "pass": name, "layer": layer, "lag": lag, "accuracy": float(accuracy)}
        for name, layers in states.items()
        for layer, features in enumerate(layers, 1)
        for lag, accuracy in zip(config.lags, linearly_readable(features.cpu(), asked.tiles, NUM_KINDS, split), strict=True)
    ]
