"""Configurations: to plain data and back without loss, and strictly."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mutoscope.core import config
from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec, WorldSpec


@dataclass(frozen=True)
class Circle:
    radius: float


@dataclass(frozen=True)
class Square:
    side: float
    kind: str = "plain"


@dataclass(frozen=True)
class Drawing:
    title: str
    count: int
    shapes: tuple[Circle | Square, ...]
    size: tuple[int, float]
    colour: Literal["red", "blue"] = "red"
    note: str | None = None
    filled: bool = False


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
SHAPES = st.builds(Circle, NUMBERS) | st.builds(Square, NUMBERS, st.text())
DRAWINGS = st.builds(
    Drawing,
    st.text(),
    st.integers(),
    st.lists(SHAPES, max_size=4).map(tuple),
    st.tuples(st.integers(), NUMBERS),
    st.sampled_from(["red", "blue"]),
    st.none() | st.text(),
    st.booleans(),
)


def returns_through_json(drawing: Drawing) -> bool:
    return from_plain(Drawing, json.loads(json.dumps(to_plain(drawing)))) == drawing


@given(DRAWINGS)
def test_round_trip_through_json(drawing):
    assert returns_through_json(drawing)


def test_round_trip_broken_twin_whose_tag_is_a_field(monkeypatch):
    monkeypatch.setattr(config, "TAG", "kind")
    with pytest.raises(ConfigError):
        returns_through_json(Drawing("a", 1, (Square(1.0),), (1, 1.0)))


def test_a_world_returns_although_its_actions_have_a_field_named_kind():
    world = WorldSpec("maze", 48, 64, 17.5, ActionSpec("multi_binary", ("forward", "left")), ("x", "y"))
    assert from_plain(WorldSpec, json.loads(json.dumps(to_plain(world)))) == world


PLAIN = to_plain(Drawing("a", 1, (Circle(1.0),), (1, 2.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "green"}, "config.colour is 'green'; allowed: 'red', 'blue'"),
        ({"colours": 1}, "unknown keys colours; known: title, count"),
        ({"count": "1"}, "config.count is '1'; it must be of type int"),
        ({"count": True}, "config.count is True; it must be of type int"),
        ({"size": [1]}, "config.size has 1 entries; it must have 2"),
        ({"shapes": [{"is": "Star"}]}, r"config.shapes\[0\] is of kind 'Star'; allowed: Circle, Square"),
        ({"shapes": 3}, "config.shapes is 3; it must be a list"),
        ({"is": "Circle"}, "config is of kind 'Circle'; it must be Drawing"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(Drawing, {**PLAIN, **change})


def test_missing_keys_are_named_and_defaults_are_filled():
    with pytest.raises(ConfigError, match="config lacks title, count, shapes, size"):
        from_plain(Drawing, {})
    needed = {name: PLAIN[name] for name in ("title", "count", "shapes", "size")}
    assert from_plain(Drawing, needed) == Drawing("a", 1, (Circle(1.0),), (1, 2.0))


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(ConfigError, match="cannot hold a set"):
        to_plain(Drawing("a", 1, {1}, (1, 1.0)))  # type: ignore[arg-type]


@settings(max_examples=30)
@given(DRAWINGS, DRAWINGS)
def test_equal_configurations_and_only_those_have_equal_hashes(first, second):
    assert config_hash(first) == config_hash(dataclasses.replace(first))
    assert (config_hash(first) == config_hash(second)) == (to_plain(first) == to_plain(second))


@dataclass(frozen=True)
class Grown:
    side: float
    corners: Literal["sharp", "round"] = config.added_later("sharp")


def test_a_field_that_came_later_changes_no_name_while_it_has_its_default():
    old, new = Grown(1.0), Grown(1.0, "round")
    before = {"is": "Grown", "side": 1.0}
    assert from_plain(Grown, before) == old and from_plain(Grown, to_plain(new)) == new
    name = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]
    assert config_hash(old) == name != config_hash(new)
    assert config_hash([old]) != config_hash([new]) and "corners" in to_plain(old), "who changes it by its name must find it"
