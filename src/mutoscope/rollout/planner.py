"""What passes a chunk needs: planners are generators that yield passes and are sent velocities.

Another way of sampling (fused commit, rolling windows, speculation) is another planner, not another loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from torch import Tensor

from mutoscope.core.errors import ConfigError
from mutoscope.memory.head_store import AnyStore
from mutoscope.memory.ledger import AnyPlan
from mutoscope.memory.policy import AnyMemory, ContentConfig
from mutoscope.models.conditions import Conditions
from mutoscope.objectives.guidance import guide
from mutoscope.rollout.executor import Pass, PassKind, Planner

Noise = Callable[[int, int], Tensor]
"""(first frame of the chunk, draw within the chunk) -> standard normal latents `[row, frame, C, H, W]`."""


@dataclass
class Trace:
    """What a training rollout leaves for its replay: per chunk the plan, and the input and sigma of its exit step."""

    plans: list[AnyPlan] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    sigmas: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class ChunkJob:
    """A chunk to generate: where, how long, under which conditions, from which noise."""

    store: AnyStore
    rows: slice
    length: int
    conditions: Conditions
    noise: Noise


def row_groups(policy: AnyMemory, rows: int) -> list[slice]:
    """Rows that remember the same frames, and so share their passes: all of them, but one by one where content decides."""
    return [slice(row, row + 1) for row in range(rows)] if isinstance(policy, ContentConfig) else [slice(0, rows)]


def open_chunk(store: AnyStore, rows: slice, length: int, conditions: Conditions) -> AnyPlan:
    """Open the next chunk of a group of rows; `conditions` are the chunk's own, which say where it leads."""
    if store.spec.criterion == "nothing":
        return store.open_chunk(rows, length)
    if rows.stop - rows.start != 1:
        raise ConfigError("where content decides, every row remembers frames of its own: give each row a planner of its own")
    return store.choose_chunk(rows.start, length, conditions.travelled()[0, -1])


def row_jobs(store: AnyStore, groups: Sequence[slice], length: int, conditions: Conditions, noise: Noise) -> list[ChunkJob]:
    """A chunk of all rows as one job per group; a draw of noise is made once and shared out: it does not depend on groups."""
    drawn = lru_cache(maxsize=2)(noise)

    def job(rows: slice) -> ChunkJob:
        return ChunkJob(store, rows, length, conditions.rows(rows), lambda frame, draw: drawn(frame, draw)[rows])

    return list(map(job, groups))


def few_step_chunk(job: ChunkJob, levels: tuple[float, ...], trace: Trace) -> Planner:
    """Predict x0 at each level, re-noise with fresh noise to the next one (consistency sampling, 2303.01469, algorithm 1).

    The output of the last level is the sample. `trace` receives that level's input: cutting `levels` short is
    the exit step of matching.
    """
    plan = open_chunk(job.store, job.rows, job.length, job.conditions)
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
    plan = open_chunk(job.store, job.rows, job.length, job.conditions)
    x = job.noise(plan.chunk.start, 0)
    null = job.conditions.null((job.length,))
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
    store: AnyStore, rows: slice, clean: Tensor, conditions: Conditions, kind: Literal["commit", "real"] = "commit"
) -> Planner:
    """The pass at sigma 0 that writes a finished chunk into memory, or with kind "real" one that nobody denoised. Returns the chunk."""
    plan = open_chunk(store, rows, clean.shape[1], conditions)
    yield Pass(store, rows, plan, clean, 0.0, conditions, kind)
    store.commit(rows)
    return clean
