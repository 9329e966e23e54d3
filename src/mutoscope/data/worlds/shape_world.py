"""`shapes`: a world that is told in words what to show. A caption and a seed determine every picture."""

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.data.worlds.shapes import DIRECTIONS, PLACES, SEEN, Told, blank, check_size, draw, told_by

PAUSE_FRAMES, SHOWN_FRAMES = 4, 4
PERIOD = PAUSE_FRAMES + SHOWN_FRAMES
STEPS_PER_SECOND = 8.0


class ShapeWorld(gymnasium.Env[np.ndarray, np.ndarray]):
    """Again and again: the ground alone for PAUSE_FRAMES, then the shapes for SHOWN_FRAMES, which move by a step per frame.

    They begin in another place every time. After a pause as long as a model's memory nothing but the words says what comes. `reset` draws
    what is told from the combinations that may be recorded, or takes the caption in its options; `tell` changes it, and what appears next
    is what was told last. `info` holds "caption".
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, *, height: int, width: int, frame_skip: int = 1, name: str = "shapes") -> None:
        check_size(height, width)
        if frame_skip != 1:
            raise ConfigError(f"{name} needs a frame skip of 1, got {frame_skip}")
        self.world = WorldSpec(name, height, width, STEPS_PER_SECOND, NO_ACTIONS)
        self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = gymnasium.spaces.Box(0.0, 1.0, (0,), np.float32)
        self.render_mode = "rgb_array"
        self.told = self.shown = SEEN[0]
        self.frame = self.seed = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin with the pause before the first appearance."""
        super().reset(seed=seed)
        self.seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        drawn = SEEN[int(numpy_stream(self.seed, "shape caption").integers(len(SEEN)))]
        self.told = told_by(options["caption"]) if options and "caption" in options else drawn
        self.frame, self.shown = 0, self.told
        return self.render(), self._info()

    def tell(self, caption: str) -> None:
        """What shall appear from the next appearance on."""
        self.told = told_by(caption)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """The next frame; no reward, no end."""
        self.frame += 1
        if self.frame % PERIOD < PAUSE_FRAMES:
            self.shown = self.told
        return self.render(), 0.0, False, False, self._info()

    def render(self) -> np.ndarray:
        """The true picture, uint8 RGB `[H, W, 3]`."""
        number, phase = divmod(self.frame, PERIOD)
        if phase < PAUSE_FRAMES:
            return blank(self.world.height, self.world.width)
        return draw(self.shown, self._place(self.shown, number, phase - PAUSE_FRAMES), self.world.height, self.world.width)

    def _place(self, told: Told, number: int, step: int) -> tuple[int, int]:
        """Where the wallpaper of appearance `number` stands after `step` steps."""
        first, (down, across) = numpy_stream(self.seed, "shape place", number).integers(PLACES, size=2), DIRECTIONS[told.direction]
        return int(first[0] + step * down) % PLACES, int(first[1] + step * across) % PLACES

    def _info(self) -> dict:
        return {"caption": self.told.caption}


def make_shapes(name: str, *, height: int, width: int, frame_skip: int) -> ShapeWorld:
    """The world `shapes` with pictures of `height x width` pixels."""
    return ShapeWorld(height=height, width=width, frame_skip=frame_skip, name=name)
