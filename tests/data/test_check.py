from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_worlds import counting_dataset, scroll_options

from mutoscope.core.world import WorldSpec
from mutoscope.data.check import CheckReport, check_dataset
from mutoscope.data.recorder import RecordOptions, record_episode
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tile_worlds import TileWorld
from mutoscope.data.writer import DatasetWriter

Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays], Arrays]


def shift_actions(arrays: Arrays, rows: int) -> Arrays:
    """Actions `rows` rows late (early when negative)."""
    moved = np.roll(arrays["actions"], rows, axis=0)
    moved[0] = 0
    if rows < 0:
        moved[rows:] = arrays["actions"][-1]
    if rows > 0:
        moved[1 : rows + 1] = arrays["actions"][1]
    return {**arrays, "actions": moved}


def checked(path: Path, episodes: list[Arrays], world: WorldSpec) -> CheckReport:
    with DatasetWriter(path, world) as writer:
        for arrays in episodes:
            writer.add(arrays)
    return check_dataset(path)


def scroll_episodes(count: int = 6) -> tuple[list[Arrays], WorldSpec]:
    world = TileWorld(height=32, width=32)
    options = scroll_options(frames_per_episode=60, height=32, width=32)
    return [record_episode(world, world.world, options, index)[0] for index in range(count)], world.world


def doom_episodes(count: int = 6) -> tuple[list[Arrays], WorldSpec]:
    pytest.importorskip("vizdoom")
    options = RecordOptions("doom", frames_per_episode=150, height=48, width=64)
    env = make_world("doom", height=48, width=64)
    try:
        world = env.unwrapped.world  # type: ignore[attr-defined]
        return [record_episode(env, world, options, index)[0] for index in range(count)], world
    finally:
        env.close()


EPISODES = {"scroll": scroll_episodes, "doom": doom_episodes}


def shifts(report: CheckReport) -> tuple[int, ...]:
    assert report.alignment is not None
    return report.alignment.shifts


@pytest.mark.parametrize("name", EPISODES)
def test_clips_in_good_order_raise_no_problem(tmp_path: Path, name: str) -> None:
    report = checked(tmp_path / "set", *EPISODES[name]())
    assert report.problems == () and report.alignment is not None and report.alignment.shift == 0
    assert "No problems" in report.text() and "right" in report.text()
    assert abs(sum(share for _, share in report.histogram) - 1) < 1e-9


@pytest.mark.parametrize("name", EPISODES)
@pytest.mark.parametrize("rows", [-1, 1])
def test_a_shifted_data_set_is_reported_with_the_right_shift(tmp_path: Path, name: str, rows: int) -> None:
    episodes, world = EPISODES[name]()
    report = checked(tmp_path / "set", [shift_actions(arrays, rows) for arrays in episodes], world)
    assert shifts(report) == (rows,) * len(episodes)
    (problem,) = [problem for problem in report.problems if problem.kind == "alignment"]
    assert f"{rows:+d}" in problem.text and ("late" if rows > 0 else "early") in problem.text


@pytest.mark.parametrize("name", EPISODES)
def test_single_shifted_clips_are_found_among_good_ones(tmp_path: Path, name: str) -> None:
    episodes, world = EPISODES[name](10)
    episodes[3], episodes[7] = shift_actions(episodes[3], 1), shift_actions(episodes[7], -1)
    report = checked(tmp_path / "set", episodes, world)
    assert shifts(report) == (0, 0, 0, 1, 0, 0, 0, -1, 0, 0)
    assert [problem.episode for problem in report.problems if problem.kind == "alignment"] == [3, 7]


def freeze(arrays: Arrays) -> Arrays:
    return {**arrays, "frames": np.broadcast_to(arrays["frames"][:1], arrays["frames"].shape).copy()}


def blacken(arrays: Arrays) -> Arrays:
    frames = arrays["frames"].copy()
    frames[5:25] = 7
    return {**arrays, "frames": frames}


def cut(arrays: Arrays) -> Arrays:
    return {name: array[:20] for name, array in arrays.items()}


def act_in_row_zero(arrays: Arrays) -> Arrays:
    actions = arrays["actions"].copy()
    actions[0, 2] = 1
    return {**arrays, "actions": actions}


def press_two(arrays: Arrays) -> Arrays:
    actions = arrays["actions"].copy()
    actions[9] = 1
    return {**arrays, "actions": actions}


BREAKS: dict[str, tuple[Change, str]] = {
    "frozen": (freeze, "stands still"),
    "broken": (blacken, "one colour"),
    "length": (cut, "has 20 frames"),
    "actions": (act_in_row_zero, "row 0"),
    "choices": (press_two, "row 9"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_planted_defect_is_reported_at_its_episode_only(tmp_path: Path, name: str) -> None:
    change, words = BREAKS[name]
    episodes, world = scroll_episodes()
    episodes[2] = change(episodes[2])
    found = [problem for problem in checked(tmp_path / "set", episodes, world).problems if problem.kind != "alignment"]
    assert [problem.episode for problem in found] == [2] and words in found[0].text


def test_duplicates_are_reported(tmp_path: Path) -> None:
    episodes, world = scroll_episodes()
    report = checked(tmp_path / "set", [*episodes, episodes[1]], world)
    assert [(problem.kind, problem.episode) for problem in report.problems] == [("duplicate", 6)]
    assert "episode 1" in report.problems[0].text


def test_a_changed_or_unreadable_shard_is_reported_and_the_rest_is_still_checked(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5, 9))
    shard = tmp_path / "set" / "shard-00000.safetensors"
    data = shard.read_bytes()
    one = np.float32(1).tobytes()
    shard.write_bytes(data.replace(one, np.float32(np.nan).tobytes(), 1))
    kinds = {problem.kind for problem in check_dataset(tmp_path / "set").problems}
    assert {"changed", "unreadable"} <= kinds


def test_actions_that_explain_nothing_are_said_to_explain_nothing(tmp_path: Path) -> None:
    episodes, world = scroll_episodes()
    generator = np.random.default_rng(0)
    for arrays in episodes:
        arrays["actions"][1:] = np.eye(5, dtype=np.float32)[generator.integers(5, size=59)]
    report = checked(tmp_path / "set", episodes, world)
    assert report.alignment is not None and max(report.alignment.gains) < 0.08
