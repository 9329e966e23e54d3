import numpy as np
import pytest

from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import ActionSpec
from mutoscope.data.policies import POLICIES, hold_random

WALK = ActionSpec("multi_binary", ("forward", "backward", "turn_left", "turn_right", "left", "right"))
MOVES = ActionSpec("discrete", ("stand", "up", "down", "left", "right"))
STEER = ActionSpec("box", ("wheel", "gas"), (-1.0, 0.0), (1.0, 2.0))


def play(policy: str, spec: ActionSpec, num_frames: int = 3000, stuck: bool = False) -> np.ndarray:
    player = POLICIES[policy](spec, numpy_stream(1, "test"))
    return np.stack([player.act(stuck) for _ in range(num_frames)])


def mean_hold(actions: np.ndarray) -> float:
    changes = (actions[1:] != actions[:-1]).any(axis=1)
    return len(actions) / (1 + changes.sum())


@pytest.mark.parametrize("spec", [WALK, MOVES, STEER])
def test_actions_are_held(spec: ActionSpec) -> None:
    assert mean_hold(play("hold-random", spec)) > 2.5


@pytest.mark.parametrize("spec", [WALK, MOVES, STEER])
def test_brief_holds_last_a_third(spec: ActionSpec) -> None:
    long, brief = mean_hold(play("hold-random", spec)), mean_hold(play("hold-briefly", spec))
    assert 1.2 < brief < 0.6 * long


def test_broken_twin_a_random_walk_holds_nothing() -> None:
    assert mean_hold(play("random-walk", STEER)) < 1.5


def test_every_action_is_valid_and_every_button_is_used() -> None:
    for spec in (WALK, MOVES, STEER):
        for row in play("hold-random", spec, 200):
            assert np.allclose(spec.encode(spec.decode(row)), row, atol=1e-5)
        assert (play("hold-random", spec) > 0).any(axis=0).all()


def test_opposite_buttons_are_never_held_together() -> None:
    actions = play("hold-random", WALK)
    assert not (actions[:, 0::2] * actions[:, 1::2]).any()


def test_forward_is_pressed_most() -> None:
    shares = play("hold-random", WALK).mean(axis=0)
    assert shares.argmax() == 0 and 0.4 < shares[0] < 0.75


def test_who_is_stuck_turns_and_stops_pushing() -> None:
    free, stuck = play("hold-random", WALK), play("hold-random", WALK, stuck=True)
    assert stuck[10:, 0].mean() < 0.1 < free[:, 0].mean()
    assert stuck[10:, 2:4].any(axis=1).mean() > 0.9 > free[:, 2:4].any(axis=1).mean()


def test_the_generator_decides_alone() -> None:
    assert np.array_equal(play("hold-random", WALK), play("hold-random", WALK))
    other = hold_random(WALK, numpy_stream(2, "test"))
    assert not np.array_equal(play("hold-random", WALK, 50), np.stack([other.act(False) for _ in range(50)]))
