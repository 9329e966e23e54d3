"""Own videos as training clips: every clip is what the codec makes of its own pictures, and what cannot be used is named."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("av")

from training_fakes import CPU

from mutoscope import cli
from mutoscope.core.errors import DataError
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.media.video import video_frames, write_video
from mutoscope.models.checkpoint import load_codec
from mutoscope.models.codec import to_model_pixels
from mutoscope.models.text_cache import open_cache
from mutoscope.train import prepare as preparing
from mutoscope.train.prepare import Prepared, PrepareOptions, prepare
from prompt_fakes import fake_cache
from wan_runs import CAPTIONS, CLIP_FRAMES, STRIDE, moving_pictures, write_published, write_videos

OPTIONS = PrepareOptions(CLIP_FRAMES, 16.0, held_out=1)
LENGTH = 1 + STRIDE * (CLIP_FRAMES - 1)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An imported checkpoint, prompts, videos, and what was prepared of them."""
    place = tmp_path_factory.mktemp("prepare")
    write_published(place), write_videos(place / "videos")
    arguments = ["import", str(place / "run.json"), str(place / "wan"), "--codec", str(place / "wan")]
    assert cli.main([*arguments, "--output", str(place / "checkpoint")]) == 0
    assert made_of(place, place / "videos", place / "clips") == Prepared(4, 1, ())
    return place


def made_of(place: Path, videos: Path, output: Path, options: PrepareOptions = OPTIONS) -> Prepared:
    return prepare(place / "checkpoint", videos, output, options, place / "prompts", CPU)


def are_clips_of_their_videos(place: Path, latents: ClipDataset) -> bool:
    """Whether every clip is what the codec makes of its own pixel frames, from the first of them on."""
    codec = load_codec(place / "checkpoint")[1]
    close = []
    for episode in latents.episodes:
        name, _, start = episode.name.partition(" from frame ")
        frames = np.stack(list(video_frames(place / "videos" / name)))[int(start) : int(start) + LENGTH]
        wanted = codec.encode(to_model_pixels(torch.from_numpy(frames))[None])[0]
        found = latents.read(episode.index, 0, CLIP_FRAMES, ("latents",))["latents"]
        close.append(torch.allclose(torch.from_numpy(found).float(), wanted, atol=1e-2))
    return all(close)


def shifted(place: Path, target: Path) -> ClipDataset:
    """The broken twin: the same clips, their latents a frame late."""
    before = open_dataset(place / "clips" / "train")
    with DatasetWriter(target, before.world) as writer:
        for episode in before.episodes:
            rows = before.read(episode.index, 0, CLIP_FRAMES, ("latents",))
            writer.add({"latents": np.roll(rows["latents"], 1, axis=0)}, name=episode.name)
    return open_dataset(target)


def test_every_clip_is_encoded_from_its_own_first_pixel_frame_on(place, tmp_path):
    latents = open_dataset(place / "clips" / "train")
    assert [episode.name for episode in latents.episodes] == [f"{name}.mp4 from frame {start}" for name in "ac" for start in (0, LENGTH)]
    assert are_clips_of_their_videos(place, latents)
    assert not are_clips_of_their_videos(place, shifted(place, tmp_path / "shifted"))


def test_clips_carry_their_captions_and_the_embeddings_lie_beside_them(place):
    for name in ("train", "held-out"):
        assert set(open_cache(place / "clips" / name / "prompts").prompts) == {*CAPTIONS, ""}
    assert [episode.caption for episode in open_dataset(place / "clips" / "train").episodes] == [CAPTIONS[0]] * 4
    (held_out,) = open_dataset(place / "clips" / "held-out").episodes
    assert (held_out.caption, held_out.num_frames, held_out.name) == (CAPTIONS[1], 61, "b.mp4 from frame 0")


def test_rows_are_latent_frames_of_a_world_without_actions(place):
    latents = open_dataset(place / "clips" / "train")
    assert {spec.name: spec.shape for spec in latents.manifest.arrays} == {"latents": (4, 4, 6), "actions": (STRIDE, 0), "known": ()}
    assert latents.world.actions.kind == "none" and latents.manifest.array("latents").rate == 4.0


def spoil(videos: Path) -> None:
    """Beside three good videos: one cut off, one that is text, one too short, one too slow, one too small, one without a caption."""
    whole = (videos / "a.mp4").read_bytes()
    (videos / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (videos / "text.mp4").write_text("no video")
    write_video(videos / "short.mp4", moving_pictures(LENGTH - 1), 16.0)
    write_video(videos / "slow.mp4", moving_pictures(20), 10.0)
    write_video(videos / "small.mp4", moving_pictures(20, height=16, width=24), 16.0)
    write_video(videos / "silent.mp4", moving_pictures(20), 16.0)
    for name in ("cut", "text", "short", "slow", "small"):
        (videos / f"{name}.txt").write_text(CAPTIONS[0])


def test_what_cannot_be_used_is_named_and_the_rest_is_taken(place, tmp_path):
    spoil(write_videos(tmp_path / "videos"))
    reasons = {
        "cut.mp4": "copy or export it again",
        "text.mp4": "cannot be decoded",
        "short.mp4": "is too short: 8 frames at 16 per second, a clip has 9 (0.6 s)",
        "slow.mp4": "has 10 frames/s, and clips of 16 are wanted",
        "small.mp4": "is 16x24, smaller than 32x48; --smaller enlarge takes it anyway",
        "silent.mp4": "has no caption: write it into silent.txt, or into captions.jsonl",
    }
    for _ in range(2):  # the second call finds the file that is cut off noted down
        made = made_of(place, tmp_path / "videos", tmp_path / "clips")
        assert (made.train, made.held_out) == (4, 1) and {name for name, _ in made.skipped} == set(reasons)
        assert all(reasons[name] in reason for name, reason in made.skipped)
    assert list(json.loads((tmp_path / "clips" / "skipped.json").read_text())) == ["cut.mp4"]


def test_interrupted_it_goes_on_where_it_stopped(place, tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    encoded: list[str] = []

    def stop_after_three(work, frames, bar, note) -> dict:
        encoded.append(note)
        if len(encoded) == 4:
            raise Stop
        return encode(work, frames, bar, note)

    encode = preparing.encode
    monkeypatch.setattr(preparing, "DatasetWriter", partial(DatasetWriter, shard_bytes=1))
    monkeypatch.setattr(preparing, "encode", stop_after_three)
    with pytest.raises(Stop):
        made_of(place, place / "videos", tmp_path / "clips")
    made_of(place, place / "videos", tmp_path / "clips")
    assert encoded == ["a.mp4", "a.mp4", "c.mp4", "c.mp4", "c.mp4", "c.mp4"], "clips of videos that were finished are not made again"
    assert are_clips_of_their_videos(place, open_dataset(tmp_path / "clips" / "train"))


def test_other_options_or_videos_need_another_folder(place):
    before = (place / "clips" / "train" / "manifest.json").read_bytes()
    with pytest.raises(DataError, match="was made with other options or from other videos; give another folder, or delete it"):
        made_of(place, place / "videos", place / "clips", replace(OPTIONS, fit="stretch"))
    assert (place / "clips" / "train" / "manifest.json").read_bytes() == before


def test_too_few_videos_are_said_before_anything_is_written(place, tmp_path):
    with pytest.raises(DataError, match="3 videos can be used, 1 of them with 61 frames or more; 2 are to be held out, and one more"):
        made_of(place, place / "videos", tmp_path / "clips", replace(OPTIONS, held_out=2))
    assert not (tmp_path / "clips").exists()


def test_captions_without_an_embedding_are_said_before_anything_is_written(place, tmp_path):
    fake_cache(tmp_path / "prompts", CAPTIONS[1:])
    with pytest.raises(DataError, match="has no embedding of 'a red disc'; add them with: mutoscope embed"):
        prepare(place / "checkpoint", place / "videos", tmp_path / "clips", OPTIONS, tmp_path / "prompts", CPU)
    assert not (tmp_path / "clips").exists()
