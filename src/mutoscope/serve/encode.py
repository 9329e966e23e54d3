"""Pictures for the wire: H.264 (PyAV, libx264, no delay, Annex B) for WebCodecs, JPEG for everything else.

Small worlds are doubled before H.264, which stores colour at half resolution: after doubling no colour is lost to it.
One encoder belongs to one pane of one page. Its pictures must all be sent, in order: drop pictures before they come here.
"""

import io
from fractions import Fraction
from typing import Protocol

import numpy as np

from mutoscope.core.errors import MissingPackageError, choose, optional_import
from mutoscope.serve.wire import PictureFormat, PictureKind

SMALL_HEIGHT = 160


class Encoder(Protocol):
    """One stream of pictures."""

    def encode(self, picture: np.ndarray) -> tuple[PictureKind, bytes]:
        """uint8 `[height, width, 3]` -> how it is coded, and the bytes."""
        ...


class H264Encoder:
    """One picture in, one access unit out. The first is a key picture and carries the stream's parameters."""

    def __init__(self, height: int, width: int, rate: float, *, quality: int = 17) -> None:
        self._av = optional_import("av", package="av", extra="play")
        self._scale = 2 if height <= SMALL_HEIGHT else 1
        self._context = self._av.CodecContext.create("libx264", "w")
        self._context.height, self._context.width = even(height * self._scale), even(width * self._scale)
        self._context.pix_fmt = "yuv420p"
        self._context.framerate = Fraction(rate).limit_denominator(1000)
        self._context.time_base = 1 / self._context.framerate
        self._context.thread_count = 1
        # A key picture only at the beginning: nothing is ever lost on the way, and keys are large.
        parameters = "keyint=infinite:scenecut=0:repeat-headers=1:annexb=1:force-cfr=1"
        self._context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(quality), "x264-params": parameters}
        self._count = 0

    def encode(self, picture: np.ndarray) -> tuple[PictureKind, bytes]:
        """One access unit; a key picture first, deltas after it."""
        frame = self._av.VideoFrame.from_ndarray(enlarge(picture, self._scale), format="rgb24")
        frame.pts = self._count
        self._count += 1
        packets = self._context.encode(frame)
        kind = PictureKind.H264_KEY if any(packet.is_keyframe for packet in packets) else PictureKind.H264_DELTA
        return kind, b"".join(bytes(packet) for packet in packets)


class PillowEncoder:
    """JPEG through Pillow, colour at full resolution."""

    def __init__(self, *, quality: int = 92) -> None:
        self._image = optional_import("PIL.Image", package="pillow", extra="play")
        self._quality = quality

    def encode(self, picture: np.ndarray) -> tuple[PictureKind, bytes]:
        """A JPEG file."""
        buffer = io.BytesIO()
        self._image.fromarray(picture).save(buffer, "JPEG", quality=self._quality, subsampling=0)
        return PictureKind.JPEG, buffer.getvalue()


class OpenCVEncoder:
    """JPEG through OpenCV, where Pillow is absent."""

    def __init__(self, *, quality: int = 92) -> None:
        self._cv2 = optional_import("cv2", package="opencv-python-headless", extra="play")
        self._quality = quality

    def encode(self, picture: np.ndarray) -> tuple[PictureKind, bytes]:
        """A JPEG file."""
        _, data = self._cv2.imencode(".jpg", picture[..., ::-1], [self._cv2.IMWRITE_JPEG_QUALITY, self._quality])
        return PictureKind.JPEG, data.tobytes()


def jpeg_encoder(quality: int = 92) -> Encoder:
    """Whichever JPEG package is installed, at a quality of 1 to 100."""
    try:
        return PillowEncoder(quality=quality)
    except MissingPackageError:
        return OpenCVEncoder(quality=quality)


ENCODERS = {
    "h264": H264Encoder,
    "jpeg": lambda height, width, rate: jpeg_encoder(),
}


def make_encoder(picture: PictureFormat, height: int, width: int, rate: float) -> Encoder:
    """An encoder for pictures of that size (pixels) at that rate (per second)."""
    return choose(ENCODERS, picture, "picture format")(height, width, rate)


def even(size: int) -> int:
    """The next even number: yuv420p has no odd sizes."""
    return size + size % 2


def enlarge(picture: np.ndarray, scale: int) -> np.ndarray:
    """Repeat every pixel `scale` times both ways, and the last row and column where a size would be odd."""
    picture = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = picture.shape[:2]
    padding = ((0, height % 2), (0, width % 2), (0, 0))
    return np.ascontiguousarray(np.pad(picture, padding, mode="edge"))
