"""Small data sets on disk whose every row says which row it is."""

from pathlib import Path

import numpy as np

from fakes import ACTIONS, WORLD
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import WorldSpec
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter


def write_clips(path: Path, *, seed: int = 0, episodes: int = 3, frames: int = 18, world: WorldSpec = WORLD) -> ClipDataset:
    """Episodes of random pictures; row k of episode e has a first pixel of 10 e + k, and the action that led to it says the same."""
    with DatasetWriter(path, world, seed=seed) as writer:
        for episode in range(episodes):
            noise = numpy_stream(seed, "pictures", episode)
            pictures = noise.integers(0, 256, (frames, world.height, world.width, 3), dtype=np.uint8)
            pictures[:, 0, 0] = (10 * episode + np.arange(frames))[:, None]
            actions = np.zeros((frames, ACTIONS.dim), np.float32)
            actions[1:, 0] = (10 * episode + np.arange(frames))[1:]
            actions[1:, 1] = noise.integers(0, 2, frames - 1)
            writer.add({"frames": pictures, "actions": actions})
    return open_dataset(path)
