"""Any Gymnasium environment that gives images, as a world."""

from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.worlds.picture import scale

DEFAULT_RATE = 30.0


@runtime_checkable
class KnowsItsWorld(Protocol):
    """An environment that already says what it is: pictures of the right size, one per content frame."""

    world: WorldSpec


class ImageWorld(gymnasium.Env[np.ndarray, Any]):
    """Pictures from rgb observations or else from `render()`, scaled; every action is held for `frame_skip` steps."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, env: gymnasium.Env, *, name: str, height: int, width: int, frame_skip: int) -> None:
        if not _has_pictures(env):
            raise ConfigError(f"'{name}' gives no pictures: it needs rgb observations, or make it with render_mode='rgb_array'")
        rate = float(env.metadata.get("render_fps", DEFAULT_RATE))
        self.world = WorldSpec(name, height, width, rate / frame_skip, action_spec(env.action_space, name))
        self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = env.action_space
        self.render_mode = "rgb_array"
        self._env, self._frame_skip = env, frame_skip
        self._image = np.zeros((height, width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode of the environment within."""
        super().reset(seed=seed)
        observation, _ = self._env.reset(seed=seed, options=options)
        return self._see(observation), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Hold `action` for `frame_skip` steps or until the episode ends; rewards are summed."""
        total = 0.0
        for _ in range(self._frame_skip):
            observation, reward, terminated, truncated, _ = self._env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return self._see(observation), total, bool(terminated), bool(truncated), {}

    def render(self) -> np.ndarray:
        """The current picture, uint8 RGB `[H, W, 3]`."""
        return self._image

    def close(self) -> None:
        """Close the environment within."""
        self._env.close()

    def _see(self, observation: Any) -> np.ndarray:
        picture = observation if _is_picture(self._env.observation_space) else self._env.render()
        self._image = scale(np.asarray(picture, np.uint8), self.world.height, self.world.width)
        return self._image


def adapt(env: gymnasium.Env, *, name: str, height: int, width: int, frame_skip: int) -> gymnasium.Env:
    """An environment that knows its world is taken as it is; any other is wrapped in `ImageWorld`."""
    if isinstance(env.unwrapped, KnowsItsWorld):
        return env
    return ImageWorld(env, name=name, height=height, width=width, frame_skip=frame_skip)


def world_spec(env: gymnasium.Env) -> WorldSpec:
    """What an adapted environment is."""
    if not isinstance(env.unwrapped, KnowsItsWorld):
        raise ConfigError(f"{env} has no attribute 'world'; wrap it with mutoscope.data.worlds.gym.adapt first")
    return env.unwrapped.world


def make_gym(name: str, *, height: int, width: int, frame_skip: int) -> ImageWorld:
    """The registered Gymnasium environment `name`, drawn with render_mode="rgb_array"; ConfigError when unknown."""
    try:
        env = gymnasium.make(name, render_mode="rgb_array")
    except gymnasium.error.Error as error:
        raise ConfigError(f"Gymnasium cannot make '{name}': {error}") from error
    return ImageWorld(env, name=name, height=height, width=width, frame_skip=frame_skip)


def action_spec(space: gymnasium.Space, name: str) -> ActionSpec:
    """Discrete, multi-binary or flat box -> ActionSpec with numbered names; ConfigError for other spaces."""
    if isinstance(space, gymnasium.spaces.Discrete) and int(space.start) == 0:
        return ActionSpec("discrete", tuple(f"action{index}" for index in range(int(space.n))))
    if isinstance(space, gymnasium.spaces.MultiBinary) and len(space.shape) == 1:
        return ActionSpec("multi_binary", tuple(f"button{index}" for index in range(space.shape[0])))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1 and space.is_bounded():
        names = tuple(f"axis{index}" for index in range(space.shape[0]))
        return ActionSpec("box", names, tuple(map(float, space.low)), tuple(map(float, space.high)))
    raise ConfigError(f"'{name}' has actions {space}; allowed: Discrete from 0, MultiBinary(n), or a bounded Box of one dimension")


def _has_pictures(env: gymnasium.Env) -> bool:
    return _is_picture(env.observation_space) or env.render_mode == "rgb_array"


def _is_picture(space: gymnasium.Space) -> bool:
    return isinstance(space, gymnasium.spaces.Box) and space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[2] == 3
