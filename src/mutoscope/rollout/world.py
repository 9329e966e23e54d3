"""A learned world with the interface of a real one: a gymnasium.Env. Player, recorder and evaluator do not know which they hold."""

from typing import Any

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec
from mutoscope.models.checkpoint import Checkpoint
from mutoscope.rollout.session import Session, SessionConfig


def action_space(spec: ActionSpec) -> gymnasium.Space:
    """The Gymnasium space of an action spec."""
    if spec.kind == "discrete":
        return gymnasium.spaces.Discrete(spec.dim)
    if spec.kind == "multi_binary":
        return gymnasium.spaces.MultiBinary(spec.dim)
    return gymnasium.spaces.Box(np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32), dtype=np.float32)


class LearnedWorld(gymnasium.Env):
    """`reset(seed, options={"start": k})` begins from real context; `step(action)` gives the next picture, uint8 `[H, W, 3]`.

    Where worlds begin from nothing they do so here, unless a start is named.

    The reward is always 0 and no episode ends by itself. Only frame-wise checkpoints answer each action with one picture.
    """

    def __init__(self, checkpoint: Checkpoint, config: SessionConfig) -> None:
        if checkpoint.manifest.chunk_frames != 1 or checkpoint.codec.temporal_stride != 1:
            raise ConfigError("an environment answers one action with one picture; give a frame-wise checkpoint (chunk_frames 1)")
        self.session = Session(checkpoint, config)
        spec = self.session.world
        self.world_spec = spec
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": spec.content_rate}
        self.render_mode = "rgb_array"
        self.observation_space = gymnasium.spaces.Box(0, 255, (spec.height, spec.width, 3), np.uint8)
        self.action_space = action_space(spec.actions)
        self.picture = np.zeros((spec.height, spec.width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin again; options may name the start clip, otherwise the seed draws it; None where the world begins from nothing."""
        super().reset(seed=seed)
        checkpoint = self.session.checkpoint
        count = 1 if checkpoint.starts is None else len(checkpoint.starts.frames)
        drawn = int(self.np_random.integers(count))
        start = None if checkpoint.manifest.beginning == "nothing" else drawn
        if options is not None and "start" in options:
            start = int(options["start"])
        self.picture = self.session.reset(start, int(self.np_random.integers(2**31)))[-1]
        return self.picture.copy(), {"start": start}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """The next picture under an action of `action_space`."""
        self.picture = self.session.step(self.session.world.actions.encode(action))[-1]
        return self.picture.copy(), 0.0, False, False, {"frame": self.session.num_frames - 1}

    def render(self) -> np.ndarray:
        """The newest picture."""
        return self.picture.copy()
