import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.core.world import ActionSpec
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.worlds.videos import ImportOptions, import_videos, join_actions
from mutoscope.media.video import write_video

NUM_FRAMES = 12
OPTIONS = ImportOptions(height=16, width=24, frames_per_episode=100)


def brightening(num_frames: int = NUM_FRAMES) -> np.ndarray:
    """Frame k has the grey value 40 + 10 k."""
    values = (40 + 10 * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(values[:, None, None, None], (num_frames, 32, 48, 3)).copy()


def make_folder(folder: Path, *, lines: int = NUM_FRAMES, rate: float = 10.0) -> Path:
    """Two clips with a CSV and a JSONL table: "left" on every third frame."""
    folder.mkdir()
    for name in ("a", "b"):
        write_video(folder / f"{name}.mp4", brightening(), rate)
    rows = [{"left": int(index % 3 == 0), "jump": 0} for index in range(lines)]
    (folder / "a.csv").write_text("left,jump\n" + "".join(f"{row['left']},{row['jump']}\n" for row in rows))
    (folder / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def imported(folder: Path, path: Path, options: ImportOptions = OPTIONS) -> ClipDataset:
    import_videos(folder, path, options)
    return open_dataset(path)


def test_clips_with_tables_become_episodes(tmp_path: Path) -> None:
    dataset = imported(make_folder(tmp_path / "garden"), tmp_path / "set")
    assert dataset.world.name == "garden" and dataset.world.content_rate == 10.0
    assert dataset.world.actions.kind == "multi_binary" and dataset.world.actions.names == ("left", "jump")
    assert [episode.name for episode in dataset.episodes] == ["a.mp4 from frame 0", "b.mp4 from frame 0"]
    for episode in range(2):
        arrays = dataset.read(episode, 0, NUM_FRAMES, ("frames", "actions"))
        assert arrays["frames"].shape == (NUM_FRAMES, 16, 24, 3)
        assert np.allclose(arrays["frames"][:, 8, 12, 0], 40 + 10 * np.arange(NUM_FRAMES), atol=4)
        assert arrays["actions"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0]


def test_long_videos_become_several_episodes_whose_first_row_is_no_action(tmp_path: Path) -> None:
    options = ImportOptions(height=16, width=24, frames_per_episode=6)
    dataset = imported(make_folder(tmp_path / "garden"), tmp_path / "set", options)
    assert [episode.num_frames for episode in dataset.episodes] == [6, 6, 6, 6]
    second = dataset.read(1, 0, 6, ("frames", "actions"))
    assert not second["actions"][0].any() and second["actions"][3, 0] == 1
    assert abs(int(second["frames"][0, 0, 0, 0]) - 100) <= 4


def test_a_frame_skip_keeps_every_nth_frame_with_the_actions_since(tmp_path: Path) -> None:
    dataset = imported(make_folder(tmp_path / "garden"), tmp_path / "set", replace(OPTIONS, frame_skip=3))
    assert dataset.world.content_rate == pytest.approx(10.0 / 3)
    rows = dataset.read(0, 0, 4, ("frames", "actions"))
    assert np.allclose(rows["frames"][:, 8, 12, 0], 40 + 30 * np.arange(4), atol=4)
    assert not rows["actions"].any(), "one frame of three is not most of the time"
    every_second = imported(tmp_path / "garden", tmp_path / "second", replace(OPTIONS, frame_skip=2)).read(0, 0, 6, ("actions",))
    assert every_second["actions"][:, 0].tolist() == [0, 0, 0, 1, 0, 0], "frame 3 belongs to frame 4, which does not end on it; 6 does"


@pytest.mark.parametrize(
    ("kind", "given", "joined"),
    [
        ("box", [[9, 9], [0, 1], [1, 0], [1, 1], [0, 0]], [[9, 9], [0.5, 0.5], [0.5, 0.5]]),
        ("multi_binary", [[0, 0], [0, 1], [1, 0], [1, 1], [1, 0]], [[0, 0], [1, 0], [1, 0]]),
        ("discrete", [[1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], [[1, 0], [0, 1], [0, 1]]),
    ],
)
def test_actions_are_joined_as_they_were_held(kind, given, joined) -> None:
    spec = ActionSpec(kind, ("a", "b"), low=(0.0, 0.0), high=(9.0, 9.0)) if kind == "box" else ActionSpec(kind, ("a", "b"))
    assert join_actions(np.array(given, np.float32), 2, spec).tolist() == joined
    assert join_actions(np.array(given, np.float32), 1, spec).tolist() == given


def test_importing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "garden")
    first, second = imported(folder, tmp_path / "first"), imported(folder, tmp_path / "second")
    assert first.manifest == second.manifest
    assert imported(folder, tmp_path / "first").manifest == first.manifest


def test_discrete_and_box_worlds_are_described_in_a_file(tmp_path: Path) -> None:
    for kind, extra in (("discrete", {}), ("box", {"low": [0, -2], "high": [4, 2]})):
        folder = make_folder(tmp_path / kind)
        (folder / "world.json").write_text(json.dumps({"name": "yard", "actions": {"kind": kind, "names": ["left", "jump"], **extra}}))
        table = "action\n" + "jump\n" * NUM_FRAMES if kind == "discrete" else "left,jump\n" + "1,1\n" * NUM_FRAMES
        for name in ("a", "b"):
            (folder / f"{name}.csv").write_text(table)
        (folder / "b.jsonl").unlink()
        dataset = imported(folder, tmp_path / f"set-{kind}")
        assert dataset.world.name == "yard" and dataset.world.actions.kind == kind
        expected = [0, 1] if kind == "discrete" else [-0.5, 0.5]
        assert dataset.read(0, 1, 2, ("actions",))["actions"][0].tolist() == expected


@pytest.mark.parametrize("lines", [NUM_FRAMES - 1, NUM_FRAMES + 1])
def test_a_wrong_number_of_actions_names_table_and_video(tmp_path: Path, lines: int) -> None:
    with pytest.raises(DataError, match=rf"a\.csv has {lines} lines.*a\.mp4 has {NUM_FRAMES} frames"):
        imported(make_folder(tmp_path / "garden", lines=lines), tmp_path / "set")


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_video_is_named_and_leaves_no_data_set(tmp_path: Path, share: float) -> None:
    folder = make_folder(tmp_path / "garden")
    data = (folder / "b.mp4").read_bytes()
    (folder / "b.mp4").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"b\.mp4"):
        imported(folder, tmp_path / "set")
    with pytest.raises(DataError):
        open_dataset(tmp_path / "set")


TABLES = {
    "left,jump\n" + "2,0\n" * NUM_FRAMES: "frame 0: a button must be 0 or 1",
    "left,jump\n" + "0,0\n" * 4 + "1\n" * 8: "frame 4 has more or fewer",
    "left,jump\n" + "0,0\n" * 11 + "x,0\n": "frame 11: could not convert",
    "left,jump\n" + "0,0\n" * 11 + "nan,0\n": "frame 11: a button must",
    "": "one line per frame",
}


@pytest.mark.parametrize("table", TABLES)
def test_a_bad_table_is_named_with_its_line(tmp_path: Path, table: str) -> None:
    folder = make_folder(tmp_path / "garden")
    (folder / "a.csv").write_text(table)
    with pytest.raises(DataError, match=rf"a\.csv.*{TABLES[table]}"):
        imported(folder, tmp_path / "set")


def test_a_table_with_other_columns_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "garden")
    (folder / "b.jsonl").write_text('{"left": 0}\n' * NUM_FRAMES)
    with pytest.raises(DataError, match=r"b\.jsonl, frame 0: columns left; they must be left, jump"):
        imported(folder, tmp_path / "set")


def test_what_is_missing_in_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        imported(tmp_path / "nowhere", tmp_path / "set")
    folder = make_folder(tmp_path / "garden")
    (folder / "a.csv").unlink()
    with pytest.raises(DataError, match=r"a\.mp4 needs exactly one table.*a\.csv or a\.jsonl"):
        imported(folder, tmp_path / "set")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no video files"):
        imported(tmp_path / "empty", tmp_path / "set")


def test_videos_of_different_rates_are_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "garden")
    write_video(folder / "b.mp4", brightening(), 20.0)
    with pytest.raises(DataError, match=r"b\.mp4 has 20\.000 frames/s"):
        imported(folder, tmp_path / "set")
