from collections.abc import Sequence

import av
import numpy as np
import pytest

from mutoscope.core.errors import ConfigError
from mutoscope.serve.encode import Encoder, H264Encoder, OpenCVEncoder, PillowEncoder, enlarge, make_encoder
from mutoscope.serve.recording import Recording, Shelf, side_by_side
from mutoscope.serve.sources import FakeSource
from mutoscope.serve.wire import PictureKind


def pictures(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A square that walks to the right."""
    source = FakeSource(height=height, width=width)
    source.reset(0, 0)
    return [source.step(np.asarray([0, 0, 0, 1], np.float32))[0] for _ in range(count)]


def decode(units: Sequence[bytes]) -> list[np.ndarray]:
    """The pictures of an H.264 stream; those that cannot be decoded are missing."""
    context = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    frames = [frame for unit in units for frame in context.decode(av.Packet(unit))]
    return [frame.to_ndarray(format="rgb24") for frame in frames + context.decode(None)]


def error(picture: np.ndarray, decoded: np.ndarray) -> float:
    """Mean absolute difference in grey levels, after undoing the doubling."""
    height, width = picture.shape[:2]
    return float(np.abs(picture.astype(float) - decoded[: 2 * height : 2, : 2 * width : 2]).mean())


def test_h264_is_one_unit_per_picture_and_no_delay() -> None:
    encoder, shown = H264Encoder(48, 64, 17.5), pictures(12)
    coded = [encoder.encode(picture) for picture in shown]
    assert [kind for kind, _ in coded] == [PictureKind.H264_KEY] + [PictureKind.H264_DELTA] * 11
    assert all(unit.startswith((b"\0\0\0\1", b"\0\0\1")) for _, unit in coded)
    decoded = decode([unit for _, unit in coded])
    assert len(decoded) == 12 and decoded[0].shape == (96, 128, 3)
    assert all(error(picture, seen) < 3 for picture, seen in zip(shown, decoded, strict=True))


def test_a_lost_picture_breaks_the_stream() -> None:
    """Why pictures are dropped before the encoder: behind it, a gap shows."""
    encoder, shown = H264Encoder(48, 64, 17.5), pictures(12)
    units = [encoder.encode(picture)[1] for picture in shown]
    decoded = decode(units[:4] + units[8:])
    assert len(decoded) < 8 or error(shown[-1], decoded[-1]) > error(shown[-1], decode(units)[-1])


def test_odd_sizes_are_padded_not_cut() -> None:
    encoder, shown = H264Encoder(201, 35, 10.0), pictures(1, 201, 35)
    (decoded,) = decode([encoder.encode(shown[0])[1]])
    assert decoded.shape == (202, 36, 3)
    assert np.abs(shown[0].astype(float) - decoded[:201, :35]).mean() < 6


@pytest.mark.parametrize("encoder", [PillowEncoder(), OpenCVEncoder()])
def test_jpeg_keeps_colours(encoder: Encoder) -> None:
    (shown,) = pictures(1)
    kind, data = encoder.encode(shown)
    context = av.CodecContext.create("mjpeg", "r")
    (decoded,) = context.decode(av.Packet(data)) + context.decode(None)
    assert kind is PictureKind.JPEG
    assert np.abs(decoded.to_ndarray(format="rgb24").astype(float) - shown).mean() < 3
    assert np.abs(decoded.to_ndarray(format="bgr24").astype(float) - shown).mean() > 10


def test_formats_by_name() -> None:
    assert isinstance(make_encoder("h264", 8, 8, 10.0), H264Encoder)
    with pytest.raises(ConfigError, match="h264"):
        make_encoder("gif", 8, 8, 10.0)  # type: ignore[arg-type]


def test_enlarging_repeats_pixels() -> None:
    picture = np.arange(3 * 3 * 3, dtype=np.uint8).reshape(3, 3, 3)
    assert enlarge(picture, 2).shape == (6, 6, 3) and (enlarge(picture, 2)[::2, ::2] == picture).all()
    assert enlarge(picture, 1).shape == (4, 4, 3) and (enlarge(picture, 1)[3, 3] == picture[2, 2]).all()


def test_a_recording_is_a_video_of_all_panes(tmp_path) -> None:
    recording, shown = Recording(17.5, most=10), pictures(14)
    for picture in shown:
        recording.add((picture, picture))
    assert recording.is_full and recording.num_frames == 10
    path = tmp_path / "played.mp4"
    path.write_bytes(recording.finish())
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert float(container.streams.video[0].average_rate) == pytest.approx(17.5)
    wanted = side_by_side((shown[9], shown[9]))
    assert len(frames) == 10 and np.abs(frames[9].astype(float) - wanted).mean() < 3
    assert np.abs(frames[0].astype(float) - wanted).mean() > 3


def test_the_shelf_keeps_the_newest() -> None:
    shelf = Shelf(most=2)
    names = [shelf.put(bytes([index])) for index in range(3)]
    assert [shelf.get(name) for name in names] == [None, b"\1", b"\2"]
