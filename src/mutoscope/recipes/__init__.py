"""Recipes: functions that return one complete, frozen run configuration."""

from collections.abc import Callable

from mutoscope.core.errors import choose
from mutoscope.recipes.doom import doom, doom_basic, doom_cover, doom_wing
from mutoscope.recipes.ring import ring
from mutoscope.recipes.scroll import scroll, scroll_chunk, scroll_smoke
from mutoscope.recipes.shapes import shapes
from mutoscope.recipes.wan import wan_1_3b, wan_1_3b_camera, wan_14b
from mutoscope.train.config import RunConfig

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "doom": doom,
    "doom-basic": doom_basic,
    "doom-cover": doom_cover,
    "doom-wing": doom_wing,
    "ring": ring,
    "scroll": scroll,
    "scroll-chunk": scroll_chunk,
    "scroll-smoke": scroll_smoke,
    "shapes": shapes,
    "wan-1.3b": wan_1_3b,
    "wan-1.3b-camera": wan_1_3b_camera,
    "wan-14b": wan_14b,
}


def recipe(name: str) -> RunConfig:
    """The run configuration of that name."""
    return choose(RECIPES, name, "recipe")()
