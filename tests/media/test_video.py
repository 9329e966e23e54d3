from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.media.video import probe, read_video, video_frames, write_video


def gradients(num_frames: int = 10, height: int = 32, width: int = 48) -> np.ndarray:
    """A smooth picture that moves, so that compression keeps it well."""
    row, column, time = np.arange(height)[None, :, None], np.arange(width)[None, None, :], np.arange(num_frames)[:, None, None]
    waves = [127 + 90 * np.sin((row + column + shift * time) / 9) for shift in (1, 2, 3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(32, 48), (31, 45)])
def test_a_video_comes_back_nearly_as_written(tmp_path: Path, height: int, width: int) -> None:
    frames = gradients(height=height, width=width)
    write_video(tmp_path / "clip.mp4", frames, 17.5)
    back, rate = read_video(tmp_path / "clip.mp4")
    assert rate == 17.5 and back.shape[0] == 10 and back.shape[1] % 2 == back.shape[2] % 2 == 0
    assert np.abs(back[:, :height, :width].astype(int) - frames).mean() < 4


def test_frames_are_in_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((16, 16, 3), 20 * index, np.uint8) for index in range(12)])
    write_video(tmp_path / "clip.mp4", frames, 30)
    back = np.array([frame.mean() for frame in video_frames(tmp_path / "clip.mp4")])
    assert np.allclose(back, 20 * np.arange(12), atol=4)
    assert not np.allclose(back[::-1], 20 * np.arange(12), atol=4)


def test_probe_reads_size_rate_and_count(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", gradients(), 12)
    info = probe(tmp_path / "clip.mp4")
    assert (info.height, info.width, info.rate, info.num_frames) == (32, 48, 12.0, 10)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.98])
def test_a_truncated_video_is_an_error_that_names_it(tmp_path: Path, share: float) -> None:
    write_video(tmp_path / "clip.mp4", gradients(60), 30)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"cut\.mp4"):
        read_video(tmp_path / "cut.mp4")


def test_what_is_no_video_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.mp4"):
        read_video(tmp_path / "notes.mp4")
    with pytest.raises(DataError, match="does not exist"):
        read_video(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize("frames", [np.zeros((3, 8, 8, 3), np.float32), np.zeros((0, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)])
def test_what_is_no_clip_is_refused_and_nothing_is_written(tmp_path: Path, frames: np.ndarray) -> None:
    with pytest.raises(DataError, match="uint8 frames"):
        write_video(tmp_path / "clip.mp4", frames, 10)
    assert list(tmp_path.iterdir()) == []
