"""A clip run chunk by chunk through a memory: what play does, at given noise levels, in float64."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fakes import model_for, tiny_conditions, tiny_latents
from mutoscope.core.streams import stream
from mutoscope.memory.policy import Policy
from mutoscope.memory.store import MemoryStore
from mutoscope.models.conditions import Conditions, action_conditions
from mutoscope.models.transformer import VideoTransformer
from mutoscope.noise.schedule import per_chunk
from mutoscope.rollout.executor import Executor, Pass, PassKind, drive
from mutoscope.rollout.planner import commit_chunk, open_chunk, row_groups

# Frame-wise, and chunks of three after two context frames committed one by one.
CUTS = {"frame-wise": (1,) * 9, "chunks of 3": (1, 1, 3, 3, 3)}
Prepare = Callable[[MemoryStore, Pass], None]


@dataclass(frozen=True)
class Clip:
    """A clean clip, a noisy one, the level of every frame (one per chunk), and conditions."""

    clean: Tensor
    noisy: Tensor
    sigma: Tensor
    conditions: Conditions


def random_clip(lengths: tuple[int, ...], seed: int = 0) -> Clip:
    """Two rows of independent noise everywhere; both rows share their levels, as streaming needs."""
    frames = sum(lengths)
    levels = torch.rand(1, len(lengths), generator=stream(seed, "levels"), dtype=torch.float64).expand(2, -1)
    clean, noisy = tiny_latents(frames, seed=2 * seed), tiny_latents(frames, seed=2 * seed + 1)
    return Clip(clean, noisy, per_chunk(levels, lengths), tiny_conditions(frames, seed=seed))


Run = Callable[[VideoTransformer, Policy, tuple[int, ...], Clip], Tensor]


def leave_alone(store: MemoryStore, item: Pass) -> None:
    """No preparation."""


def stream_clip(
    model: VideoTransformer,
    policy: Policy,
    lengths: tuple[int, ...],
    clip: Clip,
    prepare: Prepare = leave_alone,
    real: int = 0,
    committed: Literal["commit", "real"] = "commit",
) -> Tensor:
    """Velocity of every noisy chunk, as its last pass, given the committed clean ones before it; `prepare` may touch the store first.

    The first `real` frames are committed as what nobody denoised: they are denoised for their velocities alone. All others as `committed`.
    """
    store = model.new_store(policy, max(lengths), len(clip.clean), clip.clean)
    executor, start, velocities = Executor(model), 0, []
    for length in lengths:
        span, passes, commits = slice(start, start + length), [], []
        last: PassKind = "denoising" if start < real else "last"
        for rows in row_groups(policy, len(clip.clean)):
            own = clip.conditions.frames(start, start + length).rows(rows)
            plan = open_chunk(store, rows, length, own)
            passes.append(Pass(store, rows, plan, clip.noisy[rows, span], float(clip.sigma[0, start]), own, last))
            commits.append(commit_chunk(store, rows, clip.clean[rows, span], own, "real" if start < real else committed))
            prepare(store, passes[-1])
        velocities.append(torch.cat(executor.run(passes)))
        for item in passes:
            prepare(store, item)
        drive(executor, commits)
        start += length
    return torch.cat(velocities, dim=1)


def swap(clip: Clip, other: Clip, clean: slice, noisy: slice) -> Clip:
    """`clip` with clean frames `clean`, and noisy frames, levels and actions `noisy`, taken from `other`."""

    def mixed(own: Tensor, foreign: Tensor, frames: slice) -> Tensor:
        result = own.clone()
        result[:, frames] = foreign[:, frames]
        return result

    actions = mixed(clip.conditions.actions, other.conditions.actions, noisy)
    conditions = action_conditions(actions, clip.conditions.known)
    return Clip(
        mixed(clip.clean, other.clean, clean), mixed(clip.noisy, other.noisy, noisy), mixed(clip.sigma, other.sigma, noisy), conditions
    )


def looks_ahead(run: Run, policy: Policy, lengths: tuple[int, ...]) -> bool:
    """Whether another future (of a chunk: its own clean frames too) changes the output of any chunk."""
    model, clip, other = model_for(policy), random_clip(lengths), random_clip(lengths, seed=1)
    with torch.no_grad():
        outputs, start = run(model, policy, lengths, clip), 0
        for length in lengths:
            stop = start + length
            changed = run(model, policy, lengths, swap(clip, other, slice(start, None), slice(stop, None)))
            if not torch.allclose(changed[:, :stop], outputs[:, :stop], atol=1e-12):
                return True
            start = stop
    return False


def sees_other_noise(run: Run, policy: Policy, lengths: tuple[int, ...]) -> bool:
    """Whether the noisy frames before the last chunk change its output: only the clean past may, and what last passes told a memory."""
    model, clip, other = model_for(policy), random_clip(lengths), random_clip(lengths, seed=1)
    start = sum(lengths[:-1])
    changed = replace(clip, noisy=torch.cat([other.noisy[:, :start], clip.noisy[:, start:]], dim=1))
    with torch.no_grad():
        outputs = [run(model, policy, lengths, each)[:, start:] for each in (clip, changed)]
    return not torch.allclose(*outputs, atol=1e-12)
