"""Picture files of every kind come in upright, in eight bits and opaque; files that are none are named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mutoscope.core.errors import DataError
from mutoscope.media.picture import read_picture

ORIENTATION = 0x0112
TURNED_RIGHT = 6


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def saved(path: Path, pixels: np.ndarray, **more: object) -> Path:
    Image.fromarray(pixels).save(path, **more)
    return path


def test_a_camera_that_was_held_sideways(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    pixels = noise(6, 9, 3)
    found = read_picture(saved(tmp_path / "turned.png", pixels, exif=exif))
    assert np.array_equal(found, np.rot90(pixels, -1)) and found.flags["C_CONTIGUOUS"]
    assert np.array_equal(read_picture(saved(tmp_path / "plain.png", pixels)), pixels)


def test_what_is_transparent_is_black_and_not_the_colour_under_it(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 4), 200, np.uint8)
    pixels[:, :, 3] = (0, 255, 128)
    found = read_picture(saved(tmp_path / "alpha.png", pixels))
    assert found.shape == (2, 3, 3) and [int(value) for value in found[0, :, 0]] == [0, 200, 100]


@pytest.mark.parametrize("mode", ["L", "P", "1", "LA", "CMYK"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    Image.fromarray(noise(5, 7, 3)).convert("LA" if mode == "LA" else mode).save(path)
    found = read_picture(path)
    assert found.shape == (5, 7, 3) and found.dtype == np.uint8 and found.std() > 10


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png does not exist; give a picture file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(DataError, match="does not exist; give a picture file"):
        read_picture(tmp_path)
    (tmp_path / "words.png").write_bytes(b"no")
    for suffix in ("png", "jpg"):
        whole = saved(tmp_path / f"whole.{suffix}", noise(40, 60, 3)).read_bytes()
        (tmp_path / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    for name in ("words.png", "cut.png", "cut.jpg"):
        with pytest.raises(DataError, match=rf"{name} cannot be read as a picture .* copy or export it again"):
            read_picture(tmp_path / name)


def test_more_than_eight_bits_and_more_pixels_than_memory_are_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(DataError, match=r"deep\.png is grey with more than eight bits \(I;16\)"):
        read_picture(saved(tmp_path / "deep.png", noise(4, 4).astype(np.uint16) * 257))
    path = saved(tmp_path / "vast.png", noise(40, 40, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"vast\.png is too large a picture"):
        read_picture(path)
