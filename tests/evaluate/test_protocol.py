"""The whole evaluation with candidates whose worth is known: perfect, mirrored, frozen, noise."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from evaluate_fakes import Oracle, camera_dataset, mean_features, noise, scroll_dataset

from mutoscope.core.errors import ConfigError, DataError, MissingPackageError
from mutoscope.evaluate.bootstrap import Interval
from mutoscope.evaluate.candidates import COPY_LAST, Candidate
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.evaluate.protocol import evaluate
from mutoscope.evaluate.results import verdict

pytest.importorskip("cv2", reason="the optional package opencv-python-headless is not installed")
pytest.importorskip("matplotlib", reason="the optional package matplotlib is not installed")
CONFIG = EvaluateConfig(
    episodes=6, context_frames=2, horizons=(4, 8), compared_frames=4, batch_size=5, memory_frames=6, stability_frames=60,
    stability_window=20, stability_seeds=4, bootstrap_repeats=100, frechet_repeats=20,
)  # fmt: skip
PERFECT, MIRRORED, NOISE = "perfect", "mirrored", "noise"


def fake_extractor(device: str):
    return mean_features


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    dataset = camera_dataset(folder / "data", episodes=8, num_frames=48)
    candidates = [
        Candidate(PERFECT, Oracle(), against=(COPY_LAST, MIRRORED)),
        Candidate(MIRRORED, Oracle(mirrored=True), role="teacher"),
        Candidate(NOISE, noise),
    ]
    plain = evaluate(candidates, dataset, CONFIG, folder / "report", fake_extractor)
    return plain, folder / "report"


def at(plain: dict, label: str, metric: str, horizon: int) -> float:
    return plain["candidates"][label]["metrics"][metric][horizon - 1]["value"]


def test_the_truth_wins_everything(found):
    plain, _ = found
    assert at(plain, PERFECT, "psnr", 8) == 60
    assert at(plain, PERFECT, "ssim", 8) == pytest.approx(1)
    assert at(plain, PERFECT, "sharpness_error", 8) == 0
    assert at(plain, PERFECT, "turn_right", 8) == 1
    assert plain["candidates"][PERFECT]["frechet"]["8"]["value"] == pytest.approx(0, abs=1e-6)
    assert plain["candidates"][PERFECT]["stability"]["all four"]["value"] > 0.7


def test_a_mirrored_world_looks_well_but_does_not_follow(found):
    plain, _ = found
    assert abs(at(plain, MIRRORED, "sharpness", 8)) < 0.3
    assert at(plain, MIRRORED, "turn_right", 8) < 0.1
    assert at(plain, MIRRORED, "turn_error", 8) > 1.5


def test_copy_last_is_added_and_follows_nothing(found):
    plain, _ = found
    assert at(plain, COPY_LAST, "turn_right", 8) < 0.1
    assert at(plain, COPY_LAST, "psnr", 8) < at(plain, PERFECT, "psnr", 8)


def test_noise_is_told_by_every_measure(found):
    plain, _ = found
    assert at(plain, NOISE, "sharpness", 8) > 1
    assert plain["candidates"][NOISE]["frechet"]["8"]["low"] > plain["real"]["frechet_halves"]["8"]
    assert plain["candidates"][NOISE]["stability"]["all four"]["value"] == 0
    assert plain["candidates"][NOISE]["stability"]["flicker"]["value"] == 1


def test_only_students_play_long(found):
    plain, _ = found
    assert plain["candidates"][MIRRORED]["stability"] == {}
    assert plain["candidates"][COPY_LAST]["stability"] == {}


def verdicts(plain: dict, second: str, metric: str) -> set[str]:
    pairs = [item for item in plain["comparisons"] if (item["first"], item["second"], item["metric"]) == (PERFECT, second, metric)]
    return {item["verdict"] for item in pairs}


def test_paired_comparisons_find_the_better_one_in_the_metrics_own_sense(found):
    plain, _ = found
    assert verdicts(plain, MIRRORED, "turn_right") == {"better"}
    assert verdicts(plain, MIRRORED, "turn_error") == {"better"}
    assert verdicts(plain, COPY_LAST, "ssim") <= {"better", "undecided"}
    horizons = {item["horizon"] for item in plain["comparisons"] if item["metric"] == "psnr"}
    assert horizons == {1, 2, 3, 4, 8}


def test_a_verdict_needs_an_interval_on_one_side_of_zero():
    assert verdict(Interval(1, 0.5, 2, 9), "higher") == "better"
    assert verdict(Interval(1, 0.5, 2, 9), "lower") == "worse"
    assert verdict(Interval(-1, -2, -0.5, 9), "lower") == "better"
    assert verdict(Interval(1, -0.5, 2, 9), "higher") == "undecided"
    assert verdict(Interval(float("nan"), float("nan"), float("nan"), 0), "higher") == "undecided"


def test_the_report_is_whole_and_says_what_it_is_not(found):
    plain, folder = found
    text = (folder / "results.json").read_text()
    assert json.loads(text) == json.loads(json.dumps(plain))
    assert "NaN" not in text
    assert {path.name for path in folder.iterdir()} == {"results.json", "report.md", "clips.png", "curves.png", "stability.png"}
    report = (folder / "report.md").read_text()
    assert "NOT the published FVD" in report
    assert "NOT the published FVD" in text
    assert "tiles: the data set has no array tiles" in report
    for label in (PERFECT, MIRRORED, NOISE, COPY_LAST, "real clips", "two halves of the real clips"):
        assert f"| {label} |" in report
    assert {"commit", "processor", "packages"} <= set(plain["provenance"])


def test_the_real_clips_own_score_stands_beside(found):
    plain, _ = found
    assert plain["real"]["metrics"]["turn_right"][-1]["value"] > 0.95
    assert 0 <= plain["real"]["stability"]["share_inside_other_real_clips"] <= 1


def test_scroll_is_scored_exactly_and_without_a_pose(tmp_path):
    dataset = scroll_dataset(tmp_path / "data")
    truth = {}
    for place in range(len(dataset.episodes)):
        rows = dataset.read(place, 0, 32, ("frames", "actions"))
        for row in range(23):
            key = rows["frames"][row : row + 2].tobytes() + rows["actions"][row + 2 : row + 10].tobytes()
            truth[key] = rows["frames"][row + 2 : row + 10]

    def oracle(given, seed, advance):
        return np.stack([truth[clip.tobytes() + row.tobytes()] for clip, row in zip(given.frames, given.actions, strict=True)])

    config = replace(CONFIG, parts=("following", "tiles"), episodes=4)
    plain = evaluate([Candidate("truth", oracle)], dataset, config, tmp_path / "report", fake_extractor)
    assert at(plain, "truth", "tiles_window", 8) == 1
    assert at(plain, "truth", "position_error", 8) == 0
    assert at(plain, COPY_LAST, "position_error", 8) > 0.5
    assert at(plain, COPY_LAST, "tiles_window", 8) < 0.9
    forgetful = plain["real"]["forgetful"]["tiles_window"][7]["value"]
    assert plain["real"]["tile_chance"] < forgetful < 1
    assert "copies what is in view, forgets the rest" in (tmp_path / "report" / "report.md").read_text()
    assert plain["real"]["tile_chance"] == pytest.approx(1 / 8, abs=0.05)
    assert "following: the data set has no array pose" in plain["protocol"]["left_out"]


def test_more_noise_seeds_are_averaged_before_the_bootstrap(tmp_path):
    dataset = camera_dataset(tmp_path / "data", episodes=3, num_frames=20)
    config = replace(CONFIG, parts=("fidelity", "frechet"), episodes=3, seeds=(0, 1), horizons=(4,))
    plain = evaluate([Candidate(NOISE, noise)], dataset, config, tmp_path / "report", fake_extractor)
    assert plain["candidates"][NOISE]["metrics"]["psnr"][0]["episodes"] == 3
    single = [
        evaluate([Candidate(NOISE, noise)], dataset, replace(config, seeds=(seed,)), tmp_path / "one", fake_extractor) for seed in (0, 1)
    ]
    assert at(plain, NOISE, "psnr", 2) == pytest.approx(np.mean([at(one, NOISE, "psnr", 2) for one in single]))


def test_a_candidate_that_makes_the_wrong_frames_is_named(tmp_path):
    dataset = camera_dataset(tmp_path / "data", episodes=3, num_frames=20)

    def floats(given, seed, advance):
        return np.zeros((len(given.frames), given.actions.shape[1], *given.frames.shape[2:]), np.float32)

    with pytest.raises(DataError, match="'broken' made float32"):
        evaluate([Candidate("broken", floats)], dataset, replace(CONFIG, parts=("fidelity",)), tmp_path / "report", fake_extractor)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    "candidates",
    [[], [Candidate(NOISE, noise), Candidate(NOISE, noise)], [Candidate(COPY_LAST, noise)], [Candidate(NOISE, noise, against=("x",))]],
)
def test_labels_are_distinct_and_known(tmp_path, candidates):
    with pytest.raises(ConfigError):
        evaluate(candidates, None, CONFIG, tmp_path, fake_extractor)  # type: ignore[arg-type]


def test_what_cannot_be_reported_is_refused_before_any_frame_is_made(tmp_path, monkeypatch):
    dataset = camera_dataset(tmp_path / "data", episodes=3, num_frames=20)
    config, asked = replace(CONFIG, parts=("fidelity",)), []

    def watched(*arguments):
        asked.append(True)
        return noise(*arguments)

    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is a file"):
        evaluate([Candidate("watched", watched)], dataset, config, tmp_path / "file", fake_extractor)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingPackageError, match="mutoscope\\[evaluate\\]"):
        evaluate([Candidate("watched", watched)], dataset, config, tmp_path / "report", fake_extractor)
    assert asked == []
    monkeypatch.undo()
    evaluate([Candidate("watched", watched)], dataset, config, tmp_path / "report", fake_extractor)
    assert asked
