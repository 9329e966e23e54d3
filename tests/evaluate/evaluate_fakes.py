"""A camera that turns inside a painted ring, a scroll data set, and candidates that are perfect, frozen or noise."""

from pathlib import Path

import numpy as np

from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.worlds.tile_worlds import TileWorld
from mutoscope.data.writer import DatasetWriter
from mutoscope.evaluate.candidates import Advance, Given

HEIGHT, WIDTH, DEGREES = 48, 64, 2.0
PIXELS_PER_DEGREE = 2
CAMERA = WorldSpec("ring", HEIGHT, WIDTH, 17.5, ActionSpec("multi_binary", ("turn_left", "turn_right")), ("x", "y", "z", "angle"))


def painted_ring() -> np.ndarray:
    """A smooth random panorama of 360 degrees, uint8 `[48, 720, 3]`."""
    picture = np.random.default_rng(7).random((HEIGHT, 360 * PIXELS_PER_DEGREE, 3))
    for axis in (0, 1):
        picture = sum(np.roll(picture, shift, axis=axis) for shift in range(-3, 4)) / 7
    picture = (picture - picture.min()) / (picture.max() - picture.min())
    return (255 * picture).astype(np.uint8)


RING = painted_ring()


def view(angle: float) -> np.ndarray:
    """What the camera sees at `angle` degrees; turning left moves the picture to the right."""
    columns = (np.arange(WIDTH) - round(angle * PIXELS_PER_DEGREE)) % RING.shape[1]
    return RING[:, columns]


def angles_after(angle: float, actions: np.ndarray) -> np.ndarray:
    """Angles after each action `[n, 2]`."""
    return angle + DEGREES * (actions[:, 0] - actions[:, 1]).cumsum()


def camera_actions(seed: int, num_frames: int) -> np.ndarray:
    """Turns held for four frames; row 0 is no action."""
    drawn = np.random.default_rng(seed).integers(0, 3, size=num_frames // 4 + 1).repeat(4)[:num_frames]
    actions = np.stack([drawn == 0, drawn == 1], axis=1).astype(np.float32)
    actions[0] = 0
    return actions


def camera_episode(seed: int, num_frames: int) -> dict[str, np.ndarray]:
    """Frames, actions and pose of one episode."""
    actions = camera_actions(seed, num_frames)
    angles = angles_after(37.0 * seed, actions)
    pose = np.zeros((num_frames, 4), np.float32)
    pose[:, 3] = angles % 360
    return {"frames": np.stack([view(angle) for angle in angles]), "actions": actions, "pose": pose}


def camera_dataset(path: Path, episodes: int = 6, num_frames: int = 48) -> ClipDataset:
    """A data set with a pose."""
    with DatasetWriter(path, CAMERA) as writer:
        for seed in range(episodes):
            writer.add(camera_episode(seed, num_frames), seed=seed)
        writer.close()
    return open_dataset(path)


def scroll_episode(seed: int, num_frames: int) -> dict[str, np.ndarray]:
    """Frames, actions, tiles and position of one episode of `scroll`."""
    world, generator = TileWorld(height=32, width=32), np.random.default_rng(seed)
    frame, info = world.reset(seed=seed)
    rows = [(frame, np.zeros(5, np.float32), info)]
    for _ in range(num_frames - 1):
        action = int(generator.integers(5))
        frame, *_, info = world.step(action)
        rows.append((frame, np.eye(5, dtype=np.float32)[action], info))
    frames, actions, infos = zip(*rows, strict=True)
    stacked = {name: np.stack([info[name] for info in infos]) for name in ("tiles", "position")}
    return {"frames": np.stack(frames), "actions": np.stack(actions), **stacked}


def scroll_dataset(path: Path, episodes: int = 4, num_frames: int = 32) -> ClipDataset:
    """A data set with tiles and position."""
    with DatasetWriter(path, TileWorld(height=32, width=32).world) as writer:
        for seed in range(episodes):
            writer.add(scroll_episode(seed, num_frames), seed=seed)
        writer.close()
    return open_dataset(path)


class Oracle:
    """Knows the ring: finds the angle of the last frame, then turns exactly as told (`mirrored`: the other way round)."""

    def __init__(self, mirrored: bool = False) -> None:
        self.sign = -1 if mirrored else 1
        self.angle_of = {view(half / PIXELS_PER_DEGREE).tobytes(): half / PIXELS_PER_DEGREE for half in range(360 * PIXELS_PER_DEGREE)}

    def __call__(self, given: Given, seed: int, advance: Advance) -> np.ndarray:
        """The true continuation."""
        advance(given.actions.shape[1])
        rows = zip(given.frames, given.actions, strict=True)
        angles = [angles_after(self.angle_of[clip[-1].tobytes()], self.sign * row) for clip, row in rows]
        return np.stack([np.stack([view(angle) for angle in row]) for row in angles])


def noise(given: Given, seed: int, advance: Advance) -> np.ndarray:
    """Random pixels."""
    shape = (len(given.frames), given.actions.shape[1], *given.frames.shape[2:])
    return np.random.default_rng(seed).integers(0, 256, size=shape, dtype=np.uint8)


def mean_features(clips: np.ndarray) -> np.ndarray:
    """A cheap stand-in for a video network: colour means, their spread, and mean change, `[clips, 8]`."""
    unit = clips.astype(np.float32) / 255
    change = np.abs(np.diff(unit, axis=1)).mean(axis=(1, 2, 3, 4)) if clips.shape[1] > 1 else np.zeros(len(clips), np.float32)
    halves = [unit[..., : WIDTH // 2, 0].mean(axis=(1, 2, 3)), change]
    return np.concatenate([unit.mean(axis=(1, 2, 3)), unit.std(axis=(1, 2, 3)), np.stack(halves, axis=1)], axis=1)
