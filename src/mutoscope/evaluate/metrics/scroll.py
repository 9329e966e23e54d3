"""Exact scores where the true tiles are known: is the window where it should be, and does it show the right tiles?

Tiles fall into three groups, because nobody can know a tile before it was seen:
seen   stood in the real context and has stayed within memory since: must be the true kind
kept   entered during generation and has stayed within memory since: must be the kind that the world itself showed first
new    enters now: compared with the true kind, which is chance for an honest world
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from mutoscope.core.errors import DataError
from mutoscope.evaluate.metrics.pixels import luma

Classify = Callable[[np.ndarray], np.ndarray]
"""Pictures uint8 `[..., H, W, 3]` -> kinds `[..., rows, columns]`."""
GROUPS = ("seen", "kept", "new")


@dataclass
class _Memory:
    """What a place of the map must look like: its kind, the group it belongs to, and the frame in which it was last in view."""

    kind: int
    group: str
    last: int


def tile_scores(shown: np.ndarray, true: np.ndarray, position: np.ndarray, *, context: int, memory_frames: int) -> dict[str, np.ndarray]:
    """Share of right tiles per generated frame, in each group and in `window` (seen and kept together), NaN where there is none.

    shown int `[n, rows, columns]`, true int `[context + n, rows, columns]`, position int `[context + n, 2]` (row, column)
    -> float64 `[n]` each. A place counts as remembered if it was in view in one of the `memory_frames - 1` frames before.
    """
    if len(true) != context + len(shown) or len(position) != len(true):
        raise DataError(f"{len(shown)} generated frames after {context} need {context + len(shown)} true ones, got {len(true)}")
    known: dict[tuple[int, int], _Memory] = {}
    for frame in range(context):
        for place, row, column in _places(position[frame], true.shape[1:]):
            known[place] = _Memory(int(true[frame, row, column]), "seen", frame)
    counts = [_frame_counts(known, index + context, shown[index], true, position, memory_frames) for index in range(len(shown))]
    right, total = (np.array([[count[part][group] for group in GROUPS] for count in counts], float) for part in (0, 1))
    shares = {group: _share(right[:, place], total[:, place]) for place, group in enumerate(GROUPS)}
    return {"window": _share(right[:, :2].sum(axis=1), total[:, :2].sum(axis=1)), **shares}


def _frame_counts(
    known: dict[tuple[int, int], _Memory], frame: int, shown: np.ndarray, true: np.ndarray, position: np.ndarray, memory_frames: int
) -> tuple[dict[str, int], dict[str, int]]:
    right, total = dict.fromkeys(GROUPS, 0), dict.fromkeys(GROUPS, 0)
    for place, row, column in _places(position[frame], shown.shape):
        entry = known.get(place)
        if entry is None or frame - entry.last >= memory_frames:
            group, expected = "new", int(true[frame, row, column])
            known[place] = _Memory(int(shown[row, column]), "kept", frame)
        else:
            group, expected, entry.last = entry.group, entry.kind, frame
        total[group] += 1
        right[group] += int(shown[row, column]) == expected
    return right, total


def _places(position: np.ndarray, size: tuple[int, ...]) -> list[tuple[tuple[int, int], int, int]]:
    top, left = int(position[0]), int(position[1])
    return [((top + row, left + column), row, column) for row, column in product(range(size[0]), range(size[1]))]


def _share(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    return np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)


def position_error(frames: np.ndarray, position: np.ndarray, tile_pixels: int) -> np.ndarray:
    """Distance between where the picture has moved to and where it should be, in tiles.

    frames uint8 `[1 + n, H, W, 3]`, the first one real; position int `[1 + n, 2]` -> float64 `[n]`. Every step is measured
    to the pixel by the shift with the least difference, and the steps are summed up.
    """
    moves = np.diff(position.astype(np.int64), axis=0)
    reach = int(np.abs(moves).max(initial=0)) * tile_pixels + tile_pixels // 2
    down, right = (min(reach, size - tile_pixels) for size in frames.shape[1:3])
    measured = measured_moves(frames, (down, right)).cumsum(axis=0) / tile_pixels
    return np.linalg.norm(measured - moves.cumsum(axis=0), axis=1)


def measured_moves(frames: np.ndarray, reach: tuple[int, int]) -> np.ndarray:
    """How the window moved (down, right) per frame, in pixels up to `reach` (down, right): uint8 `[T, H, W, 3]` -> int `[T - 1, 2]`."""
    grey = luma(frames)
    spans = (range(-pixels, pixels + 1) for pixels in reach)
    shifts = sorted(product(*spans), key=lambda shift: (shift[0] ** 2 + shift[1] ** 2, shift))
    costs = np.stack([_shift_cost(grey, down, right) for down, right in shifts])
    return np.array(shifts)[costs.argmin(axis=0)]


def _shift_cost(grey: np.ndarray, down: int, right: int) -> np.ndarray:
    before, after = grey[:-1], grey[1:]
    rows_before, rows_after = _overlap(down, grey.shape[1])
    columns_before, columns_after = _overlap(right, grey.shape[2])
    return np.abs(before[:, rows_before, columns_before] - after[:, rows_after, columns_after]).mean(axis=(1, 2)).round(5)


def _overlap(shift: int, size: int) -> tuple[slice, slice]:
    return slice(max(0, shift), size + min(0, shift)), slice(max(0, -shift), size - max(0, shift))


def forgetful_tiles(true: np.ndarray, position: np.ndarray, context: int, generator: np.random.Generator) -> np.ndarray:
    """What a world shows that moves every tile in view rightly and remembers none that left it: the score of copying alone.

    true int `[context + n, rows, columns]`, position int `[context + n, 2]` -> int `[n, rows, columns]`; kinds that come into view
    are drawn at their true frequency.
    """
    shown = true[context - 1].copy()
    frames = []
    for frame in range(context, len(true)):
        before = dict(zip((place for place, _, _ in _places(position[frame - 1], shown.shape)), shown.ravel(), strict=True))
        now = generator.choice(true.ravel(), size=shown.shape)
        for place, row, column in _places(position[frame], shown.shape):
            now[row, column] = before.get(place, now[row, column])
        shown = now
        frames.append(shown)
    return np.stack(frames)


def chance(true: np.ndarray) -> float:
    """Share of right tiles when kinds are drawn at their true frequency: the sum of squared frequencies."""
    _, counts = np.unique(true, return_counts=True)
    return float(np.square(counts / counts.sum()).sum())
