"""Actions: what Gymnasium takes, as one vector, and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import NO_ACTIONS, ActionSpec, WorldSpec

MOVES = ActionSpec("discrete", ("stand", "up", "down"))
BUTTONS = ActionSpec("multi_binary", ("forward", "turn_left", "turn_right"))
AXES = ActionSpec("box", ("gas", "wheel"), (0.0, -2.0), (1.0, 2.0))


@given(st.integers(0, 2))
def test_discrete_round_trip(action):
    vector = MOVES.encode(action)
    assert vector.dtype == np.float32 and vector.sum() == 1
    assert MOVES.decode(vector) == action


@given(st.lists(st.integers(0, 1), min_size=3, max_size=3))
def test_buttons_round_trip(action):
    decoded = BUTTONS.decode(BUTTONS.encode(action))
    assert isinstance(decoded, np.ndarray) and decoded.tolist() == action


@given(st.floats(0, 1), st.floats(-2, 2))
def test_box_round_trip_and_range(gas, wheel):
    vector = AXES.encode([gas, wheel])
    assert np.abs(vector).max() <= 1
    assert np.allclose(AXES.decode(vector), [gas, wheel], atol=1e-5)


def test_box_limits_map_to_one():
    assert AXES.encode([0.0, 2.0]).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("spec", [MOVES, BUTTONS, AXES])
def test_a_vector_of_the_wrong_size_is_refused(spec):
    with pytest.raises(ConfigError, match="it must have"):
        spec.decode(np.zeros(spec.dim + 1))


def test_actions_outside_are_refused():
    with pytest.raises(ConfigError, match=r"action 3 is outside 0..2 \(stand, up, down\)"):
        MOVES.encode(3)
    with pytest.raises(ConfigError, match="has 2 values; it must have 3"):
        BUTTONS.encode([0, 1])


def test_names_become_vectors():
    assert BUTTONS.vector("forward+turn_left").tolist() == [1, 1, 0]
    assert BUTTONS.vector("stand").tolist() == BUTTONS.vector("").tolist() == [0, 0, 0]
    assert MOVES.vector("up").tolist() == [0, 1, 0]
    assert MOVES.vector("stand").tolist() == [1, 0, 0]


@pytest.mark.parametrize(("spec", "text"), [(BUTTONS, "jump"), (MOVES, "up+down"), (ActionSpec("discrete", ("up",)), "stand")])
def test_names_that_cannot_be_pressed_are_refused(spec, text):
    with pytest.raises(ConfigError, match="known: "):
        spec.vector(text)


@pytest.mark.parametrize(
    ("names", "low", "high"),
    [(("a", "a"), (0.0, 0.0), (1.0, 1.0)), ((), (), ()), (("a",), (), ()), (("a",), (1.0,), (1.0,)), (("a",), (0.0,), (float("inf"),))],
)
def test_boxes_that_cannot_be_are_refused(names, low, high):
    with pytest.raises(ConfigError):
        ActionSpec("box", names, low, high)


def test_a_world_may_take_no_actions_but_only_by_that_name():
    assert NO_ACTIONS.dim == 0 and NO_ACTIONS.vector("stand").shape == NO_ACTIONS.encode(()).shape == (0,)
    for kind, names in (("none", ("up",)), ("discrete", ()), ("multi_binary", ()), ("box", ())):
        with pytest.raises(ConfigError, match=f"for '{kind}'"):
            ActionSpec(kind, names)


@pytest.mark.parametrize(("height", "width", "rate"), [(0, 4, 1.0), (4, 0, 1.0), (4, 4, 0.0)])
def test_worlds_without_size_or_rate_are_refused(height, width, rate):
    with pytest.raises(ConfigError, match="positive size and rate"):
        WorldSpec("maze", height, width, rate, MOVES)
