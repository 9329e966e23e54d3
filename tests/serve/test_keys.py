import pytest

from mutoscope.core.world import ActionSpec
from mutoscope.serve.keys import action_vector, bindings, held_names

WALK = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
STRAFE = ActionSpec("multi_binary", (*WALK.names, "left", "right"))
SCROLL = ActionSpec("discrete", ("stand", "up", "down", "left", "right"))
CAR = ActionSpec("box", ("steer", "speed"), (-1.0, 0.0), (1.0, 1.0))


def test_wasd_and_arrows_do_what_one_expects() -> None:
    walk, strafe, scroll = bindings(WALK), bindings(STRAFE), bindings(SCROLL)
    assert walk["KeyW"] == walk["ArrowUp"] == "forward" and walk["KeyA"] == walk["ArrowLeft"] == "turn_left"
    assert strafe["KeyA"] == "left" and strafe["ArrowLeft"] == strafe["KeyQ"] == "turn_left"
    assert scroll["KeyW"] == "up" and scroll["ArrowRight"] == "right"
    assert "KeyQ" not in walk and "stand" not in scroll.values()


@pytest.mark.parametrize("actions", [WALK, STRAFE, SCROLL, CAR, ActionSpec("discrete", ("noop", "fire", "open", "close"))])
def test_every_name_has_a_key_and_every_key_a_name(actions: ActionSpec) -> None:
    assert set(bindings(actions).values()) == set(held_names(actions))


@pytest.mark.parametrize(
    ("actions", "held", "vector"),
    [
        (WALK, (), [0, 0, 0, 0]),
        (WALK, ("forward", "turn_right"), [1, 0, 0, 1]),
        (WALK, ("turn_left", "turn_right"), [0, 0, 0, 1]),
        (WALK, ("turn_right", "forward", "turn_left"), [1, 0, 1, 0]),
        (WALK, ("fly", "forward"), [1, 0, 0, 0]),
        (SCROLL, (), [1, 0, 0, 0, 0]),
        (SCROLL, ("up", "left"), [0, 0, 0, 1, 0]),
        (ActionSpec("discrete", ("a", "b")), (), [1, 0]),
        (CAR, ("steer-", "speed+"), [-1, 1]),
        (CAR, ("steer-", "steer+"), [1, 0]),
    ],
)
def test_held_names_become_the_action_that_the_player_means(actions: ActionSpec, held: tuple[str, ...], vector: list[float]) -> None:
    assert action_vector(actions, held).tolist() == vector


def test_left_is_left() -> None:
    """The broken twin of the table: a spec whose names are in another order gives another vector."""
    swapped = ActionSpec("multi_binary", ("forward", "backward", "turn_right", "turn_left"))
    assert action_vector(swapped, ("turn_left",)).tolist() != action_vector(WALK, ("turn_left",)).tolist()
    assert swapped.names[int(action_vector(swapped, ("turn_left",)).argmax())] == "turn_left"
