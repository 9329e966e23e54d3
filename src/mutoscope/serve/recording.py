"""What was played, as a video file: panes side by side, one picture per content frame, dropped ones included."""

import io
import secrets
from collections import OrderedDict
from fractions import Fraction
from typing import Any

import numpy as np

from mutoscope.core.errors import MutoscopeError, optional_import
from mutoscope.serve.encode import enlarge

LEAST_HEIGHT = 288
GAP = 8


class Recording:
    """An MP4 file (H.264) that grows in memory, at most `most` pictures long."""

    def __init__(self, rate: float, *, most: int = 18_000) -> None:
        self._av = optional_import("av", package="av", extra="play")
        self._buffer = io.BytesIO()
        self._container = self._av.open(self._buffer, "w", format="mp4")
        self._rate, self._most, self.num_frames = Fraction(rate).limit_denominator(1000), most, 0
        self._stream: Any = None

    @property
    def is_full(self) -> bool:
        """Whether no picture more fits."""
        return self.num_frames >= self._most

    def add(self, pictures: tuple[np.ndarray, ...]) -> None:
        """The panes of one moment, uint8 `[height, width, 3]` each; beyond the limit nothing happens."""
        if self.is_full:
            return
        picture = side_by_side(pictures)
        if self._stream is None:
            self._begin(*picture.shape[:2])
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts = self.num_frames
        self._container.mux(self._stream.encode(frame))
        self.num_frames += 1

    def _begin(self, height: int, width: int) -> None:
        self._stream = self._container.add_stream("libx264", rate=self._rate)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.options = {"preset": "veryfast", "crf": "18"}

    def finish(self) -> bytes:
        """Close the file and return its bytes; a recording of nothing is an error."""
        if self._stream is None:
            raise MutoscopeError("nothing was played while recording; press record, play a little, then press it again")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._buffer.getvalue()


class Shelf:
    """Finished recordings under secret names; the oldest goes when there are more than `most`."""

    def __init__(self, most: int = 8) -> None:
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._most = most

    def put(self, data: bytes) -> str:
        """Keep a file; the name it can be fetched by."""
        name = f"{secrets.token_urlsafe(12)}.mp4"
        self._files[name] = data
        while len(self._files) > self._most:
            self._files.popitem(last=False)
        return name

    def get(self, name: str) -> bytes | None:
        """The file of that name, None when there is none (any more)."""
        return self._files.get(name)


def side_by_side(pictures: tuple[np.ndarray, ...]) -> np.ndarray:
    """Each pane enlarged by a whole number to at least 288 pixels' height, on black, in a row; sizes come out even."""
    scaled = [enlarge(picture, max(1, -(-LEAST_HEIGHT // picture.shape[0]))) for picture in pictures]
    height = max(picture.shape[0] for picture in scaled)
    width = sum(picture.shape[1] for picture in scaled) + GAP * (len(scaled) - 1)
    canvas = np.zeros((height, width, 3), np.uint8)
    left = 0
    for picture in scaled:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + GAP
    return canvas
