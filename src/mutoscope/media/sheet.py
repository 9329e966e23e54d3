"""Contact sheets and PNG files: clips as rows of small pictures with a name before each row."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mutoscope.core.errors import DataError, optional_import
from mutoscope.core.files import write_atomically

SHOWN_FRAMES = 12
GAP = 2
PAPER, INK = 255, 0
CHARACTER_WIDTH = 7


def contact_sheet(rows: Sequence[np.ndarray], labels: Sequence[str], *, shown: int = SHOWN_FRAMES) -> np.ndarray:
    """Clips uint8 `[T, H, W, 3]`, one a row, thinned to at most `shown` frames -> one picture uint8 `[H', W', 3]`."""
    if not rows or len(rows) != len(labels):
        raise DataError(f"a contact sheet needs one label per row, got {len(rows)} rows and {len(labels)} labels")
    strips = [_strip(clip, shown) for clip in rows]
    width = max(strip.shape[1] for strip in strips)
    margin = CHARACTER_WIDTH * max(len(label) for label in labels) + 2 * GAP
    lines = [_line(strip, label, margin, width) for strip, label in zip(strips, labels, strict=True)]
    return np.concatenate(lines)


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write a picture uint8 `[H, W, 3]` as PNG, atomically."""
    image = optional_import("PIL.Image", package="pillow", extra="play")
    write_atomically(Path(path), lambda temporary: image.fromarray(picture).save(temporary, format="PNG"))


def _strip(clip: np.ndarray, shown: int) -> np.ndarray:
    picked = np.unique(np.linspace(0, len(clip) - 1, min(shown, len(clip))).round().astype(int))
    framed = [np.pad(clip[index], ((GAP, 0), (0, GAP), (0, 0)), constant_values=PAPER) for index in picked]
    return np.concatenate(framed, axis=1)


def _line(strip: np.ndarray, label: str, margin: int, width: int) -> np.ndarray:
    line = np.full((strip.shape[0], margin + width, 3), PAPER, np.uint8)
    line[:, margin : margin + strip.shape[1]] = strip
    return _write_label(line, label)


def _write_label(line: np.ndarray, label: str) -> np.ndarray:
    image = optional_import("PIL.Image", package="pillow", extra="play")
    draw = optional_import("PIL.ImageDraw", package="pillow", extra="play")
    canvas = image.fromarray(line)
    draw.Draw(canvas).text((GAP, max(0, line.shape[0] // 2 - 6)), label, fill=(INK, INK, INK))
    return np.array(canvas)
