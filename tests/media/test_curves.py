import json
from pathlib import Path

import pytest

from mutoscope.core.errors import DataError
from mutoscope.media.curves import Line, Panel, Point, draw_panels, plot_curves, read_curves
from mutoscope.media.picture import read_picture


def write_lines(path: Path, rows: list[dict], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return path


def test_numeric_figures_become_curves_over_the_updates(tmp_path: Path) -> None:
    rows = [{"update": 5, "loss": 2.0, "note": "x", "rate": None}, {"update": 7, "loss": 1.0, "rate": 3}]
    assert read_curves(write_lines(tmp_path / "m.jsonl", rows)) == {"loss": ([5.0, 7.0], [2.0, 1.0]), "rate": ([7.0], [3.0])}


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [{"update": 1, "loss": 2.0}], tail='{"update": 2, "lo')
    assert read_curves(path) == {"loss": ([1.0], [2.0])}


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text('{"update": 1}\nbroken\n')
    with pytest.raises(DataError, match="line 2"):
        read_curves(path)


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [{"update": index, "loss": 10.0 ** -(index / 10), "accuracy": index / 50} for index in range(50)]
    plot_curves(write_lines(tmp_path / "m.jsonl", rows), tmp_path / "curves.png")
    picture = read_picture(tmp_path / "curves.png")
    assert picture.shape[1] > 600 and picture.std() > 5


def test_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        plot_curves(tmp_path / "m.jsonl", tmp_path / "curves.png")
    with pytest.raises(DataError, match="no figures"):
        plot_curves(write_lines(tmp_path / "m.jsonl", []), tmp_path / "curves.png")


def test_panels_show_points_and_intervals_and_grey_baselines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    points = tuple(Point(2**place, 0.5, 0.3, 0.8) for place in range(3, 6))
    lines = (Line("student", points), Line("one point", points[:1]), Line("chance", points, "baseline"))
    panel = Panel("recall", "frames", "share", lines, (0, 1))
    draw_panels([[panel, panel], [panel]], tmp_path / "panels.png")
    draw_panels([[Panel("recall", "frames", "share", lines[2:])]], tmp_path / "grey.png")
    colourful, grey = (read_picture(tmp_path / name).astype(int) for name in ("panels.png", "grey.png"))
    assert colourful.shape[1] > 1.8 * grey.shape[1] and colourful.std() > 5
    assert (colourful.max(axis=2) - colourful.min(axis=2)).max() > 100 and (grey.max(axis=2) - grey.min(axis=2)).max() == 0
