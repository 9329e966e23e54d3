"""`mutoscope generate` in a world with keys: where it begins, and how large the video is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fakes import ACTIONS, tiny_checkpoint
from mutoscope import cli
from mutoscope.commands.generate import CLEAR_HEIGHT, clear_scale
from mutoscope.core.world import Beginning
from mutoscope.models.checkpoint import save_checkpoint

PRESSED = 5


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames of every video that would be written, exactly."""
    videos: list[np.ndarray] = []
    monkeypatch.setattr("mutoscope.media.video.write_video", lambda path, frames, rate: videos.append(frames))
    return videos


def saved(path: Path, beginning: Beginning, chunk_frames: int = 1) -> list[str]:
    """The command for a student with clips of two frames beside it, whose worlds begin so."""
    made = tiny_checkpoint(chunk_frames=chunk_frames)
    manifest = replace(made.manifest, beginning=beginning)
    save_checkpoint(path, manifest, model=None, average=made.model, codec=made.codec, starts=made.starts)
    return ["generate", str(path), "--actions", f"{ACTIONS.names[0]}*{PRESSED}"]


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_a_world_with_keys_that_begins_from_nothing(chunk_frames, tmp_path, written, capsys):
    command = [*saved(tmp_path, "nothing", chunk_frames), "--scale", "1"]
    for more in ([], ["--start", "none"], ["--start", "0"]):
        assert cli.main([*command, *more]) == 0
    own, nothing, clip = written
    assert len(own) == chunk_frames + PRESSED and np.array_equal(own, nothing)
    assert len(clip) == 2 + PRESSED and np.array_equal(clip[:2], tiny_checkpoint().starts.frames[0].numpy())
    assert [line.rpartition(", ")[2] for line in capsys.readouterr().out.splitlines()] == ["begun from nothing"] * 2 + [
        "the first 2 are real"
    ]


def test_a_world_that_begins_with_real_frames(tmp_path, written, capsys):
    command = [*saved(tmp_path, "real frames"), "--scale", "1"]
    for more in ([], ["--start", "0"], ["--start", "1"]):
        assert cli.main([*command, *more]) == 0
    own, first, second = written
    assert np.array_equal(own, first) and not np.array_equal(own[:2], second[:2])
    assert cli.main([*command, "--start", "none"]) == cli.MISTAKE
    assert "was trained to go on from real frames; --start none is for worlds that begin from nothing" in capsys.readouterr().err


def test_a_small_world_is_enlarged_and_a_large_one_is_not(tmp_path, written, capsys):
    assert [clear_scale(height) for height in (12, 128, 129, 170, 256, 257, 480, 720)] == [4, 4, 3, 3, 2, 1, 1, 1]
    assert all(height * clear_scale(height) <= CLEAR_HEIGHT for height in range(1, CLEAR_HEIGHT + 1))
    command = saved(tmp_path, "real frames")
    for more in ([], ["--scale", "5"], ["--scale", "1"]):
        assert cli.main([*command, *more]) == 0
    assert [frames.shape[1:3] for frames in written] == [(48, 80), (60, 100), (12, 20)]
    assert cli.main([*command, "--scale", "0"]) == cli.MISTAKE and "--scale must be at least 1, got 0" in capsys.readouterr().err
