"""The probe of hidden states: it reads a planted past, reads nothing in noise, and does not take one episode for another."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mutoscope.core.errors import DataError
from mutoscope.core.streams import normal, stream
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tiles import NUM_KINDS
from mutoscope.evaluate.probe import Split, balanced_accuracy, linearly_readable, past_tiles, split_episodes
from mutoscope.evaluate.recall import RecallClips, RecallTask, play_truth

EPISODES, LAGS = 48, (4, 8)
CHANCE, SPREAD = 1 / NUM_KINDS, 0.05


@pytest.fixture(scope="module")
def clips() -> RecallClips:
    return play_truth(make_world("ring", height=16, width=32, frame_skip=1), RecallTask(lead=12, away=8), EPISODES, 0)


def noise(*shape: int) -> Tensor:
    """Random features."""
    return normal(shape, stream(0, "probe features"))


def mixed(tiles: Tensor, loudness: float) -> Tensor:
    """Kinds `[episode, sample, lag, tile]` hidden in 128 features by a random linear map, in noise."""
    shown = one_hot(tiles, NUM_KINDS).flatten(2).float()
    return shown @ normal((shown.shape[-1], 128), stream(0, "probe map")) + loudness * noise(*tiles.shape[:2], 128)


def test_it_asks_for_views_that_are_wholly_out_of_sight(clips):
    asked = past_tiles(clips, LAGS)
    assert asked.frames.tolist() == [*range(8, 17)], "one turns until frame 16; at 20 one is back"
    for index, frame in enumerate(asked.frames):
        for number, lag in enumerate(LAGS):
            assert (clips.position[:, frame, 1] - clips.position[:, frame - lag, 1] >= clips.tiles.shape[3]).all()
            assert np.array_equal(asked.tiles[:, index, number].numpy(), clips.tiles[:, frame - lag].reshape(EPISODES, -1))


def test_a_past_that_is_in_sight_or_before_the_clip_is_no_past(clips):
    with pytest.raises(DataError, match="no view of 3 frames before is out of sight"):
        past_tiles(clips, (3, 8))
    with pytest.raises(DataError, match="no frame whose views of 4, 19 frames before"):
        past_tiles(clips, (4, 19))


@pytest.mark.parametrize(("loudness", "least", "most"), [(0.0, 0.99, 1.0), (6.0, 0.3, 0.95), (1000.0, CHANCE - SPREAD, CHANCE + SPREAD)])
def test_a_planted_past_is_read_and_noise_hides_it(clips, loudness, least, most):
    tiles = past_tiles(clips, (4,)).tiles
    (found,) = linearly_readable(mixed(tiles, loudness), tiles, NUM_KINDS, split_episodes(EPISODES, 0))
    assert least <= float(found) <= most


def test_each_lag_is_read_by_itself(clips):
    tiles = past_tiles(clips, LAGS).tiles
    nearer, further = linearly_readable(mixed(tiles[:, :, :1], 0.0), tiles, NUM_KINDS, split_episodes(EPISODES, 0))
    assert nearer > 0.99 and float(further) == pytest.approx(CHANCE, abs=2 * SPREAD)


def test_what_is_in_view_says_nothing_of_what_left_it(clips):
    asked = past_tiles(clips, (4,))
    now = torch.from_numpy(clips.tiles[:, asked.frames].astype(np.int64)).flatten(2)[:, :, None]
    (found,) = linearly_readable(mixed(now, 0.0), asked.tiles, NUM_KINDS, split_episodes(EPISODES, 0))
    assert float(found) == pytest.approx(CHANCE, abs=SPREAD)


def fingerprints(samples: int = 10) -> tuple[Tensor, Tensor]:
    """Features that say which episode this is and nothing else, and random tiles that stay the same for an episode."""
    names = noise(EPISODES, 1, 128).expand(-1, samples, -1) + 0.01 * normal((EPISODES, samples, 128), stream(1, "probe features"))
    tiles = torch.randint(NUM_KINDS, (EPISODES, 1, 1, 8), generator=stream(0, "probe tiles"))
    return names, tiles.expand(-1, samples, -1, -1)


def test_whoever_knows_the_episode_knows_nothing_of_another():
    (found,) = linearly_readable(*fingerprints(), NUM_KINDS, split_episodes(EPISODES, 0))
    assert float(found) == pytest.approx(CHANCE, abs=2 * SPREAD)


def test_split_broken_twin_that_parts_frames_in_place_of_episodes():
    features, tiles = (part.flatten(0, 1)[:, None] for part in fingerprints())
    (leaked,) = linearly_readable(features, tiles, NUM_KINDS, split_episodes(len(features), 0))
    assert leaked > 0.99


def test_no_episode_is_in_two_parts():
    split = split_episodes(EPISODES, 0)
    assert [len(split.fit), len(split.choose), len(split.judge)] == [24, 12, 12]
    assert sorted(torch.cat([split.fit, split.choose, split.judge]).tolist()) == [*range(EPISODES)]
    assert split.fit.tolist() != split_episodes(EPISODES, 1).fit.tolist()
    with pytest.raises(DataError, match="at least 4 episodes"):
        split_episodes(3, 0)


def test_the_ridge_is_chosen_on_the_episodes_for_that_and_not_on_the_judged_ones():
    """Tiles of the judged episodes may be anything: what is chosen, and so every guess, stays."""
    features, split = noise(EPISODES, 4, 64), split_episodes(EPISODES, 0)
    tiles = torch.randint(2, (EPISODES, 4, 1, 1), generator=stream(0, "probe choice"))
    turned = tiles.clone()
    turned[split.judge] = 1 - turned[split.judge]
    first, second = (linearly_readable(features, labels, 2, split) for labels in (tiles, turned))
    swapped = Split(split.fit, split.judge, split.judge)
    assert float(first + second) == pytest.approx(1.0, abs=1e-9), "the same guesses are right where they were wrong"
    assert linearly_readable(features, tiles, 2, swapped) >= first, "twin: chosen by what it is judged on"


def test_no_kind_counts_for_being_frequent():
    true = torch.tensor([0] * 9 + [1])[:, None, None]
    assert float(balanced_accuracy(torch.zeros_like(true), true, 3)) == 0.5
    assert float(balanced_accuracy(true, true, 3)) == 1.0
