"""How an evaluation is done: one frozen value, saved with its results."""

from dataclasses import dataclass
from typing import Literal

from mutoscope.core.errors import ConfigError

Part = Literal["fidelity", "following", "tiles", "frechet", "stability"]
PARTS: tuple[Part, ...] = ("fidelity", "following", "tiles", "frechet", "stability")


@dataclass(frozen=True)
class EvaluateConfig:
    """Held-out clips, horizons (generated frames), noise seeds, long play, and the bootstrap.

    `parts` that a data set has no arrays for (pose: following; tiles and position: tiles) are left out and named in the report.
    `steps` are the step counts of students, or "trained": each one's own. `memory_frames` is how far back tiles count as seen.
    Motion is calibrated on about `calibration_frames` real frames for each of two folds of the episodes.
    """

    parts: tuple[Part, ...] = PARTS
    episodes: int = 32
    clips_per_episode: int = 2
    context_frames: int = 4
    horizons: tuple[int, ...] = (8, 16, 32)
    compared_frames: int = 8
    steps: tuple[int, ...] | Literal["trained"] = "trained"
    guidance: float = 1.0
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 16
    memory_frames: int = 16
    calibration_frames: int = 3000
    stability_frames: int = 1000
    stability_window: int = 100
    stability_seeds: int = 20
    bootstrap_repeats: int = 1000
    frechet_repeats: int = 200
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        numbers = (self.clips_per_episode, self.context_frames, self.compared_frames, self.batch_size, self.stability_seeds)
        if min(*numbers, self.bootstrap_repeats, self.frechet_repeats, self.memory_frames, self.calibration_frames) < 1:
            raise ConfigError("every count of an evaluation must be at least 1")
        if self.episodes < 2:
            raise ConfigError(f"an evaluation needs at least 2 episodes for its intervals, got {self.episodes}")
        if not self.horizons or min(self.horizons) < 1 or not self.seeds or not self.parts:
            raise ConfigError("an evaluation needs at least one part, one seed and one horizon of 1 frame or more")
        if not 2 <= self.stability_window <= self.stability_frames:
            raise ConfigError(f"windows of {self.stability_window} frames do not fit into {self.stability_frames} frames of play")

    @property
    def length(self) -> int:
        """Frames to generate per clip."""
        return max(*self.horizons, self.compared_frames)

    @property
    def columns(self) -> tuple[int, ...]:
        """Horizons of the comparisons: every frame up to `compared_frames`, then the horizons."""
        return tuple(sorted({*range(1, self.compared_frames + 1), *self.horizons}))
