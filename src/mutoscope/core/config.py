"""A run is one frozen value: dataclasses to plain data and back, strictly.

Supported field types: str, int, float, bool, None, Literal, tuples, frozen dataclasses, and unions of
those. An unknown key, a missing key or a wrong type is a ConfigError that names the place.
"""

import dataclasses
import hashlib
import json
import types
import typing
from typing import Any, Literal, TypeVar, Union

from mutoscope.core.errors import ConfigError

T = TypeVar("T")
# The key that names a dataclass in plain data: a keyword of the language, so that no field can have that name.
TAG = "is"
# Metadata of a field that came after the first configurations were saved: `config_hash` leaves it out while it has its default, so that
# what those configurations are called stays as it was.
LATER = {"later": True}


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, tuples become lists; a dataclass carries its class name under "is"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {TAG: type(value).__name__, **{field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}}
    if isinstance(value, (tuple, list)):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(f"a configuration cannot hold a {type(value).__name__}: {value!r}")


def from_plain(kind: type[T], data: Any, where: str = "config") -> T:
    """The inverse of `to_plain`; fields with a default may be left out, unknown keys may not be there."""
    return _read(kind, data, where)


def added_later(default: T) -> T:
    """The default of a field that its dataclass did not have at first. With this default it stands for what was done before."""
    return dataclasses.field(default=default, metadata=LATER)


def config_hash(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of the canonical JSON of a configuration."""
    return hashlib.sha256(json.dumps(_without_later(value), sort_keys=True).encode()).hexdigest()[:16]


def _without_later(value: Any) -> Any:
    """`to_plain`, but for fields that were added later and have their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        kept = {field.name: _without_later(item) for field, item in named if "later" not in field.metadata or item != field.default}
        return {TAG: type(value).__name__, **kept}
    return [_without_later(item) for item in value] if isinstance(value, (tuple, list)) else to_plain(value)


def _read(kind: Any, data: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(kind), data, where)
    if origin is Literal:
        if data not in typing.get_args(kind):
            raise ConfigError(f"{where} is {data!r}; allowed: {', '.join(map(repr, typing.get_args(kind)))}")
        return data
    if origin is tuple:
        return _read_tuple(typing.get_args(kind), data, where)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if kind is type(None):
        kind = types.NoneType
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ConfigError(f"{where} is {data!r}; it must be of type {kind.__name__}")
    return data


def _read_union(kinds: tuple, data: Any, where: str) -> Any:
    if isinstance(data, dict) and TAG in data:
        tables = {kind.__name__: kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
        if data[TAG] not in tables:
            raise ConfigError(f"{where} is of kind {data[TAG]!r}; allowed: {', '.join(tables)}")
        return _read(tables[data[TAG]], data, where)
    reasons = []
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except ConfigError as error:
            reasons.append(str(error))
    raise ConfigError("; or: ".join(reasons))


def _read_tuple(kinds: tuple, data: Any, where: str) -> tuple:
    if not isinstance(data, (list, tuple)):
        raise ConfigError(f"{where} is {data!r}; it must be a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_read(kinds[0], item, f"{where}[{index}]") for index, item in enumerate(data))
    if len(kinds) != len(data):
        raise ConfigError(f"{where} has {len(data)} entries; it must have {len(kinds)}")
    return tuple(_read(kind, item, f"{where}[{index}]") for index, (kind, item) in enumerate(zip(kinds, data, strict=True)))


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {data!r}; it must be a table of {kind.__name__} fields")
    data = dict(data)
    named = data.pop(TAG, kind.__name__)
    if named != kind.__name__:
        raise ConfigError(f"{where} is of kind {named!r}; it must be {kind.__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(fields)):
        raise ConfigError(f"{where} has unknown keys {', '.join(unknown)}; known: {', '.join(fields)}")
    hints = typing.get_type_hints(kind)
    values = {name: _read(hints[name], item, f"{where}.{name}") for name, item in data.items()}
    missing = [name for name, field in fields.items() if name not in values and _required(field)]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return kind(**values)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
