"""Pictures of an evaluation: curves over the horizon, long play over time, and the clips themselves."""

from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.core.errors import optional_import
from mutoscope.core.files import write_atomically
from mutoscope.evaluate.metrics.stability import STATISTICS
from mutoscope.evaluate.results import Results
from mutoscope.evaluate.scoring import METRICS
from mutoscope.media.sheet import contact_sheet, write_png

COLUMNS = 3


def draw_clips(results: Results, path: Path) -> Path:
    """The first clip: the real continuation above what each candidate made of it."""
    rows = [results.clips.future_frames[0], *(result.sample for result in results.candidates)]
    write_png(path, contact_sheet(rows, ["real", *(result.candidate.label for result in results.candidates)]))
    return path


def draw_curves(results: Results, path: Path) -> Path | None:
    """Every metric over the generated frames, with its interval as a band."""
    names = [name for name in METRICS if any(name in result.scores for result in results.candidates)]
    if not names:
        return None
    figure, panels = _panels(len(names))
    for name, panel in zip(names, panels, strict=True):
        for result in results.candidates:
            _band(panel, results, result.scores[name], result.candidate.label)
        if name in results.real.scores:
            _band(panel, results, results.real.scores[name], "real clips")
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("generated frame", fontsize=8)
    panels[0].legend(fontsize=7)
    return _save(figure, path)


def draw_stability(results: Results, path: Path) -> Path | None:
    """The four statistics over long play: a line per candidate (mean over seeds), the real range as a grey band."""
    played = [(result.candidate.label, result.stability.means) for result in results.candidates if result.stability is not None]
    if results.real.stability is None or not played:
        return None
    bounds = results.real.stability.detectors.real
    figure, panels = _panels(len(STATISTICS))
    for place, (name, panel) in enumerate(zip(STATISTICS, panels, strict=True)):
        panel.axhspan(bounds.low[place], bounds.high[place], color="0.85", label="real, 1-99 %")
        for label, means in played:
            centres = (np.arange(means.shape[1]) + 0.5) * results.config.stability_window
            panel.plot(centres, means[:, :, place].mean(axis=0), label=label)
        panel.set_title(name, fontsize=9)
        panel.set_xlabel("frame of play", fontsize=8)
    panels[0].legend(fontsize=7)
    return _save(figure, path)


def _panels(count: int) -> tuple[Any, list[Any]]:
    figures = optional_import("matplotlib.figure", package="matplotlib", extra="evaluate")
    lines = -(-count // COLUMNS)
    figure = figures.Figure(figsize=(4.5 * COLUMNS, 3.0 * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, COLUMNS, place + 1) for place in range(count)]


def _band(panel: Any, results: Results, values: np.ndarray, label: str) -> None:
    intervals = [results.interval(column) for column in values.T]
    frames = np.arange(1, len(intervals) + 1)
    (line,) = panel.plot(frames, [interval.value for interval in intervals], label=label, linewidth=1.2)
    low, high = ([interval.low for interval in intervals], [interval.high for interval in intervals])
    panel.fill_between(frames, low, high, alpha=0.2, color=line.get_color(), linewidth=0)


def _save(figure: Any, path: Path) -> Path:
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=90))
    return path
