"""What passes a chunk needs: planners are generators that yield passes and are sent velocities.

Another way of sampling (fused commit, rolling windows, speculation) is another planner, not another loop.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from mutoscope.memory.ledger import ChunkPlan
from mutoscope.memory.store import MemoryStore
from mutoscope.models.conditions import Conditions
from mutoscope.objectives.guidance import guide
from mutoscope.rollout.executor import Pass, PassKind, Planner

Noise = Callable[[int, int], Tensor]
"""(first frame of the chunk, draw within the chunk) -> standard normal latents `[row, frame, C, H, W]`."""


@dataclass
class Trace:
    """What a training rollout leaves for its replay: per chunk the plan, and the input and sigma of its exit step."""

    plans: list[ChunkPlan] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ChunkJob:
    """A chunk to generate: where, how long, under which conditions, from which noise."""

    store: MemoryStore
    rows: slice
    length: int
    conditions: Conditions
    noise: Noise


def few_step_chunk(job: ChunkJob, levels: tuple[float, ...], trace: Trace) -> Planner:
    """Predict x0 at each level, re-noise with fresh noise to the next one (consistency sampling, 2303.01469, algorithm 1).

    The output of the last level is the sample. `trace` receives that level's input: cutting `levels` short is
    the exit step of matching.
    """
    plan = job.store.open_chunk(job.rows, job.length)
    x = job.noise(plan.chunk.start, 0)
    for index, sigma in enumerate(levels):
        kind: PassKind = "last" if index + 1 == len(levels) else "denoising"
        velocity = yield Pass(job.store, job.rows, plan, x, sigma, job.conditions, kind)
        x0 = x - sigma * velocity
        if index + 1 < len(levels):
            after = levels[index + 1]
            x = (1 - after) * x0 + after * job.noise(plan.chunk.start, index + 1)
    trace.plans.append(plan)
    trace.inputs.append(x)
    trace.sigmas.append(levels[-1])
    return x0


def euler_chunk(job: ChunkJob, grid: tuple[float, ...], guidance: float) -> Planner:
    """Solve the probability-flow ODE down `grid` (1 ... 0) with Euler steps, as teachers are sampled.

    Guidance costs a second pass per step whose own conditions are null; a guidance of exactly 1 needs none. It goes first, so that the
    last pass is the last step's conditional one, and what that writes into a learned memory is read by none of this chunk's passes.
    """
    plan = job.store.open_chunk(job.rows, job.length)
    x = job.noise(plan.chunk.start, 0)
    null = job.conditions.without_actions((job.length,))
    for index, (sigma, after) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        kind: PassKind = "last" if index + 2 == len(grid) else "denoising"
        if guidance == 1.0:
            velocity = yield Pass(job.store, job.rows, plan, x, sigma, job.conditions, kind)
        else:
            unconditional = yield Pass(job.store, job.rows, plan, x, sigma, null)
            velocity = guide((yield Pass(job.store, job.rows, plan, x, sigma, job.conditions, kind)), unconditional, guidance)
        x = x - (sigma - after) * velocity
    return x


def commit_chunk(
    store: MemoryStore, rows: slice, clean: Tensor, conditions: Conditions, kind: Literal["commit", "real"] = "commit"
) -> Planner:
    """The pass at sigma 0 that writes a finished chunk into memory, or with kind "real" one that nobody denoised. Returns the chunk."""
    plan = store.open_chunk(rows, clean.shape[1])
    yield Pass(store, rows, plan, clean, 0.0, conditions, kind)
    store.commit(rows)
    return clean
