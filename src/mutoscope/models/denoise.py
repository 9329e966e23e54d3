"""The ways to run the transformer on a whole clip: different algorithms are different functions.

Streaming, frame by frame with memory, is rollout.executor.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mutoscope.memory.kinds import MemoryWrites
from mutoscope.memory.ledger import ChunkSources, HeadSources, RowSources, layout
from mutoscope.memory.policy import AnyMemory
from mutoscope.models.attention import ClipLayout, Context, LastPasses, NoisyHalf, WholeClip
from mutoscope.models.conditions import Conditions
from mutoscope.models.heads import HeadLayouts, head_split
from mutoscope.models.rope import rotations
from mutoscope.models.rows import AnyContext, AnyLayout, RowLayout, RowLayouts, clean_half, noisy_half
from mutoscope.models.transformer import VideoTransformer


def bidirectional(model: VideoTransformer, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
    """Velocity of a whole noisy clip `[B, F, C, H, W]`, every frame seeing every frame; sigma `[B, F]`."""
    positions = torch.arange(latents.shape[1], device=latents.device)
    rotation = rotations(positions, model.config.grid, model.config.head_dim, latents.dtype)
    return model(latents, sigma, conditions, WholeClip(rotation))


def clip_layout(
    model: VideoTransformer, policy: AnyMemory, lengths: tuple[int, ...], device: torch.device | str, context: int = 0
) -> ClipLayout:
    """The chunks of a clip with the key sources that `policy` gives each: the lists that streaming uses too.

    The first `context` frames are real ones; the others are made, so that a memory may be written from their last pass.
    """
    return _clip_layout(model, layout(policy, lengths), device, context)


def played_layout(model: VideoTransformer, sources: tuple[RowSources, ...], device: torch.device | str, context: int = 0) -> AnyLayout:
    """The chunks of a rollout with what each of them read: one layout for all rows, or one per row where content decided."""
    layouts = tuple(_row_layout(model, row, device, context) for row in sources)
    return layouts[0] if len(layouts) == 1 else RowLayouts(layouts)


def _row_layout(model: VideoTransformer, row: RowSources, device: torch.device | str, context: int) -> RowLayout:
    if not isinstance(row, HeadSources):
        return _clip_layout(model, row, device, context)
    parts = tuple(_clip_layout(model, part, device, context) for part in row.parts)
    return HeadLayouts(head_split(row.groups, torch.device(device)), parts)


def _clip_layout(model: VideoTransformer, chunks: tuple[ChunkSources, ...], device: torch.device | str, context: int) -> ClipLayout:
    dtype = next(model.parameters()).dtype
    return ClipLayout(chunks, model.config.grid, model.config.head_dim, torch.device(device), dtype, context)


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


def denoise_last(
    model: VideoTransformer, noisy: Tensor, sigma: Tensor, conditions: Conditions, clip: AnyLayout, context: AnyContext
) -> tuple[Tensor, AnyContext]:
    """The noisy half as every chunk's last pass, under the clip's own conditions; and the context with what it wrote into a learned memory.

    Where memories are written from commits, or there are none, that is `denoise_given_context` and the context as it was.
    """
    if not (isinstance(clip, ClipLayout) and isinstance(context, Context)):  # no learned memory stands beside what content chooses
        return denoise_given_context(model, noisy, sigma, conditions, clip, context), context
    passes = LastPasses(NoisyHalf(clip, context))
    velocity = model(noisy, sigma, conditions, passes)
    return velocity, replace(context, states=passes.states)


def with_last_passes(
    model: VideoTransformer, noisy: Tensor, sigma: Tensor, conditions: Conditions, clip: AnyLayout, context: AnyContext
) -> AnyContext:
    """The context as `denoise_last` leaves it; costs a pass only where a memory is written from last passes."""
    told = any(memory.written_from == "last pass" for memory in model.memories)
    return denoise_last(model, noisy, sigma, conditions, clip, context)[1] if told else context


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

    Guidance nulls the noisy half's conditions alone: the past keeps its actions, so that one cache serves both branches. So does what
    last passes write into a learned memory, here the noisy half under the clean half's conditions.
    """
    context = encode_context(model, clean, clean_conditions, clip)
    context = with_last_passes(model, noisy, sigma, clean_conditions, clip, context)
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

    With `writes` "taught", gradient also flows through what was written into a learned memory; frames stay detached.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and writes == "taught"):
        context = encode_context(model, clean, conditions, clip).without_frames()
        context = with_last_passes(model, noisy, sigma, conditions, clip, context)
    own = conditions.frames(frame, clean.shape[1])
    return denoise_given_context(model, noisy[:, frame:], sigma[:, frame:], own, clip.since(frame), context)
