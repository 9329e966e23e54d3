"""Picture files in: upright uint8 RGB `[H, W, 3]`, whatever the file's own mode, turn and transparency."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

from mutoscope.core.errors import DataError, optional_import

BLACK = (0, 0, 0, 255)
# A broken file fails in many ways: in the head, in a compressed part, in what its EXIF says.
BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
# Numbers of more than eight bits, which Pillow would clip to white.
DEEP_MODES = ("I", "F")


def read_picture(path: Path) -> np.ndarray:
    """A picture file as uint8 RGB `[H, W, 3]`: turned as its EXIF says, on black where it is transparent, the first of several.

    DataError when it is missing, broken, cut off, too large, or has more than eight bits per channel.
    """
    image = optional_import("PIL.Image", package="pillow", extra="play")
    turned = optional_import("PIL.ImageOps", package="pillow", extra="play").exif_transpose
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; give a picture file, such as a PNG or a JPEG")
    try:
        with image.open(path) as opened:
            if opened.mode.split(";")[0] in DEEP_MODES:
                raise DataError(f"{path} is grey with more than eight bits ({opened.mode}); save it with eight bits per channel")
            return np.array(_on_black(turned(opened)))
    except image.DecompressionBombError as error:
        raise DataError(f"{path} is too large a picture ({error}); make it smaller") from error
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as a picture ({error}): it is none, or was cut off; copy or export it again") from error


def _on_black(picture: Any) -> Any:
    """Without transparency: what shows through is black, not the colours that lie hidden under it."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    image = optional_import("PIL.Image", package="pillow", extra="play")
    seen = picture.convert("RGBA")
    return image.alpha_composite(image.new("RGBA", seen.size, BLACK), seen).convert("RGB")
