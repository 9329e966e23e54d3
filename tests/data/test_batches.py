import pickle
from pathlib import Path

import numpy as np
import pytest
from small_worlds import counting_dataset

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.data.batches import Batch, ClipSampler
from mutoscope.data.clips import ClipDataset

LENGTHS = (6, 3, 9)


@pytest.fixture
def dataset(tmp_path: Path) -> ClipDataset:
    return counting_dataset(tmp_path / "set", LENGTHS)


def same(first: Batch, second: Batch) -> bool:
    return np.array_equal(first.episodes, second.episodes) and np.array_equal(first.arrays["frames"], second.arrays["frames"])


def test_every_window_occurs_once_and_none_crosses_an_episode(dataset: ClipDataset) -> None:
    sampler = ClipSampler(dataset, clip_frames=4, batch_size=1, seed=0)
    batch = sampler.windows(np.arange(sampler.num_windows))
    expected = [(episode, start) for episode, length in enumerate(LENGTHS) for start in range(length - 3)]
    assert list(zip(batch.episodes.tolist(), batch.starts.tolist(), strict=True)) == expected
    numbers = batch.arrays["frames"][:, :, 0, 0, 0].astype(int)
    assert np.array_equal(numbers, 10 * batch.episodes[:, None] + batch.starts[:, None] + np.arange(4))


def test_windows_are_drawn_uniformly(dataset: ClipDataset) -> None:
    sampler = ClipSampler(dataset, clip_frames=4, batch_size=900, seed=1)
    batch = sampler.batch(0)
    counts = np.unique(100 * batch.episodes + batch.starts, return_counts=True)[1]
    assert len(counts) == sampler.num_windows == 9
    assert abs(counts - 100).max() < 40


def test_only_row_zero_of_an_episode_is_not_known(dataset: ClipDataset) -> None:
    batch = ClipSampler(dataset, clip_frames=4, batch_size=64, seed=0).batch(0)
    rows = batch.starts[:, None] + np.arange(4)
    assert np.array_equal(batch.known, rows != 0)
    assert (batch.starts == 0).any() and (batch.starts != 0).any()


def test_a_batch_depends_on_seed_and_step_alone(dataset: ClipDataset) -> None:
    def sampler(seed: int) -> ClipSampler:
        return ClipSampler(dataset, clip_frames=3, batch_size=16, seed=seed)

    walked = sampler(5)
    for step in range(3):
        walked.batch(step)
    assert same(walked.batch(3), sampler(5).batch(3))
    assert not same(sampler(5).batch(3), sampler(5).batch(4))
    assert not same(sampler(5).batch(3), sampler(6).batch(3))


def slices_join(dataset: ClipDataset, ranks: tuple[int, ...]) -> bool:
    whole = ClipSampler(dataset, clip_frames=3, batch_size=12, seed=2).batch(7)
    parts = [ClipSampler(dataset, clip_frames=3, batch_size=12, seed=2, rank=rank, world_size=3).batch(7) for rank in ranks]
    return np.array_equal(np.concatenate([part.arrays["frames"] for part in parts]), whole.arrays["frames"])


def test_ranks_share_one_global_batch(dataset: ClipDataset) -> None:
    assert slices_join(dataset, (0, 1, 2))


def test_broken_twin_ranks_that_all_read_the_first_slice_are_noticed(dataset: ClipDataset) -> None:
    assert not slices_join(dataset, (0, 0, 0))


def test_a_batch_that_ranks_cannot_share_is_refused(dataset: ClipDataset) -> None:
    with pytest.raises(ConfigError, match="multiple"):
        ClipSampler(dataset, clip_frames=3, batch_size=10, seed=0, world_size=3)


def test_clips_longer_than_every_episode_are_refused(dataset: ClipDataset) -> None:
    with pytest.raises(DataError, match="longest has 9"):
        ClipSampler(dataset, clip_frames=10, batch_size=1, seed=0)


def test_a_data_set_travels_to_another_process(dataset: ClipDataset) -> None:
    dataset.read(0, 0, 2, ("frames",))
    copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 (made in this test)
    assert np.array_equal(copy.read(2, 0, 9, ("frames",))["frames"], dataset.read(2, 0, 9, ("frames",))["frames"])
