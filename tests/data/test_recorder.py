from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from small_worlds import Torch, scroll_dataset, scroll_options

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.data.clips import open_dataset
from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.gym import adapt, world_spec
from mutoscope.data.worlds.tile_worlds import TileWorld
from mutoscope.data.writer import DatasetWriter


def scroll() -> TileWorld:
    return TileWorld(height=16, width=16)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("first", 3), ("second", 3), ("other", 4)):
        record(scroll, tmp_path / name, scroll_options(seed=seed))
    assert contents(tmp_path / "first") == contents(tmp_path / "second")
    shard = "shard-00000.safetensors"
    assert (tmp_path / "first" / shard).read_bytes() != (tmp_path / "other" / shard).read_bytes()


class Interrupted(TileWorld):
    """Stops like Ctrl-C after a number of resets."""

    resets = 0
    allowed = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        Interrupted.resets += 1
        if Interrupted.resets > Interrupted.allowed:
            raise KeyboardInterrupt
        return super().reset(seed=seed, options=options)


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_an_interrupted_recording_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    monkeypatch.setattr("mutoscope.data.recorder.DatasetWriter", small_shards)
    record(scroll, tmp_path / "straight", scroll_options())
    Interrupted.resets, Interrupted.allowed = 0, allowed
    with pytest.raises(KeyboardInterrupt):
        record(lambda: Interrupted(height=16, width=16), tmp_path / "stopped", scroll_options())
    made: list[int] = []
    record(lambda: counted(made), tmp_path / "stopped", scroll_options())
    assert contents(tmp_path / "straight") == contents(tmp_path / "stopped")
    assert len(made) == 4 - allowed


def test_a_shard_that_was_written_but_not_yet_indexed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mutoscope.data.recorder.DatasetWriter", small_shards)
    record(scroll, tmp_path / "straight", scroll_options())
    Interrupted.resets, Interrupted.allowed = 0, 3
    with pytest.raises(KeyboardInterrupt):
        record(lambda: Interrupted(height=16, width=16), tmp_path / "killed", scroll_options())
    index = tmp_path / "killed" / "episodes.jsonl"
    index.write_text(index.read_text()[:-30])
    record(scroll, tmp_path / "killed", scroll_options())
    assert contents(tmp_path / "straight") == contents(tmp_path / "killed")


def small_shards(*arguments: object, **options: object) -> DatasetWriter:
    return DatasetWriter(*arguments, **{**options, "shard_bytes": 1})  # type: ignore[arg-type]


def counted(made: list[int]) -> TileWorld:
    class Counted(TileWorld):
        def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
            made.append(1)
            return super().reset(seed=seed, options=options)

    return Counted(height=16, width=16)


def test_a_finished_recording_is_returned_and_not_made_again(tmp_path: Path) -> None:
    first = record(scroll, tmp_path / "set", scroll_options())
    assert record(lambda: pytest.fail("made a world"), tmp_path / "set", scroll_options()) == first
    with pytest.raises(DataError, match="other options"):
        record(scroll, tmp_path / "set", scroll_options(seed=9))


def actions_lead_to_their_frames(arrays: dict[str, np.ndarray], shift: int) -> bool:
    moves = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)])
    stored = np.roll(arrays["actions"], shift, axis=0)[2:-1]
    return np.array_equal(moves[stored.argmax(axis=1)], np.diff(arrays["position"], axis=0)[1:-1])


def test_row_k_holds_the_action_that_led_to_frame_k(tmp_path: Path) -> None:
    arrays = scroll_dataset(tmp_path / "set").read(0, 0, 20, ("frames", "actions", "position"))
    assert not arrays["actions"][0].any() and (arrays["actions"][1:].sum(axis=1) == 1).all()
    assert actions_lead_to_their_frames(arrays, 0)


@pytest.mark.parametrize("shift", [-1, 1])
def test_broken_twin_shifted_actions_are_noticed(tmp_path: Path, shift: int) -> None:
    arrays = scroll_dataset(tmp_path / "set").read(0, 0, 20, ("frames", "actions", "position"))
    assert not actions_lead_to_their_frames(arrays, shift)


SPACES: dict[str, Callable[[], gymnasium.Space]] = {
    "discrete": lambda: gymnasium.spaces.Discrete(3),
    "multi_binary": lambda: gymnasium.spaces.MultiBinary(2),
    "box": lambda: gymnasium.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 8.0], np.float32)),
}


@pytest.mark.parametrize("kind", SPACES)
def test_any_environment_with_pictures_is_recorded(tmp_path: Path, kind: str) -> None:
    options = RecordOptions("torch", episodes=2, frames_per_episode=9, height=6, width=8, frame_skip=2)
    record(lambda: Torch(SPACES[kind]()), tmp_path / "set", options)
    dataset = open_dataset(tmp_path / "set")
    assert dataset.world.actions.kind == kind and dataset.world.content_rate == 10.0
    arrays = dataset.read(1, 0, 9, ("frames", "actions"))
    assert arrays["frames"].shape == (9, 6, 8, 3) and arrays["frames"][0, 0, 0, 0] == 100
    spec = dataset.world.actions
    steps = [float(np.sum(np.asarray(spec.decode(row)))) for row in arrays["actions"][1:]]
    assert np.allclose(arrays["frames"][1:, 0, 0, 0], (100 + 2 * np.cumsum(steps)).astype(int) % 256, atol=1)


def test_an_episode_that_ends_early_is_kept_as_long_as_it_was(tmp_path: Path) -> None:
    options = RecordOptions("torch", episodes=2, frames_per_episode=30, height=12, width=16, frame_skip=1)
    record(lambda: Torch(gymnasium.spaces.Discrete(3), length=5), tmp_path / "set", options)
    assert [episode.num_frames for episode in open_dataset(tmp_path / "set").episodes] == [6, 6]


def test_an_environment_without_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="rgb_array"):
        adapt(Torch(gymnasium.spaces.Discrete(3), render_mode=None), name="torch", height=8, width=8, frame_skip=1)


@pytest.mark.parametrize("space", [gymnasium.spaces.MultiDiscrete([2, 3]), gymnasium.spaces.Box(-np.inf, np.inf, (2,))])
def test_actions_of_other_kinds_are_refused(space: gymnasium.Space) -> None:
    with pytest.raises(ConfigError, match="allowed: Discrete"):
        adapt(Torch(space), name="torch", height=8, width=8, frame_skip=1)


def test_a_registered_environment_is_made_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("vizdoom.gymnasium_wrapper", reason="the id comes with ViZDoom")
    env = make_world("gym:VizdoomBasic-v1", height=24, width=32, frame_skip=1)
    assert world_spec(env).height == 24 and env.reset(seed=1)[0].shape == (24, 32, 3)
    env.close()


def test_unknown_worlds_and_policies_are_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="doom-basic"):
        make_world("dune", height=8, width=8)
    with pytest.raises(ConfigError, match="hold-random"):
        RecordOptions(policy="sleep")
    with pytest.raises(ConfigError, match="Gymnasium cannot make"):
        make_world("gym:Nowhere-v9", height=8, width=8)
