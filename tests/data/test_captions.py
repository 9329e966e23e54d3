"""Captions of episodes: written, read, listed, and left out of the files of data sets that have none."""

import json
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.data.captions import captions, read_prompts
from mutoscope.data.clips import open_dataset
from mutoscope.data.writer import DatasetWriter

WORLD = WorldSpec("told", 4, 6, 8.0, NO_ACTIONS)


def write(path: Path, told: tuple[str, ...]) -> Path:
    """A data set without actions, an episode of three grey frames per caption."""
    with DatasetWriter(path, WORLD) as writer:
        for index, caption in enumerate(told):
            frames = np.full((3, 4, 6, 3), index, np.uint8)
            writer.add({"frames": frames, "actions": np.zeros((3, 0), np.float32)}, caption=caption)
    return path


def test_captions_come_back_with_their_episodes(tmp_path: Path):
    dataset = open_dataset(write(tmp_path / "set", ("a red disc", "a blue cross", "a red disc")))
    assert [episode.caption for episode in dataset.episodes] == ["a red disc", "a blue cross", "a red disc"]
    assert captions(dataset) == ("a red disc", "a blue cross") == read_prompts(tmp_path / "set")
    arrays = dataset.read(1, 0, 3, ("frames", "actions"))
    assert (arrays["frames"] == 1).all() and arrays["actions"].shape == (3, 0)


def test_an_index_without_captions_is_as_it_was(tmp_path: Path):
    """Broken twin: a line with an empty caption would be another file than before there were captions."""
    lines = (write(tmp_path / "bare", ("", "")) / "episodes.jsonl").read_text().splitlines()
    before = {"is": "Episode", "index": 0, "num_frames": 3, "shard": "shard-00000.safetensors", "offset": 0, "seed": 0, "name": ""}
    assert lines[0] == json.dumps(before) and lines[0] != json.dumps({**before, "caption": ""})
    assert captions(open_dataset(tmp_path / "bare")) == ()
    told = (write(tmp_path / "told", ("a red disc",)) / "episodes.jsonl").read_text().splitlines()
    assert json.loads(told[0])["caption"] == "a red disc"


def test_captions_are_of_all_episodes_or_of_none(tmp_path: Path):
    with pytest.raises(DataError, match="episode 1 .* has no caption"):
        captions(open_dataset(write(tmp_path / "some", ("a red disc", ""))))
    with pytest.raises(DataError, match="have no captions"):
        read_prompts(write(tmp_path / "bare", ("",)))


def test_prompts_of_a_file(tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffone prompt\n\n  another  \none prompt\n")
    assert read_prompts(file) == ("one prompt", "another")
    file.write_text("\n \n")
    with pytest.raises(DataError, match="holds no prompts"):
        read_prompts(file)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match="UTF-8"):
        read_prompts(file)
    with pytest.raises(DataError, match="neither a data set"):
        read_prompts(tmp_path / "nothing.txt")
