"""Changes to a recipe from the command line: `model.dim=192 stages.codec.update.updates=100 memory=window=8`, checked like the recipe."""

import json
from collections.abc import Sequence
from typing import Any

from mutoscope.core.config import TAG, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.train.config import RunConfig


def override(run: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The run with every `path=value` applied; a path that does not exist or a value of a wrong type is a ConfigError."""
    plain = to_plain(run)
    for change in changes:
        path, equals, text = change.partition("=")
        if not equals or not path:
            raise ConfigError(f"'{change}' is not a change; write it like model.dim=192 or stages.codec.update.updates=100")
        *outer, last = path.split(".")
        place = plain
        for name in outer:
            place = _enter(place, name, path)
        before = _enter(place, last, path)
        if isinstance(place, list):
            raise ConfigError(f"'{path}' is a whole stage; name one of its keys: {', '.join(_known(before))}")
        place[last] = _memory(text) if last == "memory" else _value(text)
    return from_plain(RunConfig, plain, "recipe")


def _enter(place: Any, name: str, path: str) -> Any:
    """One step down: a key of a table, or the stage of that name in a list."""
    table = {item["name"]: item for item in place if "name" in item} if isinstance(place, list) else place
    if not isinstance(table, dict) or name not in table:
        raise ConfigError(f"unknown key '{name}' in '{path}'; known there: {', '.join(_known(table)) or 'none, it is a value'}")
    return table[name]


def _known(table: Any) -> list[str]:
    return [key for key in table if key != TAG] if isinstance(table, dict) else []


def _memory(text: str) -> Any:
    """A memory policy as it is written for play (`window=8`, `retrieval=4,window=8`), or what `_value` makes of it."""
    from mutoscope.commands.checkpoints import parse_policy

    value = _value(text)
    return to_plain(parse_policy(text)) if isinstance(value, str) and "=" in text else value


def _value(text: str) -> Any:
    """JSON where it is JSON (numbers, true, null, lists), otherwise the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
