"""What is evaluated: anything that continues real clips under given actions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Advance = Callable[[int], None]
Generate = Callable[[np.ndarray, np.ndarray, np.ndarray, int, Advance], np.ndarray]
"""(frames uint8 `[B, c, H, W, 3]`, context actions `[B, c, A]`, actions `[B, n, A]`, seed, advance) -> uint8 `[B, n, H, W, 3]`.

`advance(k)` is called whenever k more frames of every row are made.
"""
Role = Literal["student", "teacher", "baseline"]
COPY_LAST = "copy last"


@dataclass(frozen=True)
class Candidate:
    """A row of the tables. Students also play long (stability); `against` names the candidates that it is compared with."""

    label: str
    generate: Generate
    role: Role = "student"
    against: tuple[str, ...] = (COPY_LAST,)


def copy_last(frames: np.ndarray, context_actions: np.ndarray, actions: np.ndarray, seed: int, advance: Advance) -> np.ndarray:
    """The last real frame for ever."""
    advance(actions.shape[1])
    return np.repeat(frames[:, -1:], actions.shape[1], axis=1)


def copy_last_candidate() -> Candidate:
    """The baseline that every world must beat."""
    return Candidate(COPY_LAST, copy_last, role="baseline", against=())
