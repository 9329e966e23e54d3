"""Video files in and out through PyAV: frames are uint8 RGB `[T, H, W, 3]`, rates are frames per second."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.core.errors import DataError, optional_import
from mutoscope.core.files import write_atomically

QUALITY_CRF = "18"


@dataclass(frozen=True)
class VideoInfo:
    """What a file says of itself; `num_frames` is None where the container does not count."""

    height: int
    width: int
    rate: float
    num_frames: int | None


def write_video(path: Path, frames: np.ndarray, rate: float) -> None:
    """Write an H.264 MP4 (crf 18) atomically; odd sizes are padded to even ones by repeating the last row or column."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise DataError(f"a video is written from uint8 frames [T, H, W, 3], got {frames.dtype} {frames.shape}")
    padding = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
    padded = np.pad(frames, padding, mode="edge")
    write_atomically(Path(path), lambda temporary: _encode(temporary, padded, rate))


def read_video(path: Path) -> tuple[np.ndarray, float]:
    """All frames of a file and its rate; DataError when it is missing, no video, or truncated."""
    return np.stack(list(video_frames(path))), probe(path).rate


def video_frames(path: Path) -> Iterator[np.ndarray]:
    """The frames of a file one by one, `[H, W, 3]`; DataError at its end when frames are missing."""
    expected = probe(path).num_frames
    count = 0
    with _opened(path) as container:
        for frame in container.decode(video=0):
            count += 1
            yield frame.to_ndarray(format="rgb24")
    if not count or (expected is not None and count < expected):
        raise DataError(f"{path} is truncated: {count} of {expected or 'its'} frames can be decoded; copy or export it again")


def probe(path: Path) -> VideoInfo:
    """Size, rate and number of frames of a video file, without decoding it."""
    with _opened(path) as container:
        if not container.streams.video:
            raise DataError(f"{path} has no video stream; give a video file")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(f"{path} has a video stream without content: it was cut off; copy or export it again")
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise DataError(f"{path} does not say its frame rate; convert it to a file with a constant rate")
        return VideoInfo(stream.height, stream.width, float(rate), stream.frames or None)


def _encode(path: Path, frames: np.ndarray, rate: float) -> None:
    av = optional_import("av", package="av", extra="play")
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": QUALITY_CRF}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    av = optional_import("av", package="av", extra="play")
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error}): it is no video or was cut off; copy or export it again") from error
