"""Which heads are static: those whose attention stays on sinks, the last frames and the chunk itself, whatever is shown.

Published head profiles are made once, offline, from the attention that frames are given (Forcing-KV, 2605.09681); so is this one.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.heads import HeadTable, HeadWise
from mutoscope.memory.ledger import ChunkSources, chunk_lengths, layout
from mutoscope.memory.policy import Full, SinkWindow
from mutoscope.models.attention import Place, Turns
from mutoscope.models.camera_config import check_camera_memory
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.conditions import Conditions, clip_conditions
from mutoscope.models.denoise import clip_layout
from mutoscope.models.recall import RecallLayer
from mutoscope.models.rope import rotate
from mutoscope.models.transformer import VideoTransformer


def near_share(weights: Tensor, near: Tensor) -> Tensor:
    """The share of attention `[batch, head, query, key]` that `near` keys (bool `[key]`) are given, over batch and queries: `[head]`."""
    return weights[..., near].sum(-1).mean(dim=(0, 2))


def most_static(shares: Tensor, count: int) -> HeadTable:
    """The `count` heads of each layer with the largest shares `[layer, head]`, in order; of equal ones the first."""
    best = shares.argsort(dim=1, descending=True, stable=True)[:, :count]
    return tuple(tuple(sorted(heads)) for heads in best.tolist())


def near_frames(policy: HeadWise, lengths: tuple[int, ...]) -> tuple[tuple[bool, ...], ...]:
    """For every chunk of a clip and every frame up to its end, whether a static head would read it."""
    return tuple(map(_near, layout(SinkWindow(policy.sink, policy.window), lengths)))


def _near(chunk: ChunkSources) -> tuple[bool, ...]:
    read = {source.frame for source in chunk.sources}.union(chunk.chunk.frames)
    return tuple(frame in read for frame in range(chunk.chunk.frames.stop))


@dataclass
class Watched:
    """The commit passes of a clip under a memory that forgets nothing, with attention written out.

    `near` holds the mask of each chunk's keys. `shares` collects, per layer, the share `[head]` of what is near, over chunks that have
    something further away.
    """

    turns: Turns
    near: tuple[Tensor, ...]
    lengths: tuple[int, ...]
    shares: list[Tensor]

    def placed(self, place: Place) -> "Watched":
        """The same passes, turned to places too; they collect into the same list."""
        return replace(self, turns=self.turns.placed(place))

    def __call__(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        asking, keys = rotate(queries, self.turns.whole), rotate(keys, self.turns.whole)
        outputs, shares = [], []
        for part, near in zip(asking.split(self.lengths, dim=2), self.near, strict=True):
            seen = keys[:, :, : len(near)]
            weights = (part @ seen.transpose(-1, -2) / part.shape[-1] ** 0.5).softmax(-1)
            outputs.append(weights @ values[:, :, : len(near)])
            if not near.all():
                shares.append(near_share(weights, near))
        self.shares.append(torch.stack(shares).mean(0))
        return torch.cat(outputs, dim=2)

    def recall(self, layer: int, memory: RecallLayer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A head-wise memory stands beside no learned one."""
        raise ConfigError("a model with a learned memory cannot be played under the memory 'head-wise'")


@torch.no_grad()
def head_shares(model: VideoTransformer, clean: Tensor, conditions: Conditions, policy: HeadWise, lengths: tuple[int, ...]) -> Tensor:
    """What share of its attention each head gives to the frames that `policy` leaves to static heads: `[layer, head]` in 0 .. 1.

    Over clean clips `[B, F, C, H, W]` cut into chunks, at the commit's noise level 0.
    """
    check_camera_memory(model.config.camera, policy)
    frames = near_frames(policy, lengths)
    if all(all(near) for near in frames):
        raise ConfigError(f"clips of {sum(lengths)} frames show nothing beyond {policy.sink} sinks and a window of {policy.window}")
    tokens = model.config.grid.tokens
    near = tuple(torch.tensor(flags, device=clean.device).repeat_interleave(tokens) for flags in frames)
    turns = clip_layout(model, Full(sum(lengths)), lengths, clean.device).turns
    watched = Watched(turns, near, tuple(length * tokens for length in lengths), [])
    model(clean, clean.new_zeros(clean.shape[:2]), conditions, watched)
    return torch.stack(watched.shares)


def clip_shares(checkpoint: Checkpoint, policy: HeadWise, frames: np.ndarray, actions: np.ndarray, known: np.ndarray) -> Tensor:
    """`head_shares` of a checkpoint on a few real clips.

    frames uint8 `[B, T, H, W, 3]`, actions float `[B, T, A]`, known bool `[B, T]`: one pixel frame, then whole chunks.
    """
    model, codec = checkpoint.model, checkpoint.codec
    device = next(model.parameters()).device
    with torch.no_grad():
        clean = codec.encode(to_model_pixels(torch.from_numpy(np.ascontiguousarray(frames)).to(device)))
    vectors, flags = torch.from_numpy(np.array(actions, dtype=np.float32)), torch.from_numpy(np.array(known, dtype=bool))
    conditions = clip_conditions(vectors.to(device), flags.to(device), codec.temporal_stride)
    return head_shares(model, clean, conditions, policy, chunk_lengths(clean.shape[1], checkpoint.manifest.chunk_frames, 1))


def with_heads(policy: HeadWise, shares: Tensor) -> HeadWise:
    """`policy` with the heads named that are most static by their shares `[layer, head]`."""
    return replace(policy, heads=most_static(shares, policy.static))
