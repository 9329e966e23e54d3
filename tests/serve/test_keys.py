import pytest

from mutoscope.core.world import ActionSpec
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.serve.keys import action_vector, bindings, held_names

WALK = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right"))
STRAFE = ActionSpec("multi_binary", (*WALK.names, "left", "right"))
SCROLL = ActionSpec("discrete", ("stand", "up", "down", "left", "right"))
CAMERA = CAMERA_ACTIONS
CAR = ActionSpec("box", ("steer", "speed"), (-1.0, 0.0), (1.0, 1.0))


def test_wasd_and_arrows_do_what_one_expects() -> None:
    walk, strafe, scroll = bindings(WALK), bindings(STRAFE), bindings(SCROLL)
    assert walk["KeyW"] == walk["ArrowUp"] == "forward" and walk["KeyA"] == walk["ArrowLeft"] == "turn_left"
    assert strafe["KeyA"] == "left" and strafe["ArrowLeft"] == strafe["KeyQ"] == "turn_left"
    assert scroll["KeyW"] == "up" and scroll["ArrowRight"] == "right"
    assert "KeyQ" not in walk and "stand" not in scroll.values()


def test_a_camera_walks_with_one_hand_and_looks_with_the_other() -> None:
    keys = bindings(CAMERA)
    assert [keys[f"Key{letter}"] for letter in "WASD"] == ["forward", "left", "backward", "right"]
    assert [keys[f"Key{letter}"] for letter in "IJKL"] == ["look_up", "turn_left", "look_down", "turn_right"]
    assert [keys[f"Arrow{way}"] for way in ("Up", "Left", "Down", "Right")] == [keys[f"Key{letter}"] for letter in "IJKL"]
    assert "KeyI" not in bindings(STRAFE) and "KeyR" not in keys and "KeyP" not in keys
    assert action_vector(CAMERA, ("look_up", "look_down")).tolist() == [0, 0, 0, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("actions", [WALK, STRAFE, SCROLL, CAMERA, CAR, ActionSpec("discrete", ("noop", "fire", "open", "close"))])
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
