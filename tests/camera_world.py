"""A world with a camera, keys that undo each other and walls, small enough to work out by hand: 10 degrees or units a frame."""

import gymnasium
import numpy as np

from mutoscope.core.world import ActionSpec, WorldSpec

HEIGHT, WIDTH, COLUMNS = 16, 24, 72
FIRST_DEGREES, DEGREES, UNITS = 5.0, 10.0, 10.0


class CameraWorld(gymnasium.Env):
    """A panorama that is random per episode, seen at an angle, the darker the farther one walked. A turn is slow in its first frame.

    `wall`: nobody gets farther from the middle than this. `limping`: share of the episodes in which walking backward is slower, so that
    they do not come back; which ones, `limps` says.
    """

    def __init__(self, wall: float = 1000.0, limping: float = 0.0) -> None:
        actions = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
        self.world = WorldSpec("camera", HEIGHT, WIDTH, 10.0, actions, ("x", "y", "angle"))
        self.action_space = gymnasium.spaces.MultiBinary(4)
        self.observation_space = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        self.wall, self.limping = wall, limping

    def limps(self, seed: int) -> bool:
        """Whether walking backward is slower in this episode."""
        return bool(np.random.default_rng(seed).random() < self.limping)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """The same seed begins the same episode."""
        super().reset(seed=seed)
        self.slow = self.limps(seed or 0)
        generator = np.random.default_rng((seed or 0, 1))
        self.panorama = generator.integers(60, 256, (HEIGHT // 4, COLUMNS // 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
        self.place, self.angle, self.held = np.zeros(2), float(generator.integers(COLUMNS) * 5), 0
        return self.render(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Turn and walk."""
        forward, backward, left, right = (float(key) for key in action)
        self.held = self.held + 1 if left != right else 0
        self.angle = (self.angle + (left - right) * (FIRST_DEGREES if self.held == 1 else DEGREES)) % 360
        heading = np.deg2rad(self.angle)
        step = UNITS * (forward - backward * (0.5 if self.slow else 1.0))
        wanted = self.place + step * np.array([np.cos(heading), np.sin(heading)])
        if np.linalg.norm(wanted) <= self.wall:
            self.place = wanted
        return self.render(), 0.0, False, False, self._info()

    def render(self) -> np.ndarray:
        """The view, uint8 `[16, 24, 3]`."""
        columns = (np.arange(WIDTH) - round(self.angle / 360 * COLUMNS)) % COLUMNS
        return (self.panorama[:, columns] / (1 + np.linalg.norm(self.place) / 100)).astype(np.uint8)

    def _info(self) -> dict:
        return {"pose": np.array([*self.place, self.angle], np.float32)}


def make_camera(name: str, *, height: int, width: int, frame_skip: int) -> CameraWorld:
    """The world as a registry makes it."""
    return CameraWorld()
