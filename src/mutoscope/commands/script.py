"""Action scripts: `forward*20,left*10` is twenty frames forward, then ten turning left."""

import difflib

import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec

MAX_FRAMES = 100_000


def parse_script(text: str, actions: ActionSpec) -> np.ndarray:
    """A script -> float32 `[frames, dim]`.

    Items stand between commas; an item is action names joined by "+", then optionally "*" and a number of frames.
    "stand" presses nothing. A name may be the last part of one longer name: "left" for "turn_left".
    """
    items = [item.strip() for item in text.split(",")]
    rows = [_parse_item(item, place, actions) for place, item in enumerate(items, start=1)]
    script = np.concatenate(rows)
    if len(script) > MAX_FRAMES:
        raise ConfigError(f"the action script is {len(script)} frames long; at most {MAX_FRAMES} are allowed")
    return script


def _parse_item(item: str, place: int, actions: ActionSpec) -> np.ndarray:
    names, star, count = item.partition("*")
    frames = _parse_count(item, count.strip(), place) if star else 1
    full = "+".join(_full_name(name.strip(), item, place, actions) for name in names.split("+"))
    try:
        vector = actions.vector(full)
    except ConfigError as error:
        raise ConfigError(f"action script, item {place} '{item}': {error}") from error
    return np.repeat(vector[None], frames, axis=0)


def _parse_count(item: str, count: str, place: int) -> int:
    if not (count.isascii() and count.isdigit() and len(count) <= 6 and 1 <= int(count) <= MAX_FRAMES):
        raise ConfigError(
            f"action script, item {place} '{item}': after '*' stands a number of frames from 1 to {MAX_FRAMES}, not '{count}'"
        )
    return int(count)


def _full_name(name: str, item: str, place: int, actions: ActionSpec) -> str:
    if name == "stand" or name in actions.names:
        return name
    endings = [known for known in actions.names if known.endswith(f"_{name}")] if name else []
    if len(endings) == 1:
        return endings[0]
    known = ("stand", *(known for known in actions.names if known != "stand"))
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.45)
    hint = f" (did you mean '{nearest[0]}'?)" if nearest else ""
    raise ConfigError(
        f"action script, item {place} '{item}': unknown action '{name}'{hint}; known: {', '.join(known)}; "
        "write it like 'forward*20,left*10' or 'forward+left*5'"
    )
