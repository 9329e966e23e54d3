"""The figures of a run as one picture: a panel per figure, over the updates."""

import json
import math
from pathlib import Path
from typing import Any

from mutoscope.core.errors import DataError, optional_import
from mutoscope.core.files import write_atomically

COLUMNS = 3
STEP = "update"


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
    figure = figures.Figure(figsize=(4.5 * COLUMNS, 2.6 * lines), layout="constrained")
    for place, (name, (steps, values)) in enumerate(sorted(curves.items()), 1):
        panel = figure.add_subplot(lines, COLUMNS, place)
        panel.plot(steps, values, linewidth=1.0)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel(STEP, fontsize=8)
        panel.grid(alpha=0.3)
        if min(values) > 0 and max(values) > 30 * min(values):
            panel.set_yscale("log")
    return figure
