"""Everything worth measuring on a borrowed GPU in one call: a recipe's stream in one way after the other, within a budget of time.

    python benchmarks/gpu.py --output results/gpu --seconds 540                             one H200, wan-1.3b at 480x832: under ten minutes
    python benchmarks/gpu.py --output results/gpu-long --ways plain --chunks 2400 --only with-codec      ten minutes of video: bytes stay?
    python benchmarks/gpu.py --output results/gpu-codec --ways plain graph --packages wheels      Wan's own codec, by a wheel of diffusers
    python benchmarks/gpu.py --output gpu-smoke --device cpu --codec none --size 32x48 --chunks 10 --ways plain fused "cache int8"
        --set model.dim=24 model.num_layers=2 model.ffn_dim=48 model.num_heads=2 model.text_dim=8 memory=window=3     a smoke run

It needs torch, NumPy and safetensors; Wan's codec needs diffusers, and without it a tiny decoder is measured in its place, which every row
says (`decoder`, `with_codec_answers_the_target`). The ways differ from the first one, `plain`, by what their names say, and `plain again`
shows how much the machine itself drifted; those that compile come last. The file is written anew after every way, and within one that takes
long every SELDOM seconds, so that nothing is lost when time runs out: chunks end at --seconds, and what cannot look at the clock, such as a
compilation, is broken off GRACE seconds later. A way that cannot run here says why, and the next one begins.
"""

import argparse
import gc
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import torch

from mutoscope.commands import arithmetic, stream_timing
from mutoscope.commands.overrides import override
from mutoscope.commands.stream_timing import Asked, Only
from mutoscope.commands.streaming import StreamSettings, sized
from mutoscope.core.errors import ConfigError
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.recipes import recipe
from mutoscope.rollout.speed import Speed

Changes = dict[str, object]
WAYS: dict[str, Changes] = {
    "plain": {},
    "graph": {"speed": Speed(runner="graph")},
    "cudnn": {"speed": Speed("cudnn")},
    "cudnn, graph": {"speed": Speed("cudnn", "graph")},
    "tiny codec": {"codec": "tiny"},
    "1 step": {"steps": 1},
    "4 steps": {"steps": 4},
    "fused": {"speed": Speed(commits="fused")},
    "cache fp8": {"speed": Speed(cache="fp8")},
    "cache int8": {"speed": Speed(cache="int8")},
    "flash": {"speed": Speed("flash")},
    "weights int8": {"weights": "int8"},
    "weights fp8-dynamic": {"weights": "fp8-dynamic"},
    "plain again": {},
    "flex": {"speed": Speed("flex")},
    "compile-graph": {"speed": Speed(runner="compile-graph")},
    "cudnn, compile-graph": {"speed": Speed("cudnn", "compile-graph")},
    "weights fp8-dynamic, compile-graph": {"weights": "fp8-dynamic", "speed": Speed("cudnn", "compile-graph")},
}
GRACE, COMPILATION, SELDOM = 15.0, 60.0, 10.0  # seconds; writing more often would be seen in what is timed
TINY = "a tiny decoder stands in for Wan's VAE: figures with codec do not answer the target, which is of Wan's own"


class TimeIsUp(BaseException):
    """Broken off; no `except Exception` on the way may swallow it."""


@contextmanager
def broken_off(seconds: float) -> Iterator[None]:
    """Raises TimeIsUp in here after so many seconds. Whoever has set such an alarm before keeps it."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3))


def use_packages(folder: Path) -> None:
    """Every wheel of a folder can be imported from now on: those that the machine lacks and cannot fetch."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ConfigError(f"--packages: no wheel (*.whl) lies in {folder}; `pip download --no-deps --dest {folder} diffusers` brings one")
    site = tempfile.mkdtemp(prefix="gpu-packages-")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
    sys.path.append(site)  # behind what is installed, which fits the machine


def settings_of(options: argparse.Namespace) -> StreamSettings:
    """Those of the way `plain`."""
    run = override(sized(recipe(options.recipe), options.size) if options.size else recipe(options.recipe), options.set)
    own = "own" if find_spec("diffusers") or not isinstance(run.codec, WanCodecConfig) else "tiny"
    precision = "bf16" if options.device.startswith("cuda") else "fp32"
    return StreamSettings(run, options.steps, max(4, options.steps), run.memory, options.codec or own, precision, options.device)


def measured(settings: StreamSettings, chunks: int, asked: Asked, seconds: float) -> dict:
    """One way's figures; of one that fails or is broken off after `seconds`, those that there were and why. The device is given back."""
    began = told = time.perf_counter()
    figures: dict[str, Any] = {}

    def heard(found: dict) -> None:
        nonlocal told
        figures.update(found)
        if time.perf_counter() - told > SELDOM:
            told = time.perf_counter()
            asked.heard({**figures, "unfinished": "at work", "seconds": told - began})

    try:
        with broken_off(seconds):
            stream_timing.measure_stream(settings, chunks, replace(asked, heard=heard))
        print(stream_timing.described(figures), flush=True)
    except TimeIsUp:
        figures["failed"] = f"broken off after {seconds:.0f} s: time was up"
    except Exception as error:  # whatever it is, from a missing compiler to a library of the driver: the next way may run
        figures["failed"] = f"{type(error).__name__}: {error}"[:2000]
        figures["traceback"] = traceback.format_exc()[-6000:]
    if "failed" in figures:
        print(figures["failed"], flush=True)
    give_back()
    return {**figures, "seconds": time.perf_counter() - began}


def give_back() -> None:
    """What a way has compiled and allocated."""
    try:
        if "torch._dynamo" in sys.modules:
            torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    except Exception as error:
        print(f"giving back: {type(error).__name__}: {error}"[:500], flush=True)


def summary(ways: dict[str, dict]) -> dict[str, dict]:
    """Of each way: pixel frames/s with and without codec, and with which decoder; its chunk over the first way's; medians of its passes."""
    rows, first = {}, next(iter(ways.values()), {})
    for name, figures in ways.items():
        free, plain = free_runs(figures), free_runs(first)
        row: dict[str, Any] = {kind: found["pixel_frames_per_second"] for kind, found in free.items()}
        if "with_codec" in free:
            row["with_codec_answers_the_target"] = figures["codec"].startswith("Wan")
        if "codec" in figures:
            row["decoder"] = figures["codec"]
        row |= {key: value["p50"] for key, value in figures.get("passes", {}).items()}
        for part, key in (("first_frame", "cold_ms"), ("first_frame", "warm_ms"), ("filling", "prepare_ms"), ("filling", "full_at_chunk")):
            if figures.get(part, {}).get(key) is not None:
                row[f"{part}_{key}"] = figures[part][key]
        row |= {f"chunk_{kind}_over_first": free[kind]["chunk_ms"] / plain[kind]["chunk_ms"] for kind in free if kind in plain}
        row |= {key: figures[key] for key in ("share_of_roofline", "share_of_data_sheet") if figures.get(key) is not None}
        row |= {"memory_constant": figures["memory"]["constant"]} if "memory" in figures else {}
        row |= {key: str(figures[key]).splitlines()[0] for key in ("failed", "unfinished") if key in figures}
        rows[name] = row
    return rows


def free_runs(figures: dict) -> dict[str, dict]:
    """Those that there are."""
    return {kind: found for kind, found in figures.get("free", {}).items() if found is not None}


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--recipe", default="wan-1.3b")
    parser.add_argument("--size", default="", help="pictures of another size, such as 480x832")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as path=value")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--codec", default="", choices=("own", "tiny", "none"), help="default: Wan's own where diffusers is, else tiny")
    parser.add_argument("--packages", type=Path, help="a folder of wheels that the machine lacks, such as diffusers")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=30, help="chunks per measurement; 10 at least")
    parser.add_argument("--only", default="both", choices=get_args(Only), help="of the two free runs; both take twice as long")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="only these")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no chunk after them, and no way that cannot end before")
    return parser.parse_args(arguments)


def loudly(text: str) -> None:
    """What nobody may overlook."""
    print(f"{'!' * 100}\n{text}\n{'!' * 100}", flush=True)


def measure_ways(
    base: StreamSettings, options: argparse.Namespace, began: float, write: Callable[[dict[str, dict]], None]
) -> dict[str, dict]:
    """Way after way until the time is up; one is begun while enough is left for what the longest took, and perhaps a compilation."""
    ways: dict[str, dict] = {}
    longest = 0.0
    for name in options.ways:
        left = options.seconds - (time.perf_counter() - began)
        compiles = "compile" in name or name == "flex"
        if ways and left < longest + COMPILATION * compiles:
            print(f"{name}: left out, {left:.0f} s are left", flush=True)
            continue
        print(f"--- {name}", flush=True)
        asked = Asked(options.only, began + options.seconds, not ways, lambda found, name=name: write({**ways, name: found}))
        ways[name] = measured(replace(base, **WAYS[name]), options.chunks, asked, left + GRACE)
        longest = longest if compiles else max(longest, ways[name]["seconds"])
        if "arithmetic" in ways[name] and len(ways) == 1:
            print(arithmetic.described(ways[name]["arithmetic"], options.steps), flush=True)
        write(ways)
    return ways


def main(arguments: list[str] | None = None) -> None:
    """Measure and write."""
    began, options = time.perf_counter(), parsed(arguments)
    if options.packages is not None:
        use_packages(options.packages)
    base = settings_of(options)
    head: dict[str, Any] = {"provenance": provenance(), "chunks": options.chunks, "only": options.only, "torch_cuda": torch.version.cuda}
    if base.codec == "tiny":
        head["decoder"] = TINY
        loudly(TINY)

    def write(ways: dict[str, dict]) -> None:
        write_json(options.output / "gpu.json", {**head, "summary": summary(ways), "ways": ways})

    ways = measure_ways(base, options, began, write)
    for name, row in summary(ways).items():
        print(name, {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
    if base.codec == "tiny":
        loudly(TINY)


if __name__ == "__main__":
    main()
