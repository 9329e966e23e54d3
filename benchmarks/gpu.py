"""Everything worth measuring on a borrowed GPU in one call: a recipe's stream in one way after the other, within a budget of time.

    python benchmarks/gpu.py --output results/gpu --seconds 540                       one H200, wan-1.3b at 480x832: under ten minutes
    python benchmarks/gpu.py --output results/gpu-long --ways plain --chunks 2400     ten minutes of video: does memory stay?
    python benchmarks/gpu.py --output gpu-smoke --device cpu --codec none --size 32x48 --chunks 10 --ways plain fused "cache int8"
        --set model.dim=24 model.num_layers=2 model.ffn_dim=48 model.num_heads=2 model.text_dim=8 memory=window=3     a smoke run

It needs torch, NumPy and safetensors; Wan's codec needs diffusers, and without it a tiny decoder is measured in its place. The ways differ
from the first one, `plain`, by what their names say, and `plain again` at the end shows how much the machine itself drifted. The file is
written anew after each way, so that nothing is lost when time runs out. A way that cannot run here says why.
"""

import argparse
import gc
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch

from mutoscope.commands import arithmetic, stream_timing
from mutoscope.commands.overrides import override
from mutoscope.commands.streaming import StreamSettings, sized
from mutoscope.core.errors import MutoscopeError
from mutoscope.core.files import write_json
from mutoscope.core.provenance import provenance
from mutoscope.recipes import recipe
from mutoscope.rollout.speed import Speed

Changes = dict[str, object]
WAYS: dict[str, Changes] = {
    "plain": {},
    "cudnn": {"speed": Speed("cudnn")},
    "graph": {"speed": Speed(runner="graph")},
    "cudnn, graph": {"speed": Speed("cudnn", "graph")},
    "tiny codec": {"codec": "tiny"},
    "1 step": {"steps": 1},
    "4 steps": {"steps": 4},
    "fused": {"speed": Speed(commits="fused")},
    "cache fp8": {"speed": Speed(cache="fp8")},
    "cache int8": {"speed": Speed(cache="int8")},
    "flash": {"speed": Speed("flash")},
    "flex": {"speed": Speed("flex")},
    "weights int8": {"weights": "int8"},
    "weights fp8-dynamic": {"weights": "fp8-dynamic"},
    "compile-graph": {"speed": Speed(runner="compile-graph")},
    "cudnn, compile-graph": {"speed": Speed("cudnn", "compile-graph")},
    "weights fp8-dynamic, compile-graph": {"weights": "fp8-dynamic", "speed": Speed("cudnn", "compile-graph")},
    "plain again": {},
}


def settings_of(options: argparse.Namespace) -> StreamSettings:
    """Those of the way `plain`."""
    run = override(sized(recipe(options.recipe), options.size) if options.size else recipe(options.recipe), options.set)
    codec = options.codec or ("own" if find_spec("diffusers") else "tiny")
    precision = "bf16" if options.device.startswith("cuda") else "fp32"
    return StreamSettings(run, options.steps, max(4, options.steps), run.memory, codec, precision, options.device)


def measured(settings: StreamSettings, chunks: int) -> dict:
    """One way's figures, or why there are none; what the device held is given back."""
    began = time.perf_counter()
    try:
        figures = stream_timing.measure_stream(settings, chunks)
        print(stream_timing.described(figures), flush=True)
    except (MutoscopeError, RuntimeError, NotImplementedError, ImportError, AssertionError, AttributeError, TypeError, ValueError) as error:
        figures = {"failed": f"{type(error).__name__}: {error}"[:2000]}
        print(figures["failed"], flush=True)
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return {**figures, "seconds": time.perf_counter() - began}


def summary(ways: dict[str, dict]) -> dict[str, dict]:
    """Pixel frames/s of each way with and without codec, its chunk over that of the first way, and the medians of its passes."""
    rows, first = {}, next(iter(ways.values()))
    for name, figures in ways.items():
        if "failed" in figures:
            rows[name] = {"failed": figures["failed"].splitlines()[0]}
            continue
        free, plain = figures["free"], first.get("free")
        row = {key: free[key]["pixel_frames_per_second"] for key in free if free[key] is not None}
        row |= {key: value["p50"] for key, value in figures["passes"].items()}
        row["first_frame_warm_ms"] = figures["first_frame"]["warm_ms"]
        rows[name] = row | ({"chunk_over_first": free["without_codec"]["chunk_ms"] / plain["without_codec"]["chunk_ms"]} if plain else {})
    return rows


def main() -> None:
    """Measure way after way until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu.json")
    parser.add_argument("--recipe", default="wan-1.3b")
    parser.add_argument("--size", default="", help="pictures of another size, such as 480x832")
    parser.add_argument("--set", nargs="*", default=[], help="changes to the recipe, as path=value")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--codec", default="", choices=("own", "tiny", "none"), help="default: Wan's own where diffusers is, else tiny")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=30, help="chunks per measurement; 10 at least")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS), help="only these")
    parser.add_argument("--seconds", type=float, default=540.0, help="begin no way that would end later, as far as can be told")
    options = parser.parse_args()
    began, base, ways, longest = time.perf_counter(), settings_of(options), {}, 0.0
    head = {"provenance": provenance(), "chunks": options.chunks, "torch_cuda": torch.version.cuda}
    for name in options.ways:
        left = options.seconds - (time.perf_counter() - began)
        compiling = 90.0 if "compile" in name or name == "flex" else 0.0
        if ways and left < longest + compiling:
            print(f"{name}: left out, {left:.0f} s are left", flush=True)
            continue
        print(f"--- {name}", flush=True)
        ways[name] = measured(replace(base, **WAYS[name]), options.chunks)
        longest = max(longest, ways[name]["seconds"])
        if "arithmetic" in ways[name] and len(ways) == 1:
            print(arithmetic.described(ways[name]["arithmetic"], options.steps), flush=True)
        write_json(options.output / "gpu.json", {**head, "summary": summary(ways), "ways": ways})
    for name, row in summary(ways).items():
        print(name, {key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
