"""The worlds that can be recorded, by name. The only place where a world's name decides anything."""

import importlib
from typing import TYPE_CHECKING

from mutoscope.core.errors import ConfigError, choose, optional_import
from mutoscope.core.world import WorldSpec

if TYPE_CHECKING:
    import gymnasium

DOOM, SCROLL, RING, SHAPES, GYMNASIUM = (
    "mutoscope.data.worlds.doom:make_doom",
    "mutoscope.data.worlds.tile_worlds:make_scroll",
    "mutoscope.data.worlds.tile_worlds:make_ring",
    "mutoscope.data.worlds.shape_world:make_shapes",
    "mutoscope.data.worlds.gym:make_gym",
)
WORLDS = {"doom": DOOM, "doom-basic": DOOM, "doom-cover": DOOM, "doom-gathering": DOOM, "doom-wing": DOOM, "scroll": SCROLL, "ring": RING}
WORLDS |= {"shapes": SHAPES}
ANY_GYMNASIUM = "gym:"
# Worlds that are told in words what to show, and where all that they understand stands.
PROMPTS = {"shapes": "mutoscope.data.worlds.shapes:CAPTIONS"}


def make_world(name: str, *, height: int, width: int, frame_skip: int = 2) -> "gymnasium.Env":
    """The world `name` of WORLDS, or any registered Gymnasium environment as "gym:CartPole-v1"."""
    optional_import("gymnasium", package="gymnasium", extra="record")
    is_gymnasium = name.startswith(ANY_GYMNASIUM)
    place = GYMNASIUM if is_gymnasium else choose(WORLDS, name, "world")
    module, _, maker = place.partition(":")
    make = vars(importlib.import_module(module))[maker]
    return make(name.removeprefix(ANY_GYMNASIUM), height=height, width=width, frame_skip=frame_skip)


def world_prompts(name: str) -> tuple[str, ...]:
    """All captions that the world `name` understands, those that are never recorded among them; none for a world without text."""
    if name not in PROMPTS:
        return ()
    module, _, captions = PROMPTS[name].partition(":")
    return vars(importlib.import_module(module))[captions]


def make_world_like(spec: WorldSpec) -> "gymnasium.Env":
    """The real world that `spec` describes, at the frame skip that gives its rate; a ConfigError where it is another one by now."""
    env = make_world(spec.name, height=spec.height, width=spec.width, frame_skip=1)
    frame_skip = max(1, round(env.unwrapped.world.content_rate / spec.content_rate))
    if frame_skip > 1:
        env.close()
        env = make_world(spec.name, height=spec.height, width=spec.width, frame_skip=frame_skip)
    if env.unwrapped.world != spec:
        env.close()
        raise ConfigError(f"the world {spec.name} is {env.unwrapped.world} here; asked for {spec}")
    return env
