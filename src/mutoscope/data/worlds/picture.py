"""Scale pictures, and tell when nothing moved."""

import numpy as np

from mutoscope.core.errors import optional_import


def scale(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 RGB `[h, w, 3]` -> `[height, width, 3]`: area averages when it shrinks, linear when it grows."""
    if image.shape[:2] == (height, width):
        return np.array(image)
    cv2 = optional_import("cv2", package="opencv-python-headless", extra="record")
    shrinks = height <= image.shape[0] and width <= image.shape[1]
    return cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
