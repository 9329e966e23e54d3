"""Who presses the keys while recording. A plain random walk only shakes on the spot; these hold what they press."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from mutoscope.core.world import ActionSpec
from mutoscope.data.worlds.keys import OPPOSITES

WEIGHTS = {"forward": 0.6, "backward": 0.12, "left": 0.15, "right": 0.15, "turn_left": 0.3, "turn_right": 0.3, "stand": 0.1}
HOLD_FRAMES = {"forward": 14.0, "turn_left": 7.0, "left": 7.0}
SHORT_HOLD_FRAMES = 6.0
BRIEF_PACE = 3.0
STUCK_FRAMES, ESCAPE_FRAMES = 2, (6, 18)


class ActionPolicy(Protocol):
    """Chooses the next action vector `[dim]`; `stuck` says that the last action changed nothing in the picture."""

    def act(self, stuck: bool) -> np.ndarray: ...


@dataclass
class Axis:
    """Buttons of which at most one is held: the choices (button number or None) with probabilities, and a mean hold."""

    choices: tuple[int | None, ...]
    chances: np.ndarray
    hold_frames: float
    current: int | None = None
    left: int = 0


class HoldButtons:
    """For multi-binary actions: every pair of opposites is its own axis, held for a geometric time of its own.

    Forward is pressed most. After two frames in which pressing changed nothing (a wall), everything is let go and, where
    there are keys for it, one turns for some ten frames; without such keys all axes are drawn anew.
    """

    def __init__(self, spec: ActionSpec, generator: np.random.Generator, pace: float) -> None:
        self._dim, self._generator, self._idle = spec.dim, generator, 0
        groups = _groups(spec.names)
        self._axes = [_axis(spec, names, pace) for names in groups]
        self._turn = next((axis for axis, names in zip(self._axes, groups, strict=True) if "turn_left" in names), None)

    def act(self, stuck: bool) -> np.ndarray:
        """The next action, 0 or 1 per button, float32 `[dim]`."""
        self._idle = self._idle + 1 if stuck else 0
        if self._idle >= STUCK_FRAMES:
            self._escape()
        vector = np.zeros(self._dim, np.float32)
        for axis in self._axes:
            if axis.left == 0:
                self._draw(axis)
            axis.left -= 1
            if axis.current is not None:
                vector[axis.current] = 1.0
        return vector

    def _draw(self, axis: Axis) -> None:
        axis.current = axis.choices[int(self._generator.choice(len(axis.choices), p=axis.chances))]
        axis.left = int(self._generator.geometric(1.0 / axis.hold_frames))

    def _escape(self) -> None:
        self._idle = 0
        hold = int(self._generator.integers(*ESCAPE_FRAMES))
        for axis in self._axes:
            axis.current, axis.left = None, hold if self._turn else 0
        if self._turn:
            self._turn.current = self._turn.choices[int(self._generator.integers(len(self._turn.choices) - 1))]


class HoldChoice:
    """For discrete actions: one choice at a time, held for a geometric time with a mean of six frames at pace 1."""

    def __init__(self, spec: ActionSpec, generator: np.random.Generator, pace: float) -> None:
        weights = np.array([WEIGHTS.get(name, 0.25) for name in spec.names])
        self._dim, self._generator, self._chances = spec.dim, generator, weights / weights.sum()
        self._current, self._left, self._hold_frames = 0, 0, max(1.0, SHORT_HOLD_FRAMES / pace)

    def act(self, stuck: bool) -> np.ndarray:
        """The next action, one-hot float32 `[dim]`."""
        if self._left == 0:
            self._current = int(self._generator.choice(self._dim, p=self._chances))
            self._left = int(self._generator.geometric(1.0 / self._hold_frames))
        self._left -= 1
        return np.eye(self._dim, dtype=np.float32)[self._current]


class HoldValues:
    """For box actions: uniform values in [-1, 1] per axis, held for a geometric time with a mean of six frames at pace 1."""

    def __init__(self, spec: ActionSpec, generator: np.random.Generator, pace: float) -> None:
        self._generator, self._left, self._hold_frames = generator, 0, max(1.0, SHORT_HOLD_FRAMES / pace)
        self._current = np.zeros(spec.dim, np.float32)

    def act(self, stuck: bool) -> np.ndarray:
        """The next action, float32 `[dim]` in [-1, 1]."""
        if self._left == 0:
            self._current = self._generator.uniform(-1, 1, len(self._current)).astype(np.float32)
            self._left = int(self._generator.geometric(1.0 / self._hold_frames))
        self._left -= 1
        return self._current


class Nothing:
    """For worlds without actions: nothing is pressed."""

    def __init__(self, spec: ActionSpec, generator: np.random.Generator, pace: float) -> None:
        self._dim = spec.dim

    def act(self, stuck: bool) -> np.ndarray:
        """The empty action, float32 `[0]`."""
        return np.zeros(self._dim, np.float32)


def hold_random(spec: ActionSpec, generator: np.random.Generator, pace: float = 1.0) -> ActionPolicy:
    """Hold a random action for a random time; at pace 3 for a third of it on average, so that one often comes back to what one saw."""
    kinds: dict[str, Callable[[ActionSpec, np.random.Generator, float], ActionPolicy]] = {
        "multi_binary": HoldButtons,
        "discrete": HoldChoice,
        "box": HoldValues,
        "none": Nothing,
    }
    return kinds[spec.kind](spec, generator, pace)


class EveryFrame:
    """A new action on every frame: the plain random walk, for comparison."""

    def __init__(self, spec: ActionSpec, generator: np.random.Generator) -> None:
        self._spec, self._generator = spec, generator

    def act(self, stuck: bool) -> np.ndarray:
        """A fresh draw of `hold_random`, float32 `[dim]`."""
        return hold_random(self._spec, self._generator).act(False)


POLICIES: dict[str, Callable[[ActionSpec, np.random.Generator], ActionPolicy]] = {
    "hold-random": hold_random,
    "hold-briefly": partial(hold_random, pace=BRIEF_PACE),
    "random-walk": EveryFrame,
}


def _groups(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    pairs = [pair for pair in OPPOSITES if all(name in names for name in pair)]
    paired = {name for pair in pairs for name in pair}
    return [*pairs, *((name,) for name in names if name not in paired)]


def _axis(spec: ActionSpec, names: tuple[str, ...], pace: float) -> Axis:
    chances = [WEIGHTS.get(name, 0.3) for name in names]
    choices = (*(spec.names.index(name) for name in names), None)
    hold_frames = max(1.0, HOLD_FRAMES.get(names[0], SHORT_HOLD_FRAMES) / pace)
    return Axis(choices, np.array([*chances, 1.0 - sum(chances)]), hold_frames)
