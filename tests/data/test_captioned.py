"""Videos with captions: which are found, and their pictures at another rate and size."""

import json
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.data.worlds.captioned import FITS, at_rate, check_rate, find_videos, frames_at_rate


def folder_with(folder: Path, captions: str = "", **beside: str) -> Path:
    """Videos a.mp4 and b.MKV (empty files), captions beside them by stem, and a table."""
    for name in ("a.mp4", "b.MKV", "notes.md"):
        (folder / name).touch()
    for stem, text in beside.items():
        (folder / f"{stem}.txt").write_text(text)
    if captions:
        (folder / "captions.jsonl").write_text(captions)
    return folder


def line(file: str, caption: str) -> str:
    return json.dumps({"file": file, "caption": caption}) + "\n"


def test_a_caption_stands_beside_a_video_or_in_the_table(tmp_path):
    found = find_videos(folder_with(tmp_path, "\n" + line("b.MKV", " a cat "), a="a dog\nwalks\n"))
    assert [(item.video.name, item.caption) for item in found] == [("a.mp4", "a dog walks"), ("b.MKV", "a cat")]
    (tmp_path / "captions.jsonl").unlink()
    assert [item.caption for item in find_videos(tmp_path)] == ["a dog walks", ""]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ("no json\n", "captions.jsonl, line 1: "),
        (line("a.mp4", "x") + '{"file": "b.MKV"}\n', "line 2: it must be like"),
        (line("b.MKV", "x") * 2, "line 2: b.MKV has a caption already"),
        (line("c.mp4", "x"), "has captions of c.mp4, which .* does not hold"),
        (line("a.mp4", "x"), "a.mp4 has a caption in a.txt and another in captions.jsonl"),
    ],
)
def test_a_wrong_table_is_named_with_its_line(tmp_path, captions, message):
    with pytest.raises(DataError, match=message):
        find_videos(folder_with(tmp_path, captions, a="a dog"))


def test_a_folder_without_videos_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="holds no video files"):
            find_videos(folder)


def is_on_show(kept: list[int], found: float, rate: float) -> bool:
    """Whether frame k of the result is the one that a player shows at k / rate seconds."""
    return all(index / found <= shown / rate + 1e-9 < (index + 1) / found for shown, index in enumerate(kept))


@pytest.mark.parametrize(("found", "rate"), [(16.0, 16.0), (30.0, 16.0), (24.0, 16.0), (29.97, 16.0), (15.9, 16.0)])
def test_another_rate_takes_the_frames_on_show(found, rate):
    frames = [np.full((1, 1, 3), index) for index in range(90)]
    kept = [int(frame[0, 0, 0]) for frame in at_rate(frames, found, rate)]
    assert is_on_show(kept, found, rate) and len(kept) == frames_at_rate(90, found, rate)
    assert abs(len(kept) - 90 * rate / found) < 1.01
    assert found == rate or not is_on_show(list(range(len(kept)))[: 2 * len(kept)], found, rate), "the twin that takes every frame"


def test_no_frames_are_invented():
    check_rate(Path("a.mp4"), 15.9, 16.0)
    with pytest.raises(DataError, match=r"a.mp4 has 12 frames/s, and clips of 16 are wanted; give a video or a --rate that fits"):
        check_rate(Path("a.mp4"), 12.0, 16.0)


def test_a_crop_keeps_the_middle_and_a_stretch_everything():
    image = np.zeros((8, 16, 3), np.uint8)
    image[:, 4:12], image[:, 12:] = 100, 200
    assert FITS["crop"](image, 8, 8).min() == FITS["crop"](image, 8, 8).max() == 100
    assert set(np.unique(FITS["stretch"](image, 4, 4))) == {0, 100, 200}
    assert FITS["crop"](image, 2, 8).shape == (2, 8, 3) and FITS["crop"](image, 8, 8).flags["C_CONTIGUOUS"]
