"""A training rollout: committed real context, then the student's own chunks, without autograd, with a trace to replay."""

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from mutoscope.memory.ledger import AnyPlan, RowSources, chunk_lengths, row_sources
from mutoscope.memory.policy import PolicyConfig, for_frames
from mutoscope.models.conditions import Conditions
from mutoscope.models.transformer import VideoTransformer, told_once
from mutoscope.rollout.executor import Executor, drive
from mutoscope.rollout.planner import Noise, Trace, commit_chunk, few_step_chunk, open_chunk, row_groups, row_jobs


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

    `lengths` are the chunks, the `context` frames one by one; `generated` `[B, F]` is 1 where the student made the frame. `sources` are
    what every chunk read, as it was planned: once for all rows, or once per row where content decides.
    """

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    generated: Tensor
    lengths: tuple[int, ...]
    context: int
    sources: tuple[RowSources, ...]


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
    store, executor = model.new_store(for_frames(plan.policy, frames), plan.chunk_frames, batch, real), Executor(model)
    groups, conditions = row_groups(plan.policy, batch), told_once(model, conditions)
    clean, noisy, sigma, start = real.clone(), real.clone(), real.new_zeros(batch, frames), 0
    plans: list[list[AnyPlan]] = [[] for _ in groups]
    for index, length in enumerate(lengths):
        stop = start + length
        jobs = row_jobs(store, groups, length, conditions.frames(start, stop), noise)
        for job, planned in zip(jobs, plans, strict=True):
            planned.append(open_chunk(store, job.rows, length, job.conditions))
        if index >= plan.context:
            traces, levels = [Trace() for _ in jobs], plan.first_levels if index == plan.context else plan.levels
            made = drive(executor, [few_step_chunk(job, levels, trace) for job, trace in zip(jobs, traces, strict=True)])
            clean[:, start:stop], noisy[:, start:stop] = torch.cat(made), torch.cat([trace.inputs[0] for trace in traces])
            sigma[:, start:stop] = traces[0].sigmas[0]
        if stop < frames:
            kind: Literal["commit", "real"] = "commit" if index >= plan.context else "real"
            drive(executor, [commit_chunk(store, job.rows, clean[job.rows, start:stop].clone(), job.conditions, kind) for job in jobs])
        start = stop
    generated = real.new_ones(batch, frames)
    generated[:, : plan.context] = 0
    return Rollout(clean, noisy, sigma, generated, lengths, plan.context, tuple(map(row_sources, plans)))
