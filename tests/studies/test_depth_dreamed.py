"""Dreamed landmarks: none of them was real, and remembering, guessing and showing everything alike are told apart."""

import json

import numpy as np
import pytest

from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tiles import NUM_KINDS, render_tiles
from mutoscope.evaluate.recall import RecallTask, play_truth
from mutoscope.studies.depth_dreamed import DREAMED, agreement, dreamed_effects, dreamed_table, landmarks, read_dreamed

COLUMNS, EPISODES, AWAY = 4, 400, 20
NAMES = {"teacher": "teacher", "2": "2 steps"}


def turned(panorama: np.ndarray, places: list[int]) -> np.ndarray:
    """Dreams `[episode, T, 8, 32, 3]` that show a panorama of kinds `[episode, column]` from these places on."""
    return np.stack([render_tiles(panorama[:, None, place : place + COLUMNS]) for place in places], axis=1)


def journey(generator: np.random.Generator, alike: bool = False, forgets: bool = False) -> np.ndarray:
    """A dream that turns on by one column a frame, to the landmarks and past them, and back to them."""
    panorama = generator.integers(0, NUM_KINDS, (EPISODES, 40))
    panorama = np.repeat(panorama[:1], EPISODES, axis=0) if alike else panorama
    out = turned(panorama, [*range(2 * COLUMNS + 1)])
    back = turned(generator.integers(0, NUM_KINDS, (EPISODES, 40)) if forgets else panorama, [COLUMNS])
    return np.concatenate([out, back], axis=1)


def other_way(generator: np.random.Generator) -> np.ndarray:
    """The same journey in the other direction."""
    panorama = generator.integers(0, NUM_KINDS, (EPISODES, 40))
    return turned(panorama, [*range(20, 20 - 2 * COLUMNS - 1, -1), 20 - COLUMNS])


@pytest.mark.parametrize("way", [journey, other_way])
def test_who_remembers_shows_the_same_again(way):
    found = agreement(way(np.random.default_rng(0)), COLUMNS)
    assert (found.same == 1).all() and (found.kept == 1).all()
    assert found.others.mean() == pytest.approx(1 / NUM_KINDS, abs=0.03)


def test_who_forgets_guesses_and_who_shows_all_alike_is_found():
    forgetful = agreement(journey(np.random.default_rng(1), forgets=True), COLUMNS)
    assert forgetful.same.mean() == pytest.approx(1 / NUM_KINDS, abs=0.03) and (forgetful.kept == 1).all()
    alike = agreement(journey(np.random.default_rng(2), alike=True), COLUMNS)
    assert (alike.same == 1).all() and (alike.others == 1).all()


def test_no_landmark_was_real_nor_in_the_first_dreamed_frame():
    env = make_world("ring", height=8, width=32, frame_skip=1)
    truth = play_truth(env, RecallTask(12, AWAY), 6, 0)
    asked = landmarks(truth, COLUMNS)
    first_full = asked.context + COLUMNS
    assert first_full == truth.context - 1 and np.array_equal(truth.tiles[:, first_full], truth.tiles[:, -1])
    apart = np.abs(truth.position[:, : first_full + 1] - truth.position[:, first_full : first_full + 1]).max(axis=2)
    assert (apart[:, : asked.context + 1] >= COLUMNS).all(), "neither in a real frame nor in the first dreamed one"
    assert (apart[:, asked.context + 1] == COLUMNS - 1).all(), "and one column in the next"


def planted(folder, memory: str, figures: dict[tuple[str, int], tuple[float, float]]) -> None:
    """A file per seed: `same` and `others` of two depths."""
    (folder / DREAMED).mkdir(exist_ok=True)
    for seed in {seed for _, seed in figures}:
        rows = [
            {"depth": depth, "away": away, "same": same, "others": others, "kept": 0.9}
            for (depth, own), (same, others) in figures.items()
            if own == seed
            for away in (24, 48)
        ]
        plain = {"memory": memory, "seed": seed, "rows": rows}
        (folder / DREAMED / f"{memory.replace(', ', '-').replace(' ', '-')}-seed{seed}.json").write_text(json.dumps(plain))


def test_differences_are_paired_by_seed(tmp_path):
    planted(tmp_path, "full", {("teacher", seed): (1.0, 0.1) for seed in (0, 1, 2)} | {("2", seed): (0.8, 0.1) for seed in (0, 1, 2)})
    own = {("teacher", seed): (0.9 + seed / 100, 0.1) for seed in (0, 1)} | {("2", seed): (0.6 + seed / 100, 0.1) for seed in (0, 1)}
    planted(tmp_path, "window+linear", own)
    planted(tmp_path, "window+linear, last pass", {("teacher", 0): (0.9, 0.1), ("2", 0): (0.9, 0.5)})
    found = read_dreamed(tmp_path)
    effects = dreamed_effects(found)
    assert effects["window+linear", "2"]["loss"].mean == pytest.approx(0.3) and effects["window+linear", "2"]["loss"].seeds == 2
    assert effects["window+linear", "2"]["cost"].mean == pytest.approx(0.1) and effects["full", "2"]["loss"].mean == pytest.approx(0.2)
    assert effects["window+linear", "2"]["last pass"].mean == pytest.approx(-0.1), "what others reach is no memory"
    assert effects["window+linear", "2"]["last pass"].seeds == 1 and "cost" not in effects["full", "2"]
    assert "loss" not in effects["full", "teacher"] and effects["full", "2"]["forgotten"].mean == pytest.approx(0.1)
    table = dreamed_table(found, NAMES)
    assert "| window+linear | 2 steps | 0.605 | 0.100 | 0.900 | +0.295 [" in table
    assert "| +0.300 [+0.300, +0.300] (detectable 0.000), 2 | +0.100 [" in table and "-0.100, one seed | 2 |" in table
    assert "| full | teacher | 1.000 | 0.100 | 0.900 | -0.100 [-0.100, -0.100] (detectable 0.000), 3 | - | - | - | 3 |" in table
