"""A training rollout: committed real context, then the student's own chunks, without autograd, with a trace to replay."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from mutoscope.memory.ledger import chunk_lengths
from mutoscope.memory.policy import PolicyConfig
from mutoscope.models.conditions import Conditions
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout.executor import Executor, drive
from mutoscope.rollout.planner import ChunkJob, Noise, Trace, commit_chunk, few_step_chunk


@dataclass(frozen=True)
class RolloutPlan:
    """`context` real frames, then chunks of `chunk_frames`, each sampled at its levels; the first one has its own."""

    policy: PolicyConfig
    context: int
    chunk_frames: int
    first_levels: tuple[float, ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Rollout:
    """clean: context and generated frames, as committed; noisy, sigma: exit-step inputs (context frames: themselves at 0).

    `lengths` are the chunks, the `context` frames one by one; `generated` `[B, F]` is 1 where the student made the frame.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    generated: Tensor
    lengths: tuple[int, ...]
    context: int


@dataclass(frozen=True)
class ScoreWindow:
    """The last frames of a rollout, which are judged as a clip: it begins at frame `start`, and its first whole chunk at `first`.

    `clean` `[B, F, C, H, W]` and its conditions; `scored` `[B, F]` is 1 in the whole chunks that the student made.
    """

    start: int
    first: int
    clean: Tensor
    conditions: Conditions
    scored: Tensor


def score_window(rollout: Rollout, conditions: Conditions, frames: int) -> ScoreWindow:
    """The last `frames` of a rollout. A clip is one frame and then whole chunks: that frame may be what is left of a cut chunk."""
    stop = rollout.clean.shape[1]
    start = stop - frames
    first = next(border for border in accumulate(rollout.lengths, initial=0) if border >= start)
    scored = rollout.generated[:, start:].clone()
    scored[:, : first - start] = 0
    return ScoreWindow(start, first, rollout.clean[:, start:], conditions.frames(start, stop), scored)


@torch.no_grad()
def roll_out(model: VideoTransformer, plan: RolloutPlan, real: Tensor, conditions: Conditions, noise: Noise) -> Rollout:
    """Generate clips of `real`'s length `[B, F, C, H, W]` from its first `plan.context` frames, under its conditions."""
    batch, frames = real.shape[:2]
    lengths = chunk_lengths(frames, plan.chunk_frames, plan.context)
    store, rows, executor = model.new_store(plan.policy, plan.chunk_frames, batch, real), slice(0, batch), Executor(model)
    clean, noisy, sigma, start = real.clone(), real.clone(), real.new_zeros(batch, frames), 0
    for index, length in enumerate(lengths):
        stop = start + length
        own = conditions.frames(start, stop)
        if index >= plan.context:
            trace, levels = Trace(), plan.first_levels if index == plan.context else plan.levels
            (clean[:, start:stop],) = drive(executor, [few_step_chunk(ChunkJob(store, rows, length, own, noise), levels, trace)])
            noisy[:, start:stop], sigma[:, start:stop] = trace.inputs[0], trace.sigmas[0]
        if stop < frames:
            kind: Literal["commit", "real"] = "commit" if index >= plan.context else "real"
            drive(executor, [commit_chunk(store, rows, clean[:, start:stop].clone(), own, kind)])
        start = stop
    generated = real.new_ones(batch, frames)
    generated[:, : plan.context] = 0
    return Rollout(clean, noisy, sigma, generated, lengths, plan.context)
