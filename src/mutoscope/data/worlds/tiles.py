"""The eight kinds of tiles of `scroll`: how they look, and which one a picture shows."""

import numpy as np

from mutoscope.core.errors import DataError

TILE_PIXELS = 8
COLOURS = ((214, 60, 56), (64, 160, 72), (58, 92, 204), (232, 196, 64), (150, 70, 180), (70, 190, 200), (236, 140, 60), (120, 120, 128))
NUM_KINDS = len(COLOURS)


def _patterns() -> np.ndarray:
    row, column = np.mgrid[0:TILE_PIXELS, 0:TILE_PIXELS]
    centre = (TILE_PIXELS - 1) / 2
    distance = np.hypot(row - centre, column - centre)
    shapes = (
        distance < 2.6,
        row % 4 < 2,
        column % 4 < 2,
        (row + column) % 4 < 2,
        (row // 2 + column // 2) % 2 == 0,
        np.maximum(abs(row - centre), abs(column - centre)) > 3,
        (abs(row - centre) < 1) | (abs(column - centre) < 1),
        row > column,
    )
    return np.stack(shapes)


def _templates() -> np.ndarray:
    colours = np.array(COLOURS, np.float64)[:, None, None, :]
    shade = np.where(_patterns(), 1.0, 0.45)[..., None]
    return (colours * shade).round().astype(np.uint8)


TEMPLATES = _templates()
"""uint8 `[8, 8, 8, 3]`: kind, row, column, RGB."""


def render_tiles(tiles: np.ndarray) -> np.ndarray:
    """Kinds `[..., rows, columns]` -> the picture of them, uint8 RGB `[..., 8 rows, 8 columns, 3]`."""
    picture = TEMPLATES[tiles]
    *lead, rows, columns = tiles.shape
    return np.moveaxis(picture, -3, -4).reshape(*lead, rows * TILE_PIXELS, columns * TILE_PIXELS, 3)


def classify_tiles(pictures: np.ndarray) -> np.ndarray:
    """Pictures uint8 RGB `[..., H, W, 3]` -> the nearest kind (least squared error) of each tile, uint8 `[..., H/8, W/8]`."""
    *lead, height, width, _ = pictures.shape
    if height % TILE_PIXELS or width % TILE_PIXELS:
        raise DataError(f"a picture of {width}x{height} is not made of whole tiles of {TILE_PIXELS} pixels")
    rows, columns = height // TILE_PIXELS, width // TILE_PIXELS
    cut = np.moveaxis(pictures.reshape(*lead, rows, TILE_PIXELS, columns, TILE_PIXELS, 3), -4, -3)
    flat = cut.reshape(*lead, rows, columns, -1).astype(np.float32)
    known = TEMPLATES.reshape(NUM_KINDS, -1).astype(np.float32)
    errors = (known**2).sum(axis=1) - 2 * flat @ known.T
    return errors.argmin(axis=-1).astype(np.uint8)
