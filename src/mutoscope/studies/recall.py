"""How long does a world remember what left the view? Recall against the frames looked away, beside chance and what needs no memory.

    mutoscope recall runs/ring/autoregressive runs/ring/matching-2 --away 8 16 32 64 --output results/ring/recall
    mutoscope recall doom-cover/matching-2 --memory window=8 sink=2,window=6 --output results/doom-cover/recall

In worlds of tiles the landmarks are counted, exactly (studies.tile_recall); in worlds with a camera whose pose is known, the frame on
return is compared with the true one (studies.camera_recall). Every candidate is a checkpoint under a memory policy.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mutoscope.core.config import to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.core.files import portable
from mutoscope.core.world import WorldSpec
from mutoscope.evaluate.recall import Truth
from mutoscope.evaluate.revisit import Bounds
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.rollout.generate import generate
from mutoscope.rollout.session import SessionConfig

BOOTSTRAP_REPEATS = 1000


@dataclass(frozen=True)
class Candidate:
    """A checkpoint as it is played, under the name that tables and pictures give it."""

    label: str
    checkpoint: Checkpoint
    config: SessionConfig

    def plain(self) -> dict:
        """What it is, for a results file: with the bytes of its memory."""
        manifest, model = self.checkpoint.manifest, self.checkpoint.model.config
        return {
            "label": self.label,
            "checkpoint": portable(self.checkpoint.path),
            "weights": self.checkpoint.hash,
            "steps": self.config.steps,
            "memory": to_plain(self.config.policy),
            "memory_bytes": model.cache(self.config.policy, manifest.chunk_frames).bytes(),
            "clip_frames": manifest.clip_frames,
        }


@dataclass(frozen=True)
class RecallOptions:
    """What is asked: frames away, leading turns, episodes; where there is a camera also the ways, the look, and which episodes count."""

    away: tuple[int, ...] = (16, 32, 64, 128)
    lead: int = 16
    episodes: int = 32
    seed: int = 1_000_003
    ways: tuple[str, ...] = ("look", "turn", "leave")
    look: int = 4
    settle: int = 16
    bounds: Bounds = Bounds()


def dream(checkpoint: Checkpoint, config: SessionConfig, truth: Truth, progress: Callable[[int], None]) -> np.ndarray:
    """What a checkpoint shows after the real context, under the true actions: uint8 `[episode, T - context, H, W, 3]`."""
    context = truth.context
    return generate(
        checkpoint,
        config,
        frames=truth.frames[:, :context],
        context_actions=truth.actions[:, :context],
        known=np.broadcast_to(np.arange(context) > 0, truth.frames.shape[:1] + (context,)),
        actions=truth.actions[:, context:],
        progress=progress,
    )


def common_world(candidates: Sequence[Candidate]) -> WorldSpec:
    """The world of all candidates; a ConfigError if they are of several, or if two have one name."""
    worlds = {candidate.checkpoint.manifest.world for candidate in candidates}
    labels = [candidate.label for candidate in candidates]
    if len(worlds) != 1:
        raise ConfigError(
            f"recall is compared within one world; these are of {', '.join(sorted(world.name for world in worlds)) or 'none'}"
        )
    if len(set(labels)) != len(labels):
        raise ConfigError(f"two candidates have one name: {', '.join(labels)}")
    return worlds.pop()
