"""Measure how fast a checkpoint is on this machine: latency per frame, cold and warm, throughput, and the share of the roofline.

Writes JSON with machine, commit and percentiles. --recipe measures a recipe's model with random weights, which are as
fast as trained ones. Encoding and transport are not in these figures; benchmarks/play_latency.py measures them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from mutoscope.core.errors import ConfigError

EXAMPLES = (
    "mutoscope bench",
    "mutoscope bench runs/doom-basic/matching-2 --steps 1 2 4 --output bench.json",
    "mutoscope bench --recipe doom --device cuda --frames 500",
)


@dataclass(frozen=True)
class Options:
    """What to measure, how long, and where the figures go."""

    checkpoint: tyro.conf.Positional[str] = ""
    """A checkpoint folder, a stage's folder in a run, or a bundled name; default: the bundled world."""
    recipe: str = ""
    """Measure this recipe's model with random weights instead."""
    steps: tuple[int, ...] = (1, 2, 4)
    """Denoising steps to measure, one row each."""
    frames: int = 200
    """Frames per row, after as many as fill the memory."""
    policy: str | None = None
    """Memory policy: window=16, sink=2,window=14 or full=200; default: the one it was trained with."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves torch's own choice."""
    output: Path = Path("bench.json")
    """The JSON file to write."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""


def run(options: Options) -> int:
    """Measure, print a table, write the figures."""
    from mutoscope.commands.stopwatch import measure_all
    from mutoscope.core.files import write_json

    if options.frames < 10 or not options.steps or min(options.steps) < 1 or options.threads < 0:
        raise ConfigError(f"--frames must be at least 10, --steps at least 1 each, --threads at least 0; got {options}")
    if options.checkpoint and options.recipe:
        raise ConfigError("give a checkpoint or --recipe, not both")
    figures = measure_all(options)
    write_json(options.output, figures)
    print(table(figures["rows"]))
    print(f"{options.output}: written")
    return 0


def table(rows: list[dict]) -> str:
    """One line per step count: frames/s, percentiles of the time from action to pixels, commit, share of the roofline."""
    lines = ["steps  frames/s  action to pixels p50/p95/p99 ms  commit p50 ms  roofline"]
    for row in rows:
        step, share = row["action_to_pixels_ms"], row["share_of_roofline"]
        percentiles = f"{step['p50']:.1f} / {step['p95']:.1f} / {step['p99']:.1f}"
        lines.append(
            f"{row['steps']:>5}  {row['frames_per_second']:>8.1f}  {percentiles:>32}  {row['commit_ms']['p50']:>13.1f}  {share:>8.0%}"
        )
    return "\n".join(lines)
