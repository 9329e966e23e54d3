"""The figure of latency against distance: figures joined as they lie in the files, and a clear error where one is missing."""

import json
import sys
from pathlib import Path

import pytest

from mutoscope.core.errors import DataError
from mutoscope.studies.frontier import Point, Series, main


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An evaluation with two step counts, and their latencies."""
    rows = {f"matching-{n}, {n} steps": {"frechet": {"16": {"value": 1.0 / n, "low": 0.5 / n, "high": 2.0 / n}}} for n in (1, 2)}
    (tmp_path / "results.json").write_text(json.dumps({"candidates": rows}))
    for steps in (1, 2):
        repeats = [{"key_to_pixels_ms": {"p50": 50.0 * steps + extra}} for extra in (7.0, 0.0, 3.0)]
        (tmp_path / f"play-{steps}.json").write_text(json.dumps({"content_rate": {"repeats": repeats}}))
    return tmp_path


def test_points_join_latency_and_distance(files: Path) -> None:
    series = Series("scroll", "frame-wise", files / "results.json", "matching-{steps}", str(files / "play-{steps}.json"))
    assert series.points((1, 2), 16) == [Point(1, (53.0, 50.0, 57.0), (1.0, 0.5, 2.0)), Point(2, (103.0, 100.0, 107.0), (0.5, 0.25, 1.0))]


def test_an_unknown_candidate_is_an_error_that_names_the_known(files: Path) -> None:
    series = Series("scroll", "frame-wise", files / "results.json", "student-{steps}", str(files / "play-{steps}.json"))
    with pytest.raises(DataError, match="matching-1, 1 steps"):
        series.points((1,), 16)


def test_the_figure_is_drawn_with_a_panel_per_world(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [str(files / "results.json"), "matching-{steps}", str(files / "play-{steps}.json")]
    series = [
        part for panel, name in (("a", "frame-wise"), ("b", "frame-wise"), ("b", "chunks")) for part in ("--series", panel, name, *line)
    ]
    monkeypatch.setattr(sys, "argv", ["frontier", *series, "--steps", "1", "2", "--output", str(files / "figure.png")])
    assert main() == 0 and (files / "figure.png").stat().st_size > 1000


def test_a_missing_file_is_explained(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    line = [str(files / "results.json"), "matching-{steps}", str(files / "nowhere-{steps}.json")]
    monkeypatch.setattr(sys, "argv", ["frontier", "--series", "a", "b", *line, "--output", str(files / "figure.png")])
    assert main() == 2 and "nowhere-1.json" in capsys.readouterr().err
