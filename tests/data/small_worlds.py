"""Tiny worlds and data sets for the tests of this room."""

from pathlib import Path

import gymnasium
import numpy as np

from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds.tile_worlds import TileWorld
from mutoscope.data.writer import DatasetWriter

WORLD = WorldSpec("counting", 4, 6, 10.0, ActionSpec("multi_binary", ("left", "right")))


def counting_episode(episode: int, num_frames: int) -> dict[str, np.ndarray]:
    """Frame k of episode e holds the number 10 e + k in every pixel."""
    values = (10 * episode + np.arange(num_frames)).astype(np.uint8)
    frames = np.broadcast_to(values[:, None, None, None], (num_frames, 4, 6, 3)).copy()
    actions = np.stack([np.arange(num_frames) % 2, np.zeros(num_frames)], axis=1).astype(np.float32)
    return {"frames": frames, "actions": actions}


def counting_dataset(path: Path, lengths: tuple[int, ...], shard_bytes: int = 300) -> ClipDataset:
    """Counting episodes of the given lengths in small shards."""
    with DatasetWriter(path, WORLD, shard_bytes=shard_bytes) as writer:
        for episode, length in enumerate(lengths):
            writer.add(counting_episode(episode, length))
    return open_dataset(path)


def scroll_options(**changes: int) -> RecordOptions:
    """Options for a few short episodes of scroll."""
    sizes = {"episodes": 4, "frames_per_episode": 20, "height": 16, "width": 16, "frame_skip": 1, "seed": 3, **changes}
    return RecordOptions(world="scroll", **sizes)


def scroll_dataset(path: Path, **changes: int) -> ClipDataset:
    """A recorded scroll data set."""
    options = scroll_options(**changes)
    record(lambda: TileWorld(height=options.height, width=options.width), path, options)
    return open_dataset(path)


class Torch(gymnasium.Env[np.ndarray, np.ndarray]):
    """A foreign environment: brightness is the sum of the actions so far; pictures through render() only."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, action_space: gymnasium.Space, *, render_mode: str | None = "rgb_array", length: int = 1000) -> None:
        self.action_space, self.render_mode, self._length = action_space, render_mode, length
        self._steps, self._sum = 0, 0.0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._steps, self._sum = 0, 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._steps += 1
        self._sum += float(np.sum(action))
        return np.zeros(1, np.float32), 1.0, self._steps >= self._length, False, {}

    def render(self) -> np.ndarray:
        return np.full((12, 16, 3), int(100 + self._sum) % 256, np.uint8)
