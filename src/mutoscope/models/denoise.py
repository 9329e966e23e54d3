"""The ways to run the transformer on a whole clip: different algorithms are different functions.

Streaming, frame by frame with memory, is rollout.executor.
"""

import torch
from torch import Tensor

from mutoscope.memory.kinds import MemoryWrites
from mutoscope.memory.ledger import ChunkSources, layout
from mutoscope.memory.policy import AnyPolicy
from mutoscope.models.attention import ClipLayout, WholeClip
from mutoscope.models.conditions import Conditions
from mutoscope.models.rope import rotations
from mutoscope.models.rows import AnyContext, AnyLayout, RowLayouts, clean_half, noisy_half
from mutoscope.models.transformer import VideoTransformer


def bidirectional(model: VideoTransformer, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    """Velocity of a whole noisy clip `[B, F, C, H, W]`, every frame seeing every frame; sigma `[B, F]`."""
    positions = torch.arange(latents.shape[1], device=latents.device)
    rotation = rotations(positions, model.config.grid, model.config.head_dim, latents.dtype)
    return model(latents, sigma, conditions, WholeClip(rotation))


def clip_layout(model: VideoTransformer, policy: AnyPolicy, lengths: tuple[int, ...], device: torch.device | str) -> ClipLayout:
    """The chunks of a clip with the key sources that `policy` gives each: the lists that streaming uses too."""
    return _clip_layout(model, layout(policy, lengths), device)


def played_layout(model: VideoTransformer, sources: tuple[tuple[ChunkSources, ...], ...], device: torch.device | str) -> AnyLayout:
    """The chunks of a rollout with what each of them read: one layout for all rows, or one per row where content decided."""
    layouts = tuple(_clip_layout(model, row, device) for row in sources)
    return layouts[0] if len(layouts) == 1 else RowLayouts(layouts)


def _clip_layout(model: VideoTransformer, chunks: tuple[ChunkSources, ...], device: torch.device | str) -> ClipLayout:
    dtype = next(model.parameters()).dtype
    return ClipLayout(chunks, model.config.grid, model.config.head_dim, torch.device(device), dtype)


def encode_context(model: VideoTransformer, clean: Tensor, conditions: Conditions, clip: AnyLayout) -> AnyContext:
    """The clean half of teacher forcing: every chunk's commit pass (sigma 0) at once, as keys and values per layer."""
    half, context = clean_half(clip)
    model(clean, clean.new_zeros(clean.shape[:2]), conditions, half)
    return context


def denoise_given_context(
    model: VideoTransformer, noisy: Tensor, sigma: Tensor, conditions: Conditions, clip: AnyLayout, context: AnyContext
) -> Tensor:
    """The noisy half of teacher forcing: velocity of every chunk given its clean past, all at once."""
    return model(noisy, sigma, conditions, noisy_half(clip, context))


def teacher_forced(
    model: VideoTransformer,
    clean: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    clean_conditions: Conditions,
    noisy_conditions: Conditions,
    clip: AnyLayout,
) -> Tensor:
    """Velocity of the noisy half of `[clean | noisy]`; gradient flows through the clean half's keys and values.

    Guidance nulls the noisy half's conditions alone: the past keeps its actions, so that one cache serves both branches.
    """
    context = encode_context(model, clean, clean_conditions, clip)
    return denoise_given_context(model, noisy, sigma, noisy_conditions, clip, context)


def replay(model: VideoTransformer, clean: Tensor, noisy: Tensor, sigma: Tensor, conditions: Conditions, clip: AnyLayout) -> Tensor:
    """Teacher forcing with the clean half detached: the gradient pass of a rollout, exact and in parallel.

    `clean` are the rollout's committed frames and `noisy`, `sigma` its exit-step inputs; the result equals what the
    rollout's exit steps gave, and its gradient equals autograd through the rollout with a detached cache.
    """
    return replay_since(model, clean, noisy, sigma, conditions, clip, 0)


def replay_since(
    model: VideoTransformer,
    clean: Tensor,
    noisy: Tensor,
    sigma: Tensor,
    conditions: Conditions,
    clip: AnyLayout,
    frame: int,
    writes: MemoryWrites = "frozen",
) -> Tensor:
    """The end of `replay`, from the chunk on that begins at `frame`: exact too, for these chunks are given the whole past.

    With `writes` "taught", gradient also flows through what the commit passes wrote into a learned memory; frames stay detached.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and writes == "taught"):
        context = encode_context(model, clean, conditions, clip).without_frames()
    own = conditions.frames(frame, clean.shape[1])
    return denoise_given_context(model, noisy[:, frame:], sigma[:, frame:], own, clip.since(frame), context)
