"""Does a picture show what the prompt says? Exact, in a world of shapes that is told in words what to show (data.worlds.shapes).

An appearance is a run of frames with shapes in them. Colour and shape are judged per frame, the direction per pair of neighbouring
frames of an appearance; an appearance is right if all of that is right in all of its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.data.worlds.shapes import COLOURS, DIRECTIONS, EVERYTHING, PLACES, SHAPES, Shown, Told

CHANCE = {"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "direction": 1 / len(DIRECTIONS), "appearances": 1 / len(EVERYTHING)}
"""What someone reaches who shows one kind of appearance and has not read the prompt, over prompts that are all equally likely."""
FULL_FRAMES = 2


@dataclass(frozen=True)
class PromptScores:
    """Per clip, float `[clip]`: shares of frames, steps and appearances that are right, NaN where there are none; of frames with shapes.

    An appearance counts from FULL_FRAMES frames on: what is cut off by the end of the clip moves nowhere.
    """

    colour: np.ndarray
    shape: np.ndarray
    direction: np.ndarray
    appearances: np.ndarray
    shown: np.ndarray


def prompt_scores(shown: Shown, told: Sequence[Told]) -> PromptScores:
    """Score what clips show, arrays `[clip, frame]`, against what each of them was told."""
    rows = [_clip(shown.of(index), one) for index, one in enumerate(told)]
    return PromptScores(*np.array(rows, dtype=np.float64).T.reshape(5, len(rows)))


def _clip(shown: Shown, told: Told) -> tuple[float, ...]:
    there, step = shown.there, DIRECTIONS[told.direction]
    right_shape, right_colour = shown.shape == SHAPES.index(told.shape), shown.colour == tuple(COLOURS).index(told.colour)
    both = there[1:] & there[:-1]
    right_step = ((np.diff(shown.row) - step[0]) % PLACES == 0) & ((np.diff(shown.column) - step[1]) % PLACES == 0)
    judged = [
        bool((right_shape & right_colour)[first:stop].all() and right_step[first : stop - 1].all())
        for first, stop in _runs(there)
        if stop - first >= FULL_FRAMES
    ]
    return _share(right_colour[there]), _share(right_shape[there]), _share(right_step[both]), _share(judged), float(there.mean())


def _runs(there: np.ndarray) -> list[tuple[int, int]]:
    """First frame and the one after the last of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], there.astype(int), [0]])))
    return [(int(first), int(stop)) for first, stop in edges.reshape(-1, 2)]


def _share(right: np.ndarray | list[bool]) -> float:
    return float(np.mean(right)) if len(right) else float("nan")
