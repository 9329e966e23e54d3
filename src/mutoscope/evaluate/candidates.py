"""What is evaluated: anything that continues real clips under given actions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Given:
    """What a continuation begins from and is told: context frames uint8 `[B, c, H, W, 3]` and their actions `[B, c, A]`, the actions
    to come `[B, n, A]`, and for every row what its episode says that it shows (nothing where there are no captions)."""

    frames: np.ndarray
    context_actions: np.ndarray
    actions: np.ndarray
    captions: tuple[str, ...]


Advance = Callable[[int], None]
Generate = Callable[[Given, int, Advance], np.ndarray]
"""(what is given, seed, advance) -> uint8 `[B, n, H, W, 3]`. `advance(k)` is called whenever k more frames of every row are made."""
Role = Literal["student", "teacher", "baseline"]
COPY_LAST = "copy last"


@dataclass(frozen=True)
class Candidate:
    """A row of the tables. Students also play long (stability); `against` names the candidates that it is compared with."""

    label: str
    generate: Generate
    role: Role = "student"
    against: tuple[str, ...] = (COPY_LAST,)


def copy_last(given: Given, seed: int, advance: Advance) -> np.ndarray:
    """The last real frame for ever."""
    length = given.actions.shape[1]
    advance(length)
    return np.repeat(given.frames[:, -1:], length, axis=1)


def copy_last_candidate() -> Candidate:
    """The baseline that every world must beat."""
    return Candidate(COPY_LAST, copy_last, role="baseline", against=())
