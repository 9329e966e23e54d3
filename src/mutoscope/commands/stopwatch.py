"""What `mutoscope bench` times: the first frame of a cold process, then sessions whose memory is full."""

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from mutoscope.commands.checkpoints import bundled_first, find_checkpoint, session_config
from mutoscope.commands.loading import Loading, PrecisionName, loading_of
from mutoscope.commands.loading_options import LoadingOptions
from mutoscope.commands.roofline import roofline
from mutoscope.core.progress import Progress
from mutoscope.core.provenance import provenance
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.rollout.session import Session

if TYPE_CHECKING:
    from mutoscope.commands.bench import Options


def measure_all(options: "Options") -> dict:
    """Cold figures of the first session, then one warm row per step count, under the head of every results file."""
    begin = time.perf_counter()
    checkpoint = open_checkpoint(options)
    load_ms = 1e3 * (time.perf_counter() - begin)
    cold = {"load_ms": load_ms, **measure_cold(checkpoint, options)}
    with Progress(len(options.steps) * options.frames, "measuring") as bar:
        rows = [measure_warm(checkpoint, steps, options, bar) for steps in options.steps]
    model = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    what = {
        "checkpoint": options.model or checkpoint.path.name,
        "recipe": checkpoint.manifest.recipe,
        "parameters": model,
        "threads": torch.get_num_threads(),
    }
    return {"provenance": provenance(), **what, "chunk_frames": checkpoint.manifest.chunk_frames, "cold": cold, "rows": rows}


def open_checkpoint(options: "Options") -> Checkpoint:
    """The checkpoint that was asked for; the bundled world without one."""
    return loading(options).load(find_checkpoint(options.model) if options.model else bundled_first())


def loading(options: "Options") -> Loading:
    """In which numbers, and how passes run."""
    precision: PrecisionName = "bf16" if options.precision == "bf16" else "fp32"
    return loading_of(options.device, LoadingOptions(precision, speed=options.speed))


def open_session(checkpoint: Checkpoint, steps: int, options: "Options") -> Session:
    """A session of the options' policy."""
    config = session_config(checkpoint.manifest, steps=steps, policy=options.policy, seed=0)
    return Session(checkpoint, loading(options).config(config))


def measure_cold(checkpoint: Checkpoint, options: "Options") -> dict[str, float]:
    """Milliseconds from a loaded checkpoint to the first frame, at the first step count, nothing warmed up."""
    begin = time.perf_counter()
    session = open_session(checkpoint, options.steps[0], options)
    session.reset(None, 0)
    context = time.perf_counter()
    session.step(_actions(session, 1)[0])
    done = time.perf_counter()
    return {"steps": options.steps[0], "context_ms": 1e3 * (context - begin), "first_chunk_ms": 1e3 * (done - context)}


def measure_warm(checkpoint: Checkpoint, steps: int, options: "Options", bar: Progress) -> dict:
    """Percentiles over `frames` chunks of a session whose memory is full, and what the roofline leaves."""
    session = open_session(checkpoint, steps, options)
    session.reset(None, 0)
    slots = session.config.policy.capacity(session.chunk_frames)
    actions = _actions(session, slots + options.frames)
    for action in actions[:slots]:
        time_chunk(session, action)
    times = []
    for action in actions[slots:]:
        times.append(time_chunk(session, action))
        bar.advance(1, f"{steps} steps")
    step_ms, commit_ms = np.array(times).T
    limits = roofline(session, actions[-1])
    return {
        "steps": steps,
        "frames_per_second": 1e3 * session.chunk_frames * len(times) / float(step_ms.sum() + commit_ms.sum()),
        "action_to_pixels_ms": percentiles(step_ms),
        "commit_ms": percentiles(commit_ms),
        "memory_bytes": session.memory_bytes,
        "roofline": limits,
        "share_of_roofline": limits["least_ms"] / float(np.median(step_ms + commit_ms)),
    }


def time_chunk(session: Session, action: np.ndarray) -> tuple[float, float]:
    """Milliseconds of one step (denoise and decode, pixels on the host) and of its commit."""
    begin = time.perf_counter()
    session.step(action)
    stepped = time.perf_counter()
    session.commit()
    if session.device.type == "cuda":
        torch.cuda.synchronize(session.device)
    return 1e3 * (stepped - begin), 1e3 * (time.perf_counter() - stepped)


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Mean, median, 95th and 99th percentile."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95), "p99": float(p99)}


def _actions(session: Session, count: int) -> np.ndarray:
    """Each action in turn, ten frames long: float32 `[count, dim]`."""
    names = np.eye(session.world.actions.dim, dtype=np.float32)
    return names[np.arange(count) // 10 % len(names)]
