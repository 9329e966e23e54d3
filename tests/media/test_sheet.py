from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import DataError
from mutoscope.media.picture import read_picture
from mutoscope.media.sheet import contact_sheet, write_png


def clip(value: int, num_frames: int) -> np.ndarray:
    return np.full((num_frames, 10, 14, 3), value, np.uint8)


def test_every_clip_has_its_row_and_at_most_the_asked_number_of_pictures() -> None:
    sheet = contact_sheet([clip(40, 3), clip(80, 50)], ["real", "made"], shown=5)
    assert sheet.shape[0] == 24 and sheet.dtype == np.uint8
    upper, lower = sheet[:12], sheet[12:]
    assert (upper == 40).all(axis=2).sum() >= 3 * 140 and (lower == 80).all(axis=2).sum() >= 5 * 140
    assert (lower == 80).all(axis=2).sum() < 6 * 140


def test_the_first_and_the_last_frame_are_shown() -> None:
    frames = np.concatenate([clip(index, 1) for index in range(100, 150)])
    sheet = contact_sheet([frames], [""], shown=3)
    assert all((sheet == value).all(axis=2).sum() == 140 for value in (100, 149))


def test_labels_are_written() -> None:
    plain, named = (contact_sheet([clip(40, 2)], [label]) for label in ("    ", "real"))
    assert plain.shape == named.shape and (named < 40).any() and not (plain < 40).any()


def test_rows_and_labels_must_agree() -> None:
    with pytest.raises(DataError, match="2 rows and 1 labels"):
        contact_sheet([clip(1, 1), clip(2, 1)], ["one"])


def test_a_png_comes_back_exactly(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    write_png(tmp_path / "picture.png", picture)
    assert np.array_equal(read_picture(tmp_path / "picture.png"), picture)
