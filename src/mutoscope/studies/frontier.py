"""The one figure: key-to-pixels latency against Frechet distance, per step count, with intervals.

    python -m mutoscope.studies.frontier results/doom-cover/evaluation/results.json "matching-{steps}" \
        1=results/doom-cover/play-1.json 2=results/doom-cover/play-2.json --output docs/pictures/frontier.png

Latency comes from benchmarks/play_latency.py (a browser that presses keys), distance from `mutoscope evaluate`.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError, MutoscopeError, optional_import
from mutoscope.core.files import read_json, write_atomically


@dataclass(frozen=True)
class Point:
    """One step count: latency in ms (middle repeat, least, most) and Frechet distance (value, low, high)."""

    steps: int
    latency_ms: tuple[float, float, float]
    distance: tuple[float, float, float]


def read_point(results: dict, label: str, steps: int, horizon: int, play: dict) -> Point:
    """Join one candidate of an evaluation with one latency file."""
    candidates = [name for name in results["candidates"] if name.startswith(label.format(steps=steps))]
    if len(candidates) != 1:
        raise DataError(f"'{label}' with {steps} steps names {candidates or 'no candidate'}; there are: {', '.join(results['candidates'])}")
    interval = results["candidates"][candidates[0]]["frechet"][str(horizon)]
    medians = sorted(row["key_to_pixels_ms"]["p50"] for row in play["content_rate"]["repeats"])
    return Point(steps, (float(np.median(medians)), medians[0], medians[-1]), (interval["value"], interval["low"], interval["high"]))


def draw(points: list[Point], title: str, output: Path) -> None:
    """A picture with both intervals per point."""
    matplotlib = optional_import("matplotlib", package="matplotlib", extra="evaluate")
    matplotlib.use("Agg")
    pyplot = optional_import("matplotlib.pyplot", package="matplotlib", extra="evaluate")
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for point in points:
        (x, x_low, x_high), (y, y_low, y_high) = point.latency_ms, point.distance
        axes.errorbar(x, y, xerr=[[x - x_low], [x_high - x]], yerr=[[max(0.0, y - y_low)], [max(0.0, y_high - y)]], fmt="o", capsize=3)
        axes.annotate(f"{point.steps} step{'s' if point.steps > 1 else ''}", (x, y), xytext=(6, 6), textcoords="offset points")
    axes.set(xlabel="key to pixels, median of the repeats (ms)", ylabel="Frechet distance (not the published FVD)", title=title)
    write_atomically(output, lambda path: figure.savefig(path, format="png", dpi=150))
    pyplot.close(figure)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("label", help="how a candidate's name begins, with {steps}")
    parser.add_argument("play", nargs="+", help="STEPS=FILE of benchmarks/play_latency.py")
    parser.add_argument("--horizon", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        results = read_json(options.results)
        pairs = [item.partition("=") for item in options.play]
        points = [read_point(results, options.label, int(steps), options.horizon, read_json(Path(file))) for steps, _, file in pairs]
        draw(points, f"frame-wise, horizon {options.horizon}", options.output)
    except MutoscopeError as error:
        print(f"frontier: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
