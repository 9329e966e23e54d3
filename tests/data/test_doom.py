from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from mutoscope.core.errors import ConfigError
from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds import WORLDS, make_world, make_world_like
from mutoscope.data.worlds.doom import SCENARIOS, DoomWorld

pytest.importorskip("vizdoom")


def make(name: str, frame_skip: int = 2) -> DoomWorld:
    world = make_world(name, height=24, width=32, frame_skip=frame_skip)
    assert isinstance(world, DoomWorld)
    return world


@pytest.fixture(scope="module")
def basic() -> Iterator[DoomWorld]:
    world = make("doom-basic")
    yield world
    world.close()


def play(world: DoomWorld, text: str, num_frames: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Pictures and poses of an episode in which the keys `text` are held."""
    picture, info = world.reset(seed=seed)
    pictures, poses = [picture], [info["pose"]]
    action = world.world.actions.decode(world.world.actions.vector(text))
    for _ in range(num_frames):
        picture, _, _, _, info = world.step(np.asarray(action))
        pictures.append(picture)
        poses.append(info["pose"])
    return np.stack(pictures), np.stack(poses)


def turned(poses: np.ndarray) -> float:
    """Degrees turned in all, positive to the left."""
    steps = np.diff(poses[:, 3])
    return float(((steps + 180) % 360 - 180).sum())


def test_the_world_says_its_rate_its_keys_and_its_pose(basic: DoomWorld) -> None:
    assert basic.world.content_rate == 17.5
    assert basic.world.pose_names == ("x", "y", "z", "angle", "pitch")
    assert basic.world.actions.names == ("forward", "backward", "turn_left", "turn_right", "left", "right")


def test_the_same_seed_and_keys_give_the_same_pictures(basic: DoomWorld) -> None:
    first, second, other = play(basic, "forward", 5), play(basic, "forward", 5), play(basic, "forward", 5, seed=2)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("keys", "sign"), [("turn_left", 1), ("turn_right", -1)])
def test_turn_keys_turn_the_camera_their_way_from_the_first_frame(basic: DoomWorld, keys: str, sign: int) -> None:
    pictures, poses = play(basic, keys, 6)
    assert sign * turned(poses[:2]) > 1 and sign * turned(poses) > 15
    assert not np.array_equal(pictures[0], pictures[1])


@pytest.mark.parametrize(("keys", "along"), [("forward", 1), ("backward", -1)])
def test_walking_keys_move_along_the_view(basic: DoomWorld, keys: str, along: int) -> None:
    _, poses = play(basic, keys, 8, seed=4)
    heading = np.radians(poses[0, 3])
    moved = (poses[-1, :2] - poses[0, :2]) @ np.array([np.cos(heading), np.sin(heading)])
    assert along * moved > 5


def test_standing_changes_nothing(basic: DoomWorld) -> None:
    pictures, poses = play(basic, "stand", 4)
    assert np.ptp(poses, axis=0).max() == 0 and np.array_equal(pictures[1], pictures[-1])


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_every_scenario_starts_in_different_places_inside_its_area(name: str) -> None:
    world = make(name)
    poses = np.stack([world.reset(seed=seed)[1]["pose"] for seed in range(6)])
    world.close()
    assert len(np.unique(poses[:, :2], axis=0)) > 3 and np.ptp(poses[:, 3]) > 30
    for x, y in poses[:, :2]:
        areas = SCENARIOS[name].start
        assert not areas or any(area.left - 1 <= x <= area.right + 1 and area.bottom - 1 <= y <= area.top + 1 for area in areas)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_keys_work_from_the_first_frame_in_every_scenario(name: str) -> None:
    world = make(name)
    _, poses = play(world, "turn_left", 1)
    world.close()
    assert turned(poses) > 1


def leaves_the_wing(world: DoomWorld) -> bool:
    """Walk west through the doorway of the wing, from in front of it, pushing to both sides as well."""
    world.reset(seed=0)
    world._stand(1000, 48, 180)
    forward, left, right = (np.array(keys, np.int8) for keys in ([1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]))
    xs = [
        world.step(keys)[4]["pose"][0]
        for keys in [forward] * 20 + ([left] * 2 + [forward] * 8 + [right] * 4 + [forward] * 8 + [left] * 2) * 3
    ]
    return bool(min(xs) < 960)


def test_the_pillar_keeps_the_player_in_the_wing() -> None:
    world = make("doom-wing")
    assert not leaves_the_wing(world)
    world.close()


def test_broken_twin_without_the_pillar_one_walks_out() -> None:
    world = make("doom")
    assert leaves_the_wing(world)
    world.close()


def test_recording_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    options = RecordOptions("doom", episodes=2, frames_per_episode=20, height=24, width=32, seed=7)
    for name in ("first", "second"):
        record(lambda: make("doom"), tmp_path / name, options)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("first", "second"))
    assert first == second


def test_it_passes_gymnasiums_own_checker() -> None:
    world = make("doom")
    check_env(world, skip_render_check=True)
    world.close()


def test_nothing_is_left_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = make("doom")
    world.reset(seed=0)
    world.close()
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_are_too_large_are_refused() -> None:
    with pytest.raises(ConfigError, match="640x480"):
        make_world("doom", height=1080, width=1920)


def test_every_scenario_is_a_world() -> None:
    assert set(SCENARIOS) <= set(WORLDS)


def test_a_world_is_found_again_by_what_it_says_of_itself(basic: DoomWorld) -> None:
    again = make_world_like(basic.world)
    assert again.unwrapped.world == basic.world
    again.close()
    with pytest.raises(ConfigError, match="asked for"):
        make_world_like(replace(basic.world, pose_names=("x",)))
