"""Far recall of the study's checkpoints: read from their paths, paired by seed."""

import json
from pathlib import Path

import pytest

from mutoscope.core.errors import DataError
from mutoscope.studies.depth_far import branch_effects, branch_table, far_effects, far_table, matching_losses, matching_table, read_far

NAMES = {"teacher": "teacher", "2": "2 steps"}


def measure(folder: Path, name: str, figures: dict[str, float], away: int = 512) -> None:
    """A report of `mutoscope recall` over checkpoints (`seed-1/full/matching-2`), and a baseline that belongs to none."""
    target = folder / "far" / name
    target.mkdir(parents=True)
    candidates = [{"label": path, "checkpoint": f"runs/depth-memory/{path}/checkpoint"} for path in figures]
    rows = [{"label": label, "away": away, "identity": {"value": value}} for label, value in {**figures, "chance": 0.1}.items()]
    (target / "recall.json").write_text(json.dumps({"candidates": candidates, "rows": rows}))


def test_losses_are_paired_by_seed(tmp_path):
    measure(tmp_path, "first", {"seed-0/fast-weights/autoregressive": 0.9, "seed-0/fast-weights/matching-2": 0.7})
    measure(tmp_path, "second", {"seed-1/fast-weights/autoregressive": 0.5, "seed-1/fast-weights/matching-2": 0.3})
    measure(tmp_path, "third", {"seed-2/fast-weights/matching-2": 0.0})
    far = read_far(tmp_path)
    assert far["fast-weights", "2", 512] == {0: 0.7, 1: 0.3, 2: 0.0}
    (key, loss), *others = far_effects(far).items()
    assert key == ("fast-weights", "2", 512) and not others
    assert loss.seeds == 2 and loss.mean == pytest.approx(0.2) and loss.excludes_zero, "the seed without a teacher is left out"
    table = far_table(far, NAMES)
    assert "| fast-weights | 2 steps | 0.70 0.30 0.00 | 0.33 [" in table and "+0.20 [+0.20, +0.20] |" in table
    assert "| fast-weights | teacher | 0.90 0.50 |" in table


def test_what_matching_loses_is_the_mean_of_its_students(tmp_path):
    for seed, (before, students) in enumerate([(0.9, (0.3, 0.6, 0.0)), (1.0, (0.4, 0.7, 0.1))]):
        figures = {f"seed-{seed}/full/matching-{steps}": value for steps, value in zip((4, 2, 1), students, strict=True)}
        measure(tmp_path, f"{seed}", {f"seed-{seed}/full/consistency": before, **figures})
    measure(tmp_path, "part", {"seed-2/full/consistency": 0.5, "seed-2/full/matching-4": 0.5})
    ((key, loss),) = matching_losses(read_far(tmp_path)).items()
    assert key == ("full", 512) and loss.seeds == 2 and loss.mean == pytest.approx(0.6), "a seed without all students is left out"
    assert "| full | +0.60 [+0.60, +0.60], 2 |" in matching_table(read_far(tmp_path))


def test_names_of_memories_come_from_their_folders(tmp_path):
    measure(tmp_path, "one", {"seed-3/window+fast-weights-last-pass/matching-1": 0.4})
    assert read_far(tmp_path) == {("window+fast-weights, last pass", "1", 512): {3: 0.4}}
    measure(tmp_path, "two", {"seed-2/window+fast-weights-taught-seed2/matching-1": 0.5})
    assert read_far(tmp_path)["window+fast-weights, taught", "1", 512] == {2: 0.5}
    assert read_far(tmp_path / "nothing") == {}


def test_longer_rollouts_are_paired_with_those_of_a_clips_length(tmp_path):
    measure(tmp_path, "plain", {"seed-2/fast-weights/matching-2": 0.3, "seed-3/fast-weights/matching-2": 0.5})
    longer = {f"seed-{seed}/fast-weights-longer-rollouts-seed{seed}/matching-2": value for seed, value in ((2, 0.7), (3, 0.8), (4, 0.1))}
    measure(tmp_path, "longer", longer)
    ((key, gain),) = branch_effects(read_far(tmp_path)).items()
    assert key == ("fast-weights, longer rollouts", "2", 512) and gain.seeds == 2 and gain.mean == pytest.approx(0.35)
    assert "| fast-weights, longer rollouts | 2 steps | +0.35 [" in branch_table(read_far(tmp_path), NAMES)


@pytest.mark.parametrize(
    "path",
    [
        "seed-3/fast-weights-longer-rollouts-seed2/matching-1",
        "seed-3/window+dreams/matching-1",
        "seed-3/full/matching-8",
        "run-3/full/matching-1",
    ],
)
def test_foreign_checkpoints_are_refused(tmp_path, path):
    measure(tmp_path, "one", {path: 0.4})
    with pytest.raises(DataError, match="no checkpoint of this study"):
        read_far(tmp_path)
