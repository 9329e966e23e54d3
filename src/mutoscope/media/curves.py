"""Figures as one picture: those of a run over its updates, a panel each; or panels of measured points with their intervals."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mutoscope.core.errors import DataError, optional_import
from mutoscope.core.files import write_atomically

COLUMNS = 3
STEP = "update"
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES, MARKERS, SPREAD = ("--", ":", "-."), ("^", "s", "v", "D", "P"), 1.05
MOST_SPREAD = 4  # as many lines are drawn SPREAD apart
# How lines look whose colours come again.
ROUNDS: tuple[dict[str, Any], ...] = ({"marker": "o"}, {"marker": "s", "linestyle": "--"}, {"marker": "^", "linestyle": ":"})


def read_curves(path: Path, step: str = STEP) -> dict[str, tuple[list[float], list[float]]]:
    """JSON lines -> for every numeric figure its steps and values; a last line that was cut off is left out."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; a run writes it once it has made its first update")
    text = path.read_text(encoding="utf-8")
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), 1):
        row = _row(path, number, line)
        for name, value in row.items():
            if name != step and _is_number(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(row.get(step, number)))
                values.append(float(value))
    return curves


def plot_curves(jsonl_path: Path, png_path: Path) -> None:
    """Draw the curves of a JSON-lines file as a PNG; figures that are positive and span decades get a logarithmic axis."""
    curves = read_curves(jsonl_path)
    if not curves:
        raise DataError(f"{jsonl_path} holds no figures yet")
    figure = _draw(curves)
    write_atomically(Path(png_path), lambda temporary: figure.savefig(temporary, format="png", dpi=90))


class Point(NamedTuple):
    """A measured value with the ends of its interval, at a place of the horizontal axis."""

    x: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """The points of one series; baselines are grey and dashed, so that what was measured stands out."""

    label: str
    points: tuple[Point, ...]
    role: Literal["measured", "baseline"] = "measured"


@dataclass(frozen=True)
class Panel:
    """One field of a picture: what its axes mean, and its lines."""

    title: str
    xlabel: str
    ylabel: str
    lines: tuple[Line, ...]
    limits: tuple[float, float] | None = None


def draw_panels(rows: Sequence[Sequence[Panel]], png_path: Path) -> None:
    """Rows of panels with points and intervals over a logarithmic axis (base 2), and one legend for all, as a PNG."""
    figures = optional_import("matplotlib.figure", package="matplotlib", extra="evaluate")
    columns = max(len(row) for row in rows)
    styles = _styles([line for row in rows for panel in row for line in panel.lines])
    beside = max(1, min(len(styles), int(1.6 * columns)))  # names in a row of the legend
    figure = figures.Figure(figsize=(4.2 * columns, 3.1 * len(rows) + 0.25 + 0.2 * -(-len(styles) // beside)), layout="constrained")
    shown: dict[str, Any] = {}
    for index, row in enumerate(rows):
        for place, panel in enumerate(row):
            shown |= _draw_panel(figure.add_subplot(len(rows), columns, index * columns + place + 1), panel, styles)
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=beside, fontsize=8)
    write_atomically(Path(png_path), lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _styles(lines: Sequence[Line]) -> dict[str, dict[str, Any]]:
    """How each label is drawn, the same in every panel."""
    roles = {line.label: line.role for line in lines}
    measured, baselines = ([label for label in roles if roles[label] == role] for role in ("measured", "baseline"))
    styles: dict[str, dict[str, Any]] = {
        label: {"color": COLOURS[index % len(COLOURS)], "linewidth": 1.6, "zorder": 3, **ROUNDS[index // len(COLOURS) % len(ROUNDS)]}
        for index, label in enumerate(measured)
    }
    for index, label in enumerate(baselines):
        look = {"linestyle": DASHES[index % len(DASHES)], "marker": MARKERS[index % len(MARKERS)], "markerfacecolor": "white"}
        styles[label] = {"color": "0.5", "linewidth": 1.0, "zorder": 2, **look}
    return styles


def _draw_panel(axes: Any, panel: Panel, styles: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Draw the lines of a panel; returns what stands for them in the legend."""
    ticks = sorted({point.x for line in panel.lines for point in line.points})
    shown = {}
    measured = [line.label for line in panel.lines if line.role == "measured"]
    for line in panel.lines:
        # Measured points of one place are spread by a few percent, or their intervals would hide each other; many of them more closely.
        aside = measured.index(line.label) - (len(measured) - 1) / 2 if line.label in measured else 0.0
        aside *= min(1.0, MOST_SPREAD / max(1, len(measured)))
        x, value, low, high = np.array(line.points, dtype=float).T
        reach = np.maximum(0.0, np.stack([value - low, high - value]))
        shown[line.label] = axes.errorbar(x * SPREAD**aside, value, yerr=reach, markersize=5, capsize=2, **styles[line.label])
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.xlabel, fontsize=9)
    axes.set_ylabel(panel.ylabel, fontsize=9)
    if ticks:
        axes.set_xlim(ticks[0] / 1.3, ticks[-1] * 1.3)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    axes.grid(alpha=0.25)
    return shown


def _row(path: Path, number: int, line: str) -> dict:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {number}, is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}, is no table of figures: {line[:60]}")
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _draw(curves: dict[str, tuple[list[float], list[float]]]) -> Any:
    figures = optional_import("matplotlib.figure", package="matplotlib", extra="train")
    lines = -(-len(curves) // COLUMNS)
    figure = figures.Figure(figsize=(4.5 * COLUMNS, 2.6 * lines))
    # Fixed margins: a layout engine draws everything twice, and a run draws its curves at every save.
    figure.subplots_adjust(0.05, 0.5 / (2.6 * lines), 0.98, 1 - 0.3 / (2.6 * lines), wspace=0.2, hspace=0.5)
    for place, (name, (steps, values)) in enumerate(sorted(curves.items()), 1):
        panel = figure.add_subplot(lines, COLUMNS, place)
        panel.plot(steps, values, linewidth=1.0)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(STEP, fontsize=8)
        panel.grid(alpha=0.3)
        if min(values) > 0 and max(values) > 30 * min(values):
            panel.set_yscale("log")
    return figure
