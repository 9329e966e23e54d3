"""Clips through a codec with a temporal stride: each is encoded from its own first pixel frame on, and begins where it was cut."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from clip_fakes import write_clips
from training_fakes import ALONE, CPU, UPDATE

from mutoscope.core.errors import DataError
from mutoscope.data.batches import ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.conditions import clip_conditions
from mutoscope.train import sources
from mutoscope.train.sources import CLIPS, ClipSource, encode_clips
from wan import tiny_wan

STRIDE, CLIP = 4, 3
LENGTH = 1 + STRIDE * (CLIP - 1)
CODEC = tiny_wan()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> ClipDataset:
    """Three episodes of 20 pixel frames: two whole clips of nine each, and two frames over."""
    return write_clips(tmp_path_factory.mktemp("recorded") / "clips", frames=20)


@pytest.fixture(scope="module")
def encoded(recorded, tmp_path_factory) -> ClipDataset:
    return encode_clips(recorded, CODEC, CLIP, tmp_path_factory.mktemp("encoded") / "latents", CPU)


def pixels_of(recorded: ClipDataset, episode: int, start: int) -> torch.Tensor:
    frames = recorded.read(episode, start, start + LENGTH, ("frames",))["frames"]
    return to_model_pixels(torch.from_numpy(frames))[None]


def are_whole_clips(recorded: ClipDataset, latents: ClipDataset) -> bool:
    """Whether every stored clip is what the codec makes of its pixel frames alone, clip after clip and episode after episode."""
    rows = [latents.read(index, 0, CLIP, ("latents",))["latents"] for index in range(len(latents.episodes))]
    places = [(episode, start) for episode in range(3) for start in (0, LENGTH)]
    wanted = [CODEC.encode(pixels_of(recorded, *place))[0] for place in places]
    close = [torch.allclose(torch.from_numpy(row).float(), clip, atol=5e-3) for row, clip in zip(rows, wanted, strict=True)]
    return all(close)


def encode_episodes_whole(recorded: ClipDataset, target: Path) -> ClipDataset:
    """The broken twin: an episode is encoded as one clip, and windows are cut out of its latents."""
    with DatasetWriter(target, recorded.world) as writer:
        for episode in recorded.episodes:
            frames = recorded.read(episode.index, 0, 17, ("frames",))["frames"]
            latents = CODEC.encode(to_model_pixels(torch.from_numpy(frames))[None])[0].half().numpy()
            for start in (0, 2):
                writer.add({"latents": latents[start : start + CLIP]})
    return open_dataset(target)


def test_every_clip_is_encoded_from_its_own_first_pixel_frame_on(recorded, encoded, tmp_path):
    assert [episode.num_frames for episode in encoded.episodes] == [CLIP] * 6
    assert encoded.episodes[3].name == "episode 1 from frame 9"
    assert are_whole_clips(recorded, encoded)
    assert not are_whole_clips(recorded, encode_episodes_whole(recorded, tmp_path / "whole"))


def test_rows_are_frames_and_the_manifest_says_so(recorded, encoded):
    manifest = encoded.manifest
    assert {spec.name: spec.shape for spec in manifest.arrays} == {"latents": (4, 3, 5), "actions": (STRIDE, 3), "known": ()}
    assert manifest.array("latents").rate == recorded.world.content_rate / STRIDE and encoded.world == recorded.world


def test_a_frame_carries_the_actions_of_its_own_pixel_frames(recorded, encoded):
    for index, (episode, start) in enumerate((episode, start) for episode in range(3) for start in (0, LENGTH)):
        given = recorded.read(episode, start, start + LENGTH, ("actions",))["actions"]
        rows = encoded.read(index, 0, CLIP, ("actions", "known"))
        assert np.array_equal(rows["actions"][0], np.repeat(given[:1], STRIDE, axis=0))
        assert np.array_equal(rows["actions"][1:].reshape(-1, 3), given[1:])
        assert rows["known"].tolist() == [start > 0, True, True], "only an episode's first frame has no action"


def source(latents: ClipDataset, frames: int, update: int = 0) -> torch.Tensor:
    config = replace(UPDATE, batch_size=8)
    return ClipSource(latents, CLIPS, frames, config, update, ALONE).batch("model", update, 0, 1)


def begins_with_a_clip(latents: ClipDataset, batch) -> bool:
    """Whether every window of a batch begins with the first frame of a stored clip."""
    firsts = [latents.read(index, 0, 1, ("latents",))["latents"][0] for index in range(len(latents.episodes))]
    return all(any(np.array_equal(row[0].half().numpy(), first) for first in firsts) for row in batch.clean)


def test_windows_shorter_than_a_clip_begin_where_it_begins(encoded, monkeypatch):
    batch = source(encoded, CLIP - 1)
    assert batch.clean.shape[1] == CLIP - 1 and batch.conditions.actions.shape[1:] == (CLIP - 1, STRIDE, 3)
    assert begins_with_a_clip(encoded, batch)
    monkeypatch.setattr(sources, "ClipSampler", lambda *given, starts, **named: ClipSampler(*given, **named))
    assert not begins_with_a_clip(encoded, source(encoded, CLIP - 1))


def test_the_conditions_of_a_batch_are_those_of_its_pixel_frames(recorded, encoded):
    batch = source(encoded, CLIP)
    sampler = ClipSampler(encoded, clip_frames=CLIP, batch_size=8, seed=0, arrays=("latents",))
    places = [(episode, start) for episode in range(3) for start in (0, LENGTH)]
    by_latents = {encoded.read(index, 0, CLIP, ("latents",))["latents"].tobytes(): place for index, place in enumerate(places)}
    assert sampler.num_windows == len(by_latents) == 6
    for row, clean in enumerate(batch.clean):
        episode, start = by_latents[clean.half().numpy().tobytes()]
        given = torch.from_numpy(recorded.read(episode, start, start + LENGTH, ("actions",))["actions"])[None]
        known = torch.arange(start, start + LENGTH)[None] > 0
        wanted, told = clip_conditions(given, known, STRIDE), batch.conditions.rows(slice(row, row + 1))
        assert torch.equal(told.actions, wanted.actions) and torch.equal(told.known, wanted.known)
        assert torch.equal(told.travel, wanted.travel)


def test_finished_latents_are_reused_and_others_refused(recorded, encoded, tmp_path):
    assert encode_clips(recorded, CODEC, CLIP, encoded.path, CPU).manifest == encoded.manifest
    with pytest.raises(DataError, match="holds the latents of other clips than those of .*; delete it, or give another run folder"):
        encode_clips(recorded, CODEC, CLIP - 1, encoded.path, CPU)
    with pytest.raises(DataError, match="holds the latents of other clips"):
        encode_clips(write_clips(tmp_path / "other", seed=1, frames=20), CODEC, CLIP, encoded.path, CPU)


def test_interrupted_encoding_goes_on(recorded, encoded, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def stop_after_four(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        if self.done == 4:
            raise Stop

    monkeypatch.setattr(sources, "DatasetWriter", partial(DatasetWriter, shard_bytes=1))
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(sources.Progress, "advance", stop_after_four)
        encode_clips(recorded, CODEC, CLIP, tmp_path / "cut", CPU)
    assert len(list((tmp_path / "cut").glob("shard-*"))) == 4
    resumed = encode_clips(recorded, CODEC, CLIP, tmp_path / "cut", CPU)
    assert [episode.name for episode in resumed.episodes] == [episode.name for episode in encoded.episodes]
    assert are_whole_clips(recorded, resumed)
