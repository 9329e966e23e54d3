"""Measure how fast a checkpoint, or a recipe's model, is on this machine: first frame, throughput, and the share of the roofline.

Of a checkpoint: latency from action to pixels, percentiles. Of a recipe, with random weights, which are as fast as trained ones: the
first frame cold and warm, every pass and the codec, frames/s with and without codec, memory over time, and the arithmetic of what is
possible at most. Writes JSON with machine and commit. Encoding and transport are not in these figures; benchmarks/play_latency.py
measures them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from mutoscope.commands.loading_options import SpeedOptions
from mutoscope.core.errors import ConfigError

if TYPE_CHECKING:
    from mutoscope.commands.streaming import StreamSettings

EXAMPLES = (
    "mutoscope bench",
    "mutoscope bench runs/doom-basic/matching-2 --steps 1 2 4 --output bench.json",
    "mutoscope bench doom --device cuda --frames 500",
    "mutoscope bench wan-1.3b --device cuda --codec tiny",
    "mutoscope bench wan-1.3b --size 64x96 --set model.dim=96 model.num_layers=2 model.ffn_dim=192 --frames 10",
)
CHECKPOINT_STEPS, RECIPE_STEPS = (1, 2, 4), (2,)


@dataclass(frozen=True)
class Options:
    """What to measure, how long, and where the figures go."""

    model: tyro.conf.Positional[str] = ""
    """A checkpoint folder, a stage's folder in a run, a bundled name, or a recipe such as wan-1.3b; default: the bundled world."""
    steps: tuple[int, ...] = ()
    """Denoising steps to measure, one row each; default: 1 2 4 of a checkpoint, 2 of a recipe."""
    frames: int = 200
    """Frames (of a recipe: chunks) per row, after as many as fill the memory."""
    policy: str | None = None
    """Memory policy: window=16, sink=2,window=14 or full=200; default: the one it was trained with."""
    threads: int = 0
    """Threads of torch on the CPU; 0 leaves torch's own choice."""
    output: Path = Path("bench.json")
    """The JSON file to write."""
    device: str = "cpu"
    """Torch device: cpu, cuda, cuda:1, ..."""
    size: str = ""
    """Of a recipe: pictures of another size, HEIGHTxWIDTH, such as 480x832."""
    set: tuple[str, ...] = ()
    """Of a recipe: changes, as path=value, such as model.num_layers=2."""
    codec: Literal["own", "tiny", "none"] = "own"
    """Of a recipe: its own codec (Wan's is not measured where diffusers is missing), a tiny decoder for Wan's latents, or none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Type of weights, cache and arithmetic; auto is fp32 of a checkpoint, of a recipe bf16 on a GPU and fp32 on a CPU."""
    rows: int = 1
    """Of a recipe: streams side by side."""
    speed: tyro.conf.OmitArgPrefixes[SpeedOptions] = SpeedOptions()
    commits: Literal["own", "fused"] = "own"
    """Of a recipe: a pass for each chunk's commit, or together with the next chunk's first pass (full, window, recency)."""


def run(options: Options) -> int:
    """Measure, print a table, write the figures."""
    from mutoscope.core.files import write_json
    from mutoscope.recipes import RECIPES

    if options.frames < 10 or min(options.steps, default=1) < 1 or options.threads < 0:
        raise ConfigError(f"--frames must be at least 10, --steps at least 1 each, --threads at least 0; got {options}")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    figures = bench_recipe(options) if options.model in RECIPES else bench_checkpoint(options)
    write_json(options.output, figures)
    print(f"{options.output}: written")
    return 0


def bench_checkpoint(options: Options) -> dict:
    """Sessions of a checkpoint."""
    from mutoscope.commands.stopwatch import measure_all

    given = {"--size": options.size, "--set": options.set, "--codec": options.codec != "own"}
    given |= {"--rows": options.rows != 1, "--commits": options.commits != "own"}
    if wrong := [name for name, value in given.items() if value]:
        raise ConfigError(f"{', '.join(wrong)}: for recipes alone, and '{options.model or 'the bundled world'}' is none; leave it out")
    figures = measure_all(replace(options, steps=options.steps or CHECKPOINT_STEPS))
    print(table(figures["rows"]))
    return figures


def bench_recipe(options: Options) -> dict:
    """Streams of a recipe's model with random weights."""
    from mutoscope.commands import arithmetic, stream_timing
    from mutoscope.core.provenance import provenance

    rows: list[dict] = []
    for steps in options.steps or RECIPE_STEPS:
        figures = stream_timing.measure_stream(stream_settings(options, steps), options.frames, stream_timing.Asked(fresh=not rows))
        if not rows:
            print(arithmetic.described(figures["arithmetic"], steps))
        print(f"--- {steps} steps\n{stream_timing.described(figures)}")
        rows.append(figures)
    return {"provenance": provenance(), "rows": rows}


def stream_settings(options: Options, steps: int) -> StreamSettings:
    """What the options say about a recipe's stream; the first chunk takes at least 4 steps (2605.15141, section 4)."""
    from mutoscope.commands.checkpoints import parse_policy
    from mutoscope.commands.overrides import override
    from mutoscope.commands.streaming import StreamSettings, sized
    from mutoscope.recipes import recipe
    from mutoscope.rollout.speed import Speed

    run_config = override(sized(recipe(options.model), options.size) if options.size else recipe(options.model), options.set)
    precision = {"auto": "bf16" if options.device.startswith("cuda") else "fp32", "fp32": "fp32", "bf16": "bf16"}[options.precision]
    return StreamSettings(
        run_config,
        steps,
        max(4, steps),
        run_config.memory if options.policy is None else parse_policy(options.policy),
        options.codec,
        precision,  # type: ignore[arg-type]
        options.device,
        options.rows,
        speed=Speed(options.speed.attention, options.speed.runner, options.speed.cache, options.commits),
        weights=options.speed.weights,
    )


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
