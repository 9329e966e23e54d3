"""A learned world is a gymnasium.Env like any other."""

from dataclasses import replace

import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

from fakes import POLICIES, WORLD, tiny_checkpoint
from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec
from mutoscope.rollout.session import SessionConfig
from mutoscope.rollout.world import LearnedWorld, action_space

CONFIG = SessionConfig(1, 4, POLICIES["window"])


def check(kind: type[LearnedWorld]) -> None:
    """Gymnasium's own checker, told that the world claims to be deterministic."""
    world = kind(tiny_checkpoint(), CONFIG)
    world.spec = EnvSpec("mutoscope/fake-v0", entry_point=lambda: kind(tiny_checkpoint(), CONFIG))
    check_env(world, skip_render_check=True)


@pytest.mark.filterwarnings("error")
def test_gymnasium_accepts_it():
    check(LearnedWorld)


class Forgetful(LearnedWorld):
    """Twin: ignores the seed."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        self.resets += 1
        return super().reset(seed=seed, options=options)[0] + np.uint8(self.resets), {}


@pytest.mark.filterwarnings("ignore")
def test_gymnasium_refuses_a_broken_twin():
    with pytest.raises(AssertionError, match="not equivalent"):
        check(Forgetful)


def test_seeds_and_starts_decide_everything():
    world = LearnedWorld(tiny_checkpoint(), CONFIG)
    action = np.array([1, 0, 1], np.int8)

    def pictures(seed: int, start: int) -> list[bytes]:
        first, info = world.reset(seed=seed, options={"start": start})
        assert info == {"start": start}
        return [first.tobytes(), *(world.step(action)[0].tobytes() for _ in range(4))]

    assert pictures(3, 0) == pictures(3, 0)
    assert pictures(3, 0)[0] == pictures(4, 0)[0] and pictures(3, 0)[1:] != pictures(4, 0)[1:]
    assert pictures(3, 0)[0] != pictures(3, 1)[0]


def test_steps_give_pictures_and_never_end():
    world = LearnedWorld(tiny_checkpoint(), CONFIG)
    first, _ = world.reset(seed=0)
    picture, reward, terminated, truncated, info = world.step(np.zeros(3, np.int8))
    assert picture.shape == (WORLD.height, WORLD.width, 3) and not np.array_equal(first, picture)
    assert (reward, terminated, truncated, info) == (0.0, False, False, {"frame": 2})
    assert np.array_equal(world.render(), picture) and world.metadata["render_fps"] == WORLD.content_rate


def test_spaces_follow_the_action_spec():
    specs = [ActionSpec("discrete", ("a", "b")), ActionSpec("multi_binary", ("a", "b", "c")), ActionSpec("box", ("a",), (-1.0,), (3.0,))]
    for spec in specs:
        space = action_space(spec)
        assert spec.encode(space.sample()).shape == (spec.dim,)


def test_chunks_cannot_answer_single_actions():
    with pytest.raises(ConfigError, match="chunk_frames 1"):
        LearnedWorld(tiny_checkpoint(chunk_frames=3), CONFIG)


def test_a_world_that_begins_from_nothing_does_so_unless_a_start_is_named():
    checkpoint = tiny_checkpoint()
    world = LearnedWorld(replace(checkpoint, manifest=replace(checkpoint.manifest, beginning="nothing")), CONFIG)
    first, info = world.reset(seed=3)
    named, told = world.reset(seed=3, options={"start": 1})
    assert info == {"start": None} and told == {"start": 1} and not np.array_equal(first, named)
    assert checkpoint.starts is not None and np.array_equal(named, checkpoint.starts.frames[1, -1].numpy())
