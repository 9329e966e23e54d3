"""From keys to actions: which key holds which name, and what a set of held names means to a world."""

import numpy as np

from mutoscope.core.world import ActionSpec
from mutoscope.data.worlds.keys import OPPOSITES

# For each key of the page (KeyboardEvent.code): the names it may hold, the first that a world has.
PREFERENCES: dict[str, tuple[str, ...]] = {
    "KeyW": ("forward", "up"),
    "KeyA": ("left", "turn_left"),
    "KeyS": ("backward", "down"),
    "KeyD": ("right", "turn_right"),
    "ArrowUp": ("look_up", "forward", "up"),
    "ArrowLeft": ("turn_left", "left"),
    "ArrowDown": ("look_down", "backward", "down"),
    "ArrowRight": ("turn_right", "right"),
    "KeyQ": ("turn_left",),
    "KeyE": ("turn_right",),
    "Space": ("jump", "fire", "attack"),
}
# Of worlds in which one can look up: a second hand on the keys beside each other, as minWM has them.
LOOKING = {"KeyI": "look_up", "KeyJ": "turn_left", "KeyK": "look_down", "KeyL": "turn_right"}
# Keys for the first axes of a box action: (code, sign), axis by axis.
AXIS_KEYS = (
    (("ArrowLeft", "-"), ("KeyA", "-"), ("ArrowRight", "+"), ("KeyD", "+")),
    (("ArrowDown", "-"), ("KeyS", "-"), ("ArrowUp", "+"), ("KeyW", "+")),
    (("KeyQ", "-"), ("KeyE", "+")),
)
RESTING = ("stand", "noop", "none")


def held_names(actions: ActionSpec) -> tuple[str, ...]:
    """What can be held down: a world's names, for an axis the name with "-" and "+"; doing nothing is no key."""
    if actions.kind == "box":
        return tuple(name + sign for name in actions.names for sign in "-+")
    return tuple(name for name in actions.names if name not in RESTING)


def bindings(actions: ActionSpec) -> dict[str, str]:
    """{KeyboardEvent.code: name that it holds}; names without a usual key get the digits in order."""
    if actions.kind == "box":
        return _axis_bindings(actions)
    names = held_names(actions)
    table = {code: next((name for name in wanted if name in names), "") for code, wanted in PREFERENCES.items()}
    # Q and E turn where A and D strafe; where A and D turn, a third key for it would only be clutter.
    table = {code: name for code, name in table.items() if name and not (code in ("KeyQ", "KeyE") and table["KeyA"] == "turn_left")}
    if set(LOOKING.values()) <= set(names):
        table |= LOOKING
    rest = [name for name in names if name not in table.values()]
    return table | {f"Digit{index}": name for index, name in enumerate(rest[:9], start=1)}


def _axis_bindings(actions: ActionSpec) -> dict[str, str]:
    pairs = zip(actions.names, AXIS_KEYS, strict=False)
    return {code: name + sign for name, keys in pairs for code, sign in keys}


def action_vector(actions: ActionSpec, held: tuple[str, ...]) -> np.ndarray:
    """Held names, oldest press first -> float32 `[dim]`; of opposites the newest counts, names unknown to the world do nothing."""
    known = held_names(actions)
    names = _newest_of_opposites(tuple(name for name in held if name in known))
    vector = np.zeros(actions.dim, dtype=np.float32)
    if actions.kind == "discrete":
        vector[_choice(actions, names)] = 1.0
        return vector
    for name in names:
        if actions.kind == "box":
            vector[actions.names.index(name[:-1])] = 1.0 if name[-1] == "+" else -1.0
        else:
            vector[actions.names.index(name)] = 1.0
    return vector


def _choice(actions: ActionSpec, names: tuple[str, ...]) -> int:
    """Index of the newest name; with nothing held the resting action, or the first where a world has none."""
    if names:
        return actions.names.index(names[-1])
    return next((actions.names.index(name) for name in RESTING if name in actions.names), 0)


def _newest_of_opposites(names: tuple[str, ...]) -> tuple[str, ...]:
    loses = {a: b for pair in OPPOSITES for a, b in (pair, pair[::-1])}
    return tuple(name for index, name in enumerate(names) if loses.get(name) not in names[index + 1 :])
