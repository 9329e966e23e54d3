import json
from pathlib import Path

import numpy as np
import pytest
from small_worlds import WORLD, counting_dataset, counting_episode

from mutoscope.core.errors import DataError
from mutoscope.data.clips import open_dataset
from mutoscope.data.format import RECORDING, first_bad_row, read_index
from mutoscope.data.writer import DatasetWriter


def test_every_slice_comes_back_as_written(tmp_path: Path) -> None:
    dataset = counting_dataset(tmp_path / "set", (5, 9, 3))
    assert len(dataset.manifest.shards) > 1 and dataset.manifest.num_frames == 17
    for episode, length in enumerate((5, 9, 3)):
        written = counting_episode(episode, length)
        for start in range(length):
            for stop in range(start + 1, length + 1):
                rows = dataset.read(episode, start, stop, ("frames", "actions"))
                assert all(np.array_equal(rows[name], written[name][start:stop]) for name in rows)


def test_unknown_arrays_are_carried_along(tmp_path: Path) -> None:
    depth = np.arange(6, dtype=np.float16).reshape(3, 2)
    with DatasetWriter(tmp_path / "set", WORLD) as writer:
        writer.add({**counting_episode(0, 3), "depth": depth})
    dataset = open_dataset(tmp_path / "set")
    assert dataset.manifest.array("depth").dtype == "float16"
    assert np.array_equal(dataset.read(0, 1, 3, ("depth",))["depth"], depth[1:])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (0, 6)])
def test_a_range_outside_the_episode_is_refused(tmp_path: Path, start: int, stop: int) -> None:
    with pytest.raises(DataError, match=r"rows 0\.\.5"):
        counting_dataset(tmp_path / "set", (5, 9)).read(0, start, stop, ("frames",))


def test_an_unknown_array_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'sound'.*actions, frames"):
        counting_dataset(tmp_path / "set", (5,)).read(0, 0, 2, ("sound",))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_refused_with_its_place(tmp_path: Path, value: float) -> None:
    arrays = counting_episode(0, 5)
    arrays["actions"][3, 1] = value
    with pytest.raises(DataError, match="'actions', row 3"), DatasetWriter(tmp_path / "set", WORLD) as writer:
        writer.add(arrays)


def test_nan_that_is_already_on_disk_is_found_when_read(tmp_path: Path) -> None:
    dataset = counting_dataset(tmp_path / "set", (5,))
    (shard,) = (tmp_path / "set").glob("*.safetensors")
    data = shard.read_bytes()
    ones = np.float32(1).tobytes()
    assert ones in data
    shard.write_bytes(data.replace(ones, np.float32(np.nan).tobytes(), 1))
    with pytest.raises(DataError, match="NaN or infinity in 'actions'"):
        dataset.read(0, 0, 5, ("actions",))


def test_arrays_of_unequal_length_or_another_layout_are_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "set", WORLD)
    writer.add(counting_episode(0, 5))
    short = counting_episode(1, 5)
    short["actions"] = short["actions"][:4]
    with pytest.raises(DataError, match="same number of rows"):
        writer.add(short)
    wide = counting_episode(1, 5)
    wide["frames"] = wide["frames"][:, :, :5]
    with pytest.raises(DataError, match="episodes before"):
        writer.add(wide)


def test_a_truncated_shard_is_named(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5, 9))
    shard = sorted((tmp_path / "set").glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(DataError, match=f"{shard.name}.*cut off"):
        open_dataset(tmp_path / "set")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5,))
    (tmp_path / "set" / "shard-00000.safetensors").unlink()
    with pytest.raises(DataError, match="shard-00000"):
        open_dataset(tmp_path / "set")


def test_a_manifest_of_another_version_or_with_unknown_keys_is_refused(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5,))
    manifest = tmp_path / "set" / "manifest.json"
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**data, "format_version": 99}))
    with pytest.raises(DataError, match="version 99"):
        open_dataset(tmp_path / "set")
    manifest.write_text(json.dumps({**data, "colour": 1}))
    with pytest.raises(DataError, match="unknown keys colour"):
        open_dataset(tmp_path / "set")


def test_no_data_set_and_an_unfinished_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no data set"):
        open_dataset(tmp_path)
    DatasetWriter(tmp_path / "set", WORLD).add(counting_episode(0, 3))
    with pytest.raises(DataError, match="unfinished"):
        open_dataset(tmp_path / "set")


def test_an_index_line_cut_off_in_the_middle_does_not_count(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5, 9))
    index = tmp_path / "set" / "episodes.jsonl"
    index.write_text(index.read_text()[:-20])
    assert len(read_index(tmp_path / "set")) == 1


def test_a_finished_or_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    counting_dataset(tmp_path / "set", (5,))
    with pytest.raises(DataError, match="finished"):
        DatasetWriter(tmp_path / "set", WORLD)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        DatasetWriter(tmp_path / "other", WORLD)


def test_an_unfinished_recording_with_other_options_is_not_mixed_in(tmp_path: Path) -> None:
    DatasetWriter(tmp_path / "set", WORLD, seed=1)
    assert (tmp_path / "set" / RECORDING).exists()
    with pytest.raises(DataError, match="other seed"):
        DatasetWriter(tmp_path / "set", WORLD, seed=2)


def test_a_data_set_without_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one"):
        DatasetWriter(tmp_path / "set", WORLD).close()


def test_first_bad_row() -> None:
    clean = np.zeros((4, 2), np.float32)
    broken = clean.copy()
    broken[2, 1] = np.nan
    assert first_bad_row(clean) is None and first_bad_row(broken) == 2
    assert first_bad_row(np.zeros(3, np.int32)) is None
