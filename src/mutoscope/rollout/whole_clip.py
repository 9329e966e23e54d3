"""A clip at once, by a bidirectional teacher: every frame sees every frame. Published video models work so, and stages are judged so."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mutoscope.models.camera import with_cameras
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.models.codec import to_frames
from mutoscope.models.conditions import Conditions, clip_conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import uniform_grid
from mutoscope.objectives.guidance import guide


@torch.no_grad()
def whole_clips(
    checkpoint: Checkpoint,
    noise: Tensor,
    actions: Tensor,
    known: Tensor,
    *,
    text: tuple[Tensor, Tensor] | None,
    steps: int,
    guidance: float = 1.0,
    progress: Callable[[int], None] = lambda steps: None,
) -> np.ndarray:
    """Clips of a bidirectional teacher: noise `[B, F, C, h, w]`, actions `[B, T, A]` and known `[B, T]` per pixel frame.

    `text`: embeddings of a prompt per row (or one for all) and of the negative one, where the model reads words. Returns uint8
    `[B, T, H, W, 3]`.
    """
    model, codec, like = checkpoint.model, checkpoint.codec, checkpoint.model.patch_embedding.weight
    told = clip_conditions(actions.to(like.device), known.to(like.device), codec.temporal_stride)
    conditions, device = with_cameras(told, model.config.camera), like.device
    if text is not None:
        conditions = conditions.told(*(model.read_text(item.to(like).expand(len(noise), -1, -1)) for item in text))
    levels = uniform_grid(steps, checkpoint.manifest.shift).tolist()
    return to_frames(codec.decode(denoise_clip(model, noise.to(device), conditions, levels, guidance, progress))).cpu().numpy()


@torch.no_grad()
def denoise_clip(
    model: VideoTransformer,
    noise: Tensor,
    conditions: Conditions,
    levels: Sequence[float],
    guidance: float = 1.0,
    progress: Callable[[int], None] = lambda steps: None,
) -> Tensor:
    """Solve the probability-flow ODE by Euler's method down `levels` (from 1 to 0): noise `[B, F, C, H, W]` -> clean latents.

    Guidance other than 1 makes a second pass without conditions. `progress` is called with the steps made. The clip keeps the noise's type
    while the model may compute in a narrower one.
    """
    x, narrow = noise, model.patch_embedding.weight.dtype
    told_nothing = conditions.null((noise.shape[1],)) if guidance != 1.0 else conditions
    for now, after in zip(levels[:-1], levels[1:], strict=True):
        sigma, seen = x.new_full(x.shape[:2], now), x.to(narrow)
        velocity = bidirectional(model, seen, sigma, conditions).to(x)
        if guidance != 1.0:
            velocity = guide(velocity, bidirectional(model, seen, sigma, told_nothing).to(x), guidance)
        x = x - (now - after) * velocity
        progress(1)
    return x
