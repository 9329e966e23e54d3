"""The one figure: action-to-photon latency against Frechet distance, per step count, with intervals.

    python -m mutoscope.studies.frontier --output docs/pictures/frontier.png \
        --series ViZDoom frame-wise results/doom-cover/evaluation/results.json matching-{steps} results/doom-cover/play-{steps}.json \
        --series scroll frame-wise results/scroll/evaluation/results.json matching-{steps} results/scroll/play-{steps}.json \
        --series scroll "chunks of 3" results/scroll-chunk/evaluation/results.json matching-{steps} results/scroll-chunk/play-{steps}.json

Latency comes from benchmarks/play_latency.py (a browser that presses keys), distance from `mutoscope evaluate`. One panel per world.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mutoscope.core.errors import DataError, MutoscopeError, optional_import
from mutoscope.core.files import read_json, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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


@dataclass(frozen=True)
class Series:
    """A line of the figure: which panel, its name, and where its figures lie ("{steps}" stands for the step count)."""

    panel: str
    name: str
    results: Path
    label: str
    play: str

    def points(self, steps: tuple[int, ...], horizon: int) -> list[Point]:
        """One point per step count."""
        results = read_json(self.results)
        return [read_point(results, self.label, count, horizon, read_json(Path(self.play.format(steps=count)))) for count in steps]


def draw(panels: dict[str, dict[str, list[Point]]], horizon: int, output: Path) -> None:
    """A picture with a panel per world, a line per series, and both intervals per point."""
    matplotlib = optional_import("matplotlib", package="matplotlib", extra="evaluate")
    matplotlib.use("Agg")
    pyplot = optional_import("matplotlib.pyplot", package="matplotlib", extra="evaluate")
    figure, row = pyplot.subplots(1, len(panels), figsize=(5.5 * len(panels), 4), layout="constrained", squeeze=False)
    for axes, (title, lines) in zip(row[0], panels.items(), strict=True):
        for name, points in lines.items():
            _draw_line(axes, name, points)
        axes.set(
            title=title,
            xlabel="action to photon, ms (median; bar: medians of the repeats)",
            ylabel=f"Frechet distance, {horizon} frames (not the published FVD)",
        )
        axes.set_ylim(bottom=0)
        axes.legend()
    write_atomically(output, lambda path: figure.savefig(path, format="png", dpi=150))
    pyplot.close(figure)


def _draw_line(axes: "Axes", name: str, points: list[Point]) -> None:
    latency, distance = np.array([point.latency_ms for point in points]), np.array([point.distance for point in points])
    x, y = latency[:, 0], distance[:, 0]
    axes.errorbar(x, y, xerr=_reach(latency), yerr=_reach(distance), fmt="o-", linewidth=0.8, capsize=3, label=name)
    for point in points:
        place = (point.latency_ms[0], point.distance[0])
        axes.annotate(f"{point.steps} step{'s' if point.steps > 1 else ''}", place, xytext=(6, 6), textcoords="offset points")


def _reach(intervals: np.ndarray) -> np.ndarray:
    """(value, low, high) per row -> lengths of the two halves of an error bar, `[2, rows]`, never below 0."""
    return np.maximum(0.0, np.stack([intervals[:, 0] - intervals[:, 1], intervals[:, 2] - intervals[:, 0]]))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", action="append", nargs=5, required=True, metavar=("PANEL", "NAME", "RESULTS", "LABEL", "PLAY"))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--horizon", type=int, default=16)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    try:
        panels: dict[str, dict[str, list[Point]]] = {}
        for panel, name, results, label, play in options.series:
            series = Series(panel, name, Path(results), label, play)
            panels.setdefault(panel, {})[name] = series.points(tuple(options.steps), options.horizon)
        draw(panels, options.horizon, options.output)
    except MutoscopeError as error:
        print(f"frontier: {error}", file=sys.stderr)
        return 2
    print(f"{options.output}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
