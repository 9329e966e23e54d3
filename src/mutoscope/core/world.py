"""What a world is, as plain data: its pictures, its clock, its actions. Shared by data, models, evaluation and play."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mutoscope.core.errors import ConfigError

ActionKind = Literal["discrete", "multi_binary", "box", "none"]
Beginning = Literal["real frames", "nothing"]
"""What a generated world goes on from: committed real frames, or nothing, as a text-to-video model does."""
# Frames that every clip has before its first generated chunk, at least.
FIRST_CONTEXT: dict[Beginning, int] = {"real frames": 1, "nothing": 0}


@dataclass(frozen=True)
class ActionSpec:
    """The actions of a world and how they become one float vector per pixel frame.

    discrete      `names` are the choices; the vector is one-hot, of size len(names)
    multi_binary  `names` are buttons, any of which may be held; the vector holds 0 or 1 each
    box           `names` are axes; the vector holds the values, scaled from [low, high] to [-1, 1]
    none          nothing is pressed: the world is told what to show in words; the vector is empty (NO_ACTIONS)

    The vector of a frame without action (row 0 of an episode) is all zeros and is marked "not known".
    """

    kind: ActionKind
    names: tuple[str, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "none") != (not self.names) or len(set(self.names)) != len(self.names):
            raise ConfigError(f"action names must be distinct and at least one (none for kind 'none'), got {self.names} for '{self.kind}'")
        if self.kind == "box" and not (len(self.low) == len(self.high) == len(self.names)):
            raise ConfigError("a box action needs one low and one high per name")
        if self.kind == "box" and not (np.isfinite((self.low, self.high)).all() and np.less(self.low, self.high).all()):
            raise ConfigError(
                f"box limits must be finite with low < high, got {self.low} to {self.high}; wrap the environment to bound them"
            )

    @property
    def dim(self) -> int:
        """Size of the action vector."""
        return len(self.names)

    def encode(self, action: object) -> np.ndarray:
        """Gymnasium action (int, 0/1 array, or floats) -> float32 `[dim]`."""
        if self.kind == "discrete":
            index = int(np.asarray(action))
            if not 0 <= index < self.dim:
                raise ConfigError(f"action {index} is outside 0..{self.dim - 1} ({', '.join(self.names)})")
            return np.eye(self.dim, dtype=np.float32)[index]
        values = np.asarray(action, dtype=np.float32).reshape(-1)
        if values.shape != (self.dim,):
            raise ConfigError(f"an action has {values.size} values; it must have {self.dim} ({', '.join(self.names)})")
        if self.kind == "box":
            low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
            return (2 * (values - low) / (high - low) - 1).astype(np.float32)
        return (values > 0.5).astype(np.float32)

    def decode(self, vector: np.ndarray) -> object:
        """The inverse of `encode`: float `[dim]` -> what `env.step` takes."""
        vector = np.asarray(vector, dtype=np.float32).reshape(-1)
        if vector.shape != (self.dim,):
            raise ConfigError(f"an action vector has {vector.size} values; it must have {self.dim}")
        if self.kind == "discrete":
            return int(vector.argmax())
        if self.kind == "box":
            low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
            return ((vector + 1) / 2 * (high - low) + low).astype(np.float32)
        return (vector > 0.5).astype(np.int8)

    def vector(self, text: str) -> np.ndarray:
        """Names joined by "+" -> float32 `[dim]`; "stand" (or "") presses nothing: `vector("forward+turn_left")`."""
        names = [name for name in text.split("+") if name and name != "stand"]
        unknown = [name for name in names if name not in self.names]
        if unknown or (not names and self.kind == "discrete" and "stand" not in self.names):
            raise ConfigError(f"unknown action '{text}'; known: {', '.join(('stand', *self.names))}, joined by '+'")
        vector = np.zeros(self.dim, dtype=np.float32)
        if self.kind == "discrete":
            names = names or ["stand"]
            if len(names) > 1:
                raise ConfigError(f"'{text}': this world takes one action at a time; known: {', '.join(self.names)}")
        for name in names:
            vector[self.names.index(name)] = 1.0
        return vector


# Of a world that is told what to show in words alone, such as a text-to-video model.
NO_ACTIONS = ActionSpec("none", ())


@dataclass(frozen=True)
class WorldSpec:
    """A world's name, picture size (pixels), content rate (pixel frames per second) and actions."""

    name: str
    height: int
    width: int
    content_rate: float
    actions: ActionSpec
    pose_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.content_rate <= 0:
            raise ConfigError(f"a world needs a positive size and rate, got {self.height}x{self.width} at {self.content_rate}")
