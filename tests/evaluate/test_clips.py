"""Which real clips are taken, and that what is generated meets what it is compared with."""

from dataclasses import replace

import numpy as np
import pytest
from evaluate_fakes import camera_dataset, camera_episode

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.evaluate.clips import long_play, select_clips
from mutoscope.evaluate.config import EvaluateConfig

CONFIG = EvaluateConfig(
    episodes=4, context_frames=3, horizons=(4, 10), compared_frames=4, stability_frames=100, stability_window=20, stability_seeds=5
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return camera_dataset(tmp_path_factory.mktemp("ring") / "data")


def test_clips_are_windows_of_their_episodes_without_row_zero(dataset):
    clips = select_clips(dataset, CONFIG)
    assert clips.arrays["frames"].shape == (8, 13, 48, 64, 3)
    assert clips.episodes.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for episode, frames, actions in zip(clips.episodes, clips.arrays["frames"], clips.arrays["actions"], strict=True):
        whole = camera_episode(int(episode), 48)
        starts = [start for start in range(1, 48 - 12) if np.array_equal(whole["frames"][start : start + 13], frames)]
        assert any(np.array_equal(whole["actions"][start : start + 13], actions) for start in starts)
    assert np.array_equal(clips.places, clips.episodes)
    assert clips.context_frames.shape[1] + clips.future_frames.shape[1] == 13


def test_the_choice_is_a_pure_function_of_the_seed(dataset):
    first, again, other = (select_clips(dataset, replace(CONFIG, seed=seed)) for seed in (0, 0, 1))
    assert np.array_equal(first.arrays["frames"], again.arrays["frames"])
    assert not np.array_equal(first.arrays["frames"], other.arrays["frames"])


def test_scores_are_averaged_within_an_episode_and_nan_has_no_say(dataset):
    values = np.arange(8, dtype=float)[:, None]
    values[3] = np.nan
    assert select_clips(dataset, CONFIG).by_episode(values)[:, 0].tolist() == [0.5, 2, 4.5, 6.5]


def test_long_play_goes_on_with_the_actions_of_the_next_episode(dataset):
    play = long_play(dataset, CONFIG)
    assert play.arrays["actions"].shape == (5, 103, 2)
    own, following = camera_episode(1, 48)["actions"], camera_episode(2, 48)["actions"]
    assert np.array_equal(play.arrays["actions"][1][:47], own[1:])
    assert np.array_equal(play.arrays["actions"][1][47:94], following[1:])
    assert np.array_equal(play.context_frames[1], camera_episode(1, 48)["frames"][1:4])


def test_more_seeds_than_episodes_begin_elsewhere(dataset):
    play = long_play(dataset, replace(CONFIG, stability_seeds=12))
    assert not np.array_equal(play.context_frames[0], play.context_frames[6])
    assert np.array_equal(play.context_frames[6], camera_episode(0, 48)["frames"][4:7])


def test_short_episodes_are_refused_in_words(dataset):
    with pytest.raises(DataError, match="Record more episodes, or longer ones"):
        select_clips(dataset, replace(CONFIG, horizons=(200,)))


@pytest.mark.parametrize("changes", [{"episodes": 1}, {"horizons": ()}, {"stability_window": 2000}, {"seeds": ()}, {"batch_size": 0}])
def test_impossible_configurations_are_refused(changes):
    with pytest.raises(ConfigError):
        EvaluateConfig(**changes)
