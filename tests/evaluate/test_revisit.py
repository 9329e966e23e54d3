"""Leaving a view and coming back: scripts undo themselves, the camera decides which episodes count, and who has forgotten is seen."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from camera_world import CameraWorld
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.streams import derive_seed
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.keys import OPPOSITES
from mutoscope.evaluate.metrics.identification import identified
from mutoscope.evaluate.metrics.psnr import psnr
from mutoscope.evaluate.metrics.ssim import ssim
from mutoscope.evaluate.recall import copy_sink, within_memory
from mutoscope.evaluate.returns import another_episode, mean_of_others, moved, score, start_memory
from mutoscope.evaluate.revisit import (
    CAME_NOT_BACK,
    GOT_NOT_AWAY,
    Bounds,
    Compass,
    RevisitClips,
    RevisitTask,
    closest_turn,
    departure,
    play_truth,
    read_compass,
    refusal,
    scripts,
)
from mutoscope.memory.policy import Full, SinkWindow, Window

COMPASS = Compass("turn_right", "turn_left", 10.0 * np.arange(1, 38))
NEAR = Bounds(units=8.0, degrees=2.0, far_units=30.0, tries=20)


def task(way: str, away: int, **changes: int) -> RevisitTask:
    return RevisitTask(way, away, **{"lead": 3, "look": 2, "settle": 2, **changes})


@pytest.fixture(scope="module")
def clips() -> RevisitClips:
    """Six episodes that look away for fifteen frames."""
    return play_truth(CameraWorld(), task("look", 15), 6, 0, NEAR)


# Scripts.


@pytest.mark.parametrize(
    ("way", "away", "expected"),
    [
        ("look", 7, ("turn_right",) * 3 + ("stand",) + ("turn_left",) * 3),
        ("look", 8, ("turn_right",) * 3 + ("stand",) * 2 + ("turn_left",) * 3),
        ("look", 100, ("turn_right",) * 18 + ("stand",) * 64 + ("turn_left",) * 18),
        ("turn", 40, ("turn_right",) * 18 + ("stand",) * 4 + ("turn_right",) * 18),
        ("leave", 11, ("forward",) * 4 + ("stand",) + ("backward",) * 4 + ("stand",) * 2),
    ],
)
def test_a_script_leads_looks_goes_and_comes_back(way: str, away: int, expected: tuple[str, ...]) -> None:
    assert scripts(task(way, away), COMPASS)[-1] == ("turn_right",) * 3 + ("stand",) * 2 + expected


def test_walks_come_in_reaches_from_the_shortest() -> None:
    found = scripts(task("leave", 11, lead=0, look=1), COMPASS)
    assert [keys.count("forward") for keys in found] == [1, 2, 3, 4] and {len(keys) for keys in found} == {12}


@pytest.mark.parametrize("way", ["look", "leave"])
@pytest.mark.parametrize("away", range(20, 60, 7))
def test_what_is_pressed_is_undone_by_the_opposite_key(way: str, away: int) -> None:
    asked = task(way, away, lead=0)
    for keys in scripts(asked, COMPASS):
        counts = Counter(keys)
        assert all(counts[one] == counts[other] for one, other in OPPOSITES) and len(keys) == asked.context - 1 + away


@pytest.mark.parametrize(
    ("degrees", "target", "expected"),
    [
        ([10, 20, 30, 40], 30.0, (3, 0)),
        ([5, 15, 25, 35], 30.0, (3, 1)),
        ([5, 15, 25, 35], 41.0, (4, 1)),
        ([4, 14, 24], 28.5, (3, 1)),
        ([10, 20, 30], 90.0, (3, 3)),
    ],
)
def test_a_turn_is_the_nearest_that_two_presses_reach(degrees: list[float], target: float, expected: tuple[int, int]) -> None:
    assert closest_turn(np.array(degrees, float), target) == expected


@pytest.mark.parametrize(
    ("way", "away", "message"),
    [("look", 2, "takes 3 frames, got 2"), ("turn", 36, "takes 37 frames here, got 36"), ("leave", 4, "takes 5 frames, got 4")],
)
def test_a_way_that_is_longer_than_the_time_is_refused(way: str, away: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        scripts(task(way, away), COMPASS)


def test_unknown_ways_and_worlds_without_a_camera_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown way of leaving and coming back 'fly'; known: leave, look, turn"):
        task("fly", 8)
    with pytest.raises(ConfigError, match="at least 1 frame"):
        task("look", 8, look=0)
    with pytest.raises(ConfigError, match="needs x, y, angle, backward, forward among"):
        play_truth(make_world("ring", height=16, width=32, frame_skip=1), task("look", 8), 2, 0, NEAR)


# True episodes.


def test_a_compass_reads_how_far_a_key_turns() -> None:
    compass = read_compass(CameraWorld(), ("turn_left", "turn_right"), 0)
    assert np.allclose(compass.degrees[:4], [5, 15, 25, 35]) and 360 < compass.degrees[-1] < 371
    assert compass.nearest(176) == 18


def test_distances_from_home_are_told_across_the_end_of_the_circle() -> None:
    pose = np.array([[0, 0, 359], [3, 4, 1], [0, 0, 170]], np.float32)
    units, degrees = departure(pose, pose[0], ("x", "y", "angle"))
    assert np.allclose(units, [0, 5, 0]) and np.allclose(degrees, [0, 2, 171])


@pytest.mark.parametrize(
    ("units", "degrees", "far", "expected"),
    [
        ([0, 50, 8], [0, 90, 2], 0, ""),
        ([0, 50, 9], [0, 90, 2], 0, CAME_NOT_BACK),
        ([0, 50, 0], [0, 90, 3], 0, CAME_NOT_BACK),
        ([0, 50, 0], [0, 0, 0], 50, ""),
        ([0, 49, 0], [0, 0, 0], 50, GOT_NOT_AWAY),
    ],
)
def test_an_episode_counts_if_it_got_away_and_came_back(units: list, degrees: list, far: float, expected: str) -> None:
    assert refusal(np.array(units, float), np.array(degrees, float), far, NEAR) == expected


@pytest.mark.parametrize(("way", "away", "degrees"), [("look", 15, 65), ("turn", 45, 180), ("leave", 15, 0)])
def test_true_episodes_leave_and_come_back(way: str, away: int, degrees: float) -> None:
    asked = task(way, away)
    truth = play_truth(CameraWorld(), asked, 3, 0, NEAR)
    assert truth.frames.shape == (3, asked.context + away, 16, 24, 3) and truth.actions.shape == (3, asked.context + away, 4)
    assert truth.context == 6 and truth.units.shape == (3, 1 + away)
    assert np.abs(truth.degrees.max(axis=1) - degrees).max() < 0.01 and (truth.units.max() > 30) == (way == "leave")
    assert truth.units[:, -1].max() < 0.01 and truth.degrees[:, -1].max() < 0.01 and not truth.refused
    assert np.array_equal(truth.frames[:, -1], truth.frames[:, truth.context - 1])
    assert not truth.actions[:, 0].any() and truth.actions[:, 1].any()


def test_a_walk_goes_as_far_as_no_wall_bars_the_way_back() -> None:
    truth = play_truth(CameraWorld(wall=45.0), task("leave", 40), 2, 0, NEAR)
    assert np.allclose(truth.units.max(axis=1), 30) and truth.units[:, -1].max() < 0.01


def test_episodes_that_do_not_come_back_are_refused_and_counted() -> None:
    world = CameraWorld(limping=0.5)
    truth = play_truth(world, task("leave", 15), 4, 7, NEAR)
    limps = [world.limps(derive_seed(7, "revisit", candidate) % (1 << 31)) for candidate in range(40)]
    taken = [candidate for candidate, limp in enumerate(limps) if not limp][:4]
    assert truth.refused == {CAME_NOT_BACK: sum(limps[: taken[-1] + 1])} and truth.refused[CAME_NOT_BACK] > 0
    assert truth.units[:, -1].max() < 0.01


def test_broken_twin_without_the_filter_they_are_taken() -> None:
    careless = replace(NEAR, units=1000.0)
    truth = play_truth(CameraWorld(limping=0.5), task("leave", 15), 4, 7, careless)
    assert truth.units[:, -1].max() > 8 and not truth.refused


@pytest.mark.parametrize(("world", "reason"), [(CameraWorld(limping=1.0), CAME_NOT_BACK), (CameraWorld(wall=25.0), "20 refusals in a row")])
def test_a_search_without_end_is_given_up(world: CameraWorld, reason: str) -> None:
    with pytest.raises(DataError, match=f"0 of 2 episodes found.*{reason}"):
        play_truth(world, task("leave", 15), 2, 0, NEAR)


# Scores.


def test_the_truth_is_identified_and_moves(clips: RevisitClips) -> None:
    scores = score(clips.frames[:, clips.context :], clips)
    assert (scores.identified == 1).all() and (scores.moved == 1).all() and (scores.psnr_db == 60).all() and np.allclose(scores.ssim, 1)


def test_broken_twin_the_frames_of_another_episode_are_not(clips: RevisitClips) -> None:
    scores = score(np.roll(clips.frames[:, clips.context :], 1, axis=0), clips)
    assert not scores.identified.any() and scores.psnr_db.max() < 20 and scores.ssim.max() < 0.5


def test_broken_twin_a_frozen_picture_recalls_and_does_not_move(clips: RevisitClips) -> None:
    scores = score(start_memory(clips), clips)
    assert (scores.identified == 1).all() and not scores.moved.any()


def test_a_sink_shows_another_view(clips: RevisitClips) -> None:
    assert score(copy_sink(clips), clips).psnr_db.max() < 25


def test_identification_by_hand_and_exact_chance() -> None:
    true = np.stack([np.full((4, 4, 3), grey, np.uint8) for grey in (0, 100, 100, 200)])
    shown = np.stack([np.full((4, 4, 3), grey, np.uint8) for grey in (40, 90, 190, 160)])
    # 40 is nearest to the first; 90 to the second and third alike; 190 to the fourth; 160 to the fourth.
    assert identified(shown, true).tolist() == [1.0, 0.5, 0.0, 1.0]
    for grey in range(0, 256, 15):
        assert identified(np.full_like(true, grey), true).mean() == 0.25


def test_a_frame_moves_if_it_changes_by_a_quarter_of_the_truth() -> None:
    greys = {"real": [0, 8, 16, 16, 24, 32], "made": [0, 2, 3, 9, 11, 11]}
    real, made = (np.array(greys[name], np.uint8)[None, :, None, None, None].repeat(3, axis=-1) for name in ("real", "made"))
    # Changes of the truth: 8, 8, 0, 8, 8; of the dream: 2, 1, 6, 2, 0. The third does not count.
    assert moved(made, real).tolist() == [0.5]
    assert np.isnan(moved(made, np.zeros_like(made))).all()


def test_what_is_known_without_the_episode(clips: RevisitClips) -> None:
    true = clips.frames[:, -1]
    mean = true[1:].astype(float).mean(axis=0).round().astype(np.uint8)
    assert mean_of_others(clips).psnr_db[0] == psnr(mean, true[0]) and mean_of_others(clips).ssim[0] == ssim(mean, true[0])
    assert np.isclose(another_episode(clips).psnr_db[0], np.mean([psnr(other, true[0]) for other in true[1:]]))
    assert np.isnan(another_episode(clips).identified).all() and np.isnan(mean_of_others(clips).moved).all()


def test_one_episode_is_not_enough(clips: RevisitClips) -> None:
    with pytest.raises(ConfigError, match="at least 2 episodes, got 1"):
        score(clips.frames[:1, clips.context :], replace(clips, frames=clips.frames[:1]))


def test_what_a_memory_may_still_read_of_the_view(clips: RevisitClips) -> None:
    assert within_memory(Full(64), clips, 1) and within_memory(Window(16), clips, 1)
    assert not within_memory(Window(15), clips, 1) and not within_memory(SinkWindow(4, 15), clips, 1)


# The real thing.


def test_doom_turns_around_and_looks_away_and_comes_back() -> None:
    pytest.importorskip("vizdoom")
    world = make_world("doom-cover", height=24, width=32, frame_skip=2)
    looked, turned = (play_truth(world, RevisitTask(way, 60, lead=4, look=2), 2, 0, Bounds(degrees=0.5)) for way in ("look", "turn"))
    world.close()
    assert not looked.refused and not turned.refused
    assert looked.degrees[:, -1].max() == 0 and np.array_equal(looked.frames[:, -1], looked.frames[:, looked.context - 1])
    assert looked.degrees.max() > 170 and (psnr(turned.frames[:, -1], turned.frames[:, turned.context - 1]) > 25).all()
