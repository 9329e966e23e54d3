"""The worlds that can be recorded, by name. The only place where a world's name decides anything."""

from typing import TYPE_CHECKING

from mutoscope.core.errors import choose, optional_import

if TYPE_CHECKING:
    import gymnasium

WORLDS = {
    "doom": "mutoscope.data.worlds.doom:make_doom",
    "doom-basic": "mutoscope.data.worlds.doom:make_doom",
    "doom-gathering": "mutoscope.data.worlds.doom:make_doom",
}


def make_world(name: str, *, height: int, width: int, frame_skip: int = 2) -> "gymnasium.Env":
    """The world `name` of WORLDS, or the registered Gymnasium environment with an id such as "gym:CartPole-v1"."""
    optional_import("gymnasium", package="gymnasium", extra="play")
    if name.startswith("gym:"):
        from mutoscope.data.worlds.gym import make_gym

        return make_gym(name.removeprefix("gym:"), height=height, width=width, frame_skip=frame_skip)
    module, _, maker = choose(WORLDS, name, "world").partition(":")
    make = vars(optional_import(module, package=module, extra="play"))[maker]
    return make(name, height=height, width=width, frame_skip=frame_skip)
