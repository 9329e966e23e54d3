"""What `shapes` shows: a wallpaper of one shape in one colour that moves; how captions say it, how it looks, what a picture shows.

A picture is the plain ground, or the ground with the shape in every cell of CELL pixels. The wallpaper stands in one of PLACES x PLACES
places, STEP pixels apart, after which it repeats itself; a step moves it by one of them.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np

from mutoscope.core.errors import DataError

CELL, STEP = 8, 2
PLACES = CELL // STEP
GROUND = (96, 96, 96)
COLOURS = {
    "red": (214, 52, 48),
    "green": (60, 170, 70),
    "blue": (52, 84, 214),
    "yellow": (236, 206, 60),
    "purple": (160, 64, 190),
    "white": (240, 240, 240),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SHAPES = ("discs", "squares", "triangles", "crosses")
NOTHING = -1


@dataclass(frozen=True)
class Told:
    """What a caption says."""

    shape: str
    colour: str
    direction: str

    @property
    def caption(self) -> str:
        """In words: `red discs move left`."""
        return f"{self.colour} {self.shape} move {self.direction}"


EVERYTHING = tuple(Told(*words) for words in product(SHAPES, COLOURS, DIRECTIONS))
# Pairs of a shape and a colour that no recorded episode shows, each word of which others show.
UNSEEN_PAIRS = tuple(zip(SHAPES, COLOURS, strict=False))
UNSEEN = tuple(told for told in EVERYTHING if (told.shape, told.colour) in UNSEEN_PAIRS)
SEEN = tuple(told for told in EVERYTHING if told not in UNSEEN)
CAPTIONS = tuple(told.caption for told in EVERYTHING)
BY_CAPTION = {told.caption: told for told in EVERYTHING}


def told_by(caption: str) -> Told:
    """What a caption says; a DataError for words that this world does not know."""
    if caption not in BY_CAPTION:
        raise DataError(
            f"'{caption}' says nothing to the world of shapes; write it like '{CAPTIONS[0]}' with "
            f"{', '.join(COLOURS)}; {', '.join(SHAPES)}; {', '.join(DIRECTIONS)}"
        )
    return BY_CAPTION[caption]


def check_size(height: int, width: int) -> None:
    """A DataError unless a picture is made of whole cells."""
    if height % CELL or width % CELL or min(height, width) < CELL:
        raise DataError(f"a picture of {width}x{height} is not made of cells of {CELL} pixels")


def _masks() -> np.ndarray:
    row, column = np.mgrid[0:CELL, 0:CELL]
    centre = (CELL - 1) / 2
    down, across = abs(row - centre), abs(column - centre)
    return np.stack(
        [np.hypot(down, across) < 3.6, np.maximum(down, across) < 2, (across <= row / 2) & (row > 0), np.minimum(down, across) < 1]
    )


MASKS = _masks()
"""bool `[shape, 8, 8]`."""


def blank(height: int, width: int) -> np.ndarray:
    """The ground alone, uint8 RGB `[H, W, 3]`."""
    return np.broadcast_to(np.array(GROUND, np.uint8), (height, width, 3)).copy()


def draw(told: Told, place: tuple[int, int], height: int, width: int) -> np.ndarray:
    """The picture of what is told with the wallpaper at `place` (row, column), uint8 RGB `[H, W, 3]`."""
    mask = np.roll(MASKS[SHAPES.index(told.shape)], (STEP * place[0], STEP * place[1]), axis=(0, 1))
    colours = np.array([GROUND, COLOURS[told.colour]], np.uint8)
    return colours[np.tile(mask, (height // CELL, width // CELL)).astype(int)]


@dataclass(frozen=True)
class Shown:
    """What pictures show, int `[...]` each: number of shape and colour, row and column of the place; NOTHING where it is the ground."""

    shape: np.ndarray
    colour: np.ndarray
    row: np.ndarray
    column: np.ndarray

    @property
    def there(self) -> np.ndarray:
        """Whether there is a shape, bool `[...]`."""
        return self.shape != NOTHING

    def of(self, clip: int | slice) -> "Shown":
        """What one of several clips shows, or some of the frames."""
        return Shown(self.shape[clip], self.colour[clip], self.row[clip], self.column[clip])


@lru_cache(maxsize=4)
def _templates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All pictures that can be, less the ground, float32 `[N, H W 3]`, and what they show `[N, 4]`; the ground itself comes last."""
    check_size(height, width)
    kinds = list(product(range(len(SHAPES)), range(len(COLOURS)), range(PLACES), range(PLACES)))
    colours = list(COLOURS)
    drawn = [draw(Told(SHAPES[shape], colours[colour], "left"), (row, column), height, width) for shape, colour, row, column in kinds]
    pictures = np.stack([*drawn, blank(height, width)]).astype(np.float32) - np.array(GROUND, np.float32)
    return pictures.reshape(len(pictures), -1), np.array([*kinds, (NOTHING,) * 4])


def detect(pictures: np.ndarray) -> Shown:
    """What pictures uint8 `[..., H, W, 3]` show: the nearest (least squared error) of all that can be."""
    *lead, height, width, _ = pictures.shape
    known, kinds = _templates(height, width)
    flat = pictures.reshape(-1, height * width * 3).astype(np.float32) - np.tile(np.array(GROUND, np.float32), height * width)
    nearest = np.concatenate(
        [((known**2).sum(axis=1) - 2 * part @ known.T).argmin(axis=1) for part in np.array_split(flat, 1 + len(flat) // 256)]
    )
    return Shown(*kinds[nearest].T.reshape(4, *lead))
