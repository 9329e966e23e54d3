"""A tiny Wan from its published files to play: import, prepare, three stages, export, import again, frames beyond the length of a clip."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("diffusers")
pytest.importorskip("av")

from mutoscope import cli
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.loading import Loading
from mutoscope.commands.spoken import Spoken
from mutoscope.core.files import hash_file, read_json, write_json
from mutoscope.core.streams import normal, stream
from mutoscope.data.clips import open_dataset
from mutoscope.media.video import read_video
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint, read_manifest
from mutoscope.models.codec import to_frames, to_model_pixels
from mutoscope.models.conditions import action_conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.rollout.session import Session, default_config
from mutoscope.serve.catalogue import PaneOptions
from wan_fakes import wan_tensors
from wan_runs import CAPTIONS, CLIP_FRAMES, STRIDE, TINY, write_published, write_videos

STAGES = ("autoregressive", "consistency", "matching-2")
IMPORT = ("import", "run.json", "wan", "--codec", "wan", "--output", "run/bidirectional/checkpoint")
PREPARE = ("prepare", "run/bidirectional", "videos", "--output", "clips", "--prompts", "prompts", "--held-out", "1", "--device", "cpu")
TRAIN = ("train", "run.json", "--output", "run", "--data", "clips/train", "--held-out", "clips/held-out", "--no-score", "--device", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Iterator[Path]:
    """A working folder after import, prepare and train, with as few pictures as there can be."""
    root = tmp_path_factory.mktemp("wan")
    write_published(root), write_videos(root / "videos")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(root)
        for place, value in (("ROWS", 1), ("SAMPLE_STEPS", 1)):
            patched.setattr(f"mutoscope.train.pictures.{place}", value)
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda folder: None)
        for command in (IMPORT, PREPARE, TRAIN):
            assert cli.main(list(command)) == 0
        yield root


def load(root: Path, stage: str) -> Checkpoint:
    return load_checkpoint(root / "run" / stage / "checkpoint")


def test_every_stage_is_trained_from_the_one_before_and_the_published_teacher(root):
    manifests = {stage: read_manifest(root / "run" / stage / "checkpoint") for stage in ("bidirectional", *STAGES)}
    published = manifests.pop("bidirectional")
    assert published.imported and not any(manifest.imported for manifest in manifests.values())
    named = {stage: [parent.split(":")[0] for parent in manifest.parents] for stage, manifest in manifests.items()}
    assert named == {"autoregressive": ["bidirectional"], "consistency": ["autoregressive"], "matching-2": ["consistency", "bidirectional"]}
    for stage, manifest in manifests.items():
        assert (manifest.codec, manifest.codec_hash) == (TINY.codec, published.codec_hash) and manifest.conditions == ("text",)
        assert manifest.updates > 0 and (manifest.latent_mean, manifest.latent_std) == (TINY.codec.latents_mean, TINY.codec.latents_std)
        assert (root / "run" / stage / "samples" / "update-00000002.png").is_file()


def moved(root: Path, stage: str) -> float:
    """How far a stage's weights are from the published ones."""
    state, published = load(root, stage).model.state_dict(), wan_tensors()
    return max(float((state[name] - published[name]).abs().max()) for name in state)


def test_training_starts_from_the_published_weights_and_moves_them(root):
    assert 0 < moved(root, "autoregressive") < 0.02, "two updates at a rate of 1e-3 from there"
    assert moved(root, "bidirectional") == 0


def test_the_same_command_finds_everything_finished(root, capsys):
    before = {path: path.stat().st_mtime_ns for path in root.glob("run/*/checkpoint/*.safetensors")}
    assert cli.main(list(TRAIN)) == 0
    assert "finished: bidirectional, autoregressive, consistency, matching-2" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.glob("run/*/checkpoint/*.safetensors")} == before


def spoiled(root: Path, target: Path, path: str, **changes: object) -> Path:
    """A copy in which a manifest says something else."""
    shutil.copytree(root, target)
    write_json(target / path, {**read_json(target / path), **changes})
    return target


def trained_at(root: Path, monkeypatch) -> int:
    monkeypatch.chdir(root)
    return cli.main(list(TRAIN))


def test_what_was_trained_from_other_published_weights_is_not_taken_for_finished(root, tmp_path, monkeypatch, capsys):
    save_file(wan_tensors(1), tmp_path / "average.safetensors")
    name, published = f"imported:{hash_file(tmp_path / 'average.safetensors')[:16]}", "run/bidirectional/checkpoint"
    other = spoiled(root, tmp_path / "other", f"{published}/manifest.json", recipe_hash=name)
    (tmp_path / "average.safetensors").replace(other / published / "average.safetensors")
    assert trained_at(other, monkeypatch) == 2
    assert "autoregressive/state/update-00000002 belongs to another configuration of this stage" in capsys.readouterr().err


def test_weights_that_were_exchanged_after_the_import_are_refused(root, tmp_path, monkeypatch, capsys):
    other = spoiled(root, tmp_path / "other", "clips/train/manifest.json")
    (other / "run" / "matching-2" / "checkpoint" / "manifest.json").unlink()
    save_file(wan_tensors(1), other / "run" / "bidirectional" / "checkpoint" / "average.safetensors")
    assert trained_at(other, monkeypatch) == 2
    assert "the weights in run/bidirectional/checkpoint are not those that were imported" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("recipe", "held_out", "message"),
    [
        ("run.json", "clips/train", "clips/train holds latents, and samples are compared with pictures; give held-out clips of pictures"),
        ("scroll", "clips/held-out", "clips/train holds latents of another codec, and this recipe trains its own; give recorded frames"),
    ],
)
def test_latents_where_pictures_are_needed_are_refused_before_anything_is_trained(root, recipe, held_out, message, capsys):
    assert cli.main(["train", recipe, "--output", "nowhere", "--data", "clips/train", "--held-out", held_out, "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err and not (root / "nowhere" / "run.json").exists()


def test_clips_prepared_with_another_codec_are_refused(root, tmp_path, monkeypatch, capsys):
    settings = [[name, "0" * 16 if name == "codec" else value] for name, value in open_dataset(root / "clips" / "train").manifest.settings]
    other = spoiled(root, tmp_path / "other", "clips/train/manifest.json", settings=settings)
    (other / "run" / "matching-2" / "checkpoint" / "manifest.json").unlink()
    assert trained_at(other, monkeypatch) == 2
    assert "clips/train was prepared with another codec than the one in run/bidirectional/checkpoint" in capsys.readouterr().err


def test_starts_are_whole_clips_from_their_first_pixel_frame(root):
    starts, held_out = load(root, "matching-2").starts, open_dataset(root / "clips" / "held-out")
    assert starts.frames.shape[1:] == (1 + STRIDE * 3, 32, 48, 3) and starts.actions.shape[2] == 0
    first = held_out.read(0, 0, 13, ("frames",))["frames"]
    assert np.array_equal(starts.frames[0].numpy(), first)


@pytest.fixture(scope="module")
def exported(root) -> Path:
    """The student in diffusers' layout."""
    assert cli.main(["export", "run/matching-2", "--output", "student/transformer"]) == 0
    return Path("student/transformer")


def test_a_student_goes_out_and_diffusers_computes_the_same(root, exported):
    from diffusers import WanTransformer3DModel

    theirs, ours = WanTransformer3DModel.from_pretrained(exported), load(root, "matching-2").model
    latents, text = normal((1, 3, 4, 4, 6), stream(0, "latents")), normal((1, 6, 10), stream(0, "text"))
    nothing = action_conditions(torch.zeros(1, 3, STRIDE, 0), torch.zeros(1, 3, dtype=torch.bool)).told(text, text)
    with torch.no_grad():
        found = bidirectional(ours, latents, torch.full((1, 3), 0.7), nothing)
        wanted = theirs(latents.transpose(1, 2), torch.tensor([700.0]), text).sample.transpose(1, 2)
        other = bidirectional(load(root, "consistency").model, latents, torch.full((1, 3), 0.7), nothing)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4
    assert float((other - wanted).norm() / wanted.norm()) > 1e-4, "another stage's weights are others"


@pytest.fixture(scope="module")
def returned(root, exported) -> Path:
    """What went out, brought in again as somebody does who has nothing else."""
    source = ("import", "run.json", str(exported.parent), "--stage", "matching-2", "--codec", "wan", "--output", "returned")
    assert cli.main(list(source)) == 0
    return Path("returned")


def without_starts(root: Path, stage: str) -> Path:
    """A stage's own checkpoint without the clips that worlds may begin from, which weights alone do not have: it begins from nothing."""
    target = root / f"{stage}-alone"
    shutil.copytree(root / "run" / stage / "checkpoint", target, dirs_exist_ok=True)
    (target / "starts.safetensors").unlink()
    return target


def told(checkpoint: Path, frames: int) -> np.ndarray:
    """The frames of a video that `mutoscope generate` writes of a prompt and another one after it."""
    prompts = [f"{CAPTIONS[0]}*{frames - STRIDE}", f"{CAPTIONS[1]}*{STRIDE}"]
    arguments = ["generate", str(checkpoint), "--prompts", "prompts", "--prompt", *prompts, "--scale", "1", "--seed", "3"]
    assert cli.main([*arguments, "--output", "told.mp4"]) == 0
    return read_video(Path("told.mp4"))[0]


def test_what_went_out_and_came_in_again_is_told_the_same_past_the_clip(root, returned):
    frames = 1 + STRIDE * (2 * CLIP_FRAMES)
    assert read_manifest(returned).imported and not (returned / "starts.safetensors").exists()
    found, wanted = told(returned, frames), told(without_starts(root, "matching-2"), frames)
    assert found.shape == (frames, 32, 48, 3) and np.array_equal(found, wanted)
    other = told(without_starts(root, "consistency"), frames)
    assert found.shape == other.shape and not np.array_equal(found, other), "the broken twin: another stage's weights"


def test_what_went_out_and_came_in_again_is_played(root, returned):
    (choice,) = build_catalogue((str(returned),), Loading(), "", Spoken("prompts")).choices
    assert choice.prompts is not None and set(choice.prompts.known) == set(CAPTIONS)
    source = choice.make_source(PaneOptions(choice.steps[0], choice.policies[0]))
    source.say(choice.prompts.embed(CAPTIONS[0]), "keep")
    played = [source.reset(None, 3), *(source.step(np.zeros(0, np.float32)) for _ in range(CLIP_FRAMES))]
    assert [len(part) for part in played] == [1, *[STRIDE] * CLIP_FRAMES]
    own = load_checkpoint(without_starts(root, "matching-2"))
    session = Session(own, default_config(own.manifest))
    session.say(*own.told([CAPTIONS[0]]))
    wanted = [session.reset(None, 3), *(session.step(np.zeros(0, np.float32)) for _ in range(CLIP_FRAMES))]
    assert np.array_equal(np.concatenate(played), np.concatenate(wanted))


@pytest.mark.parametrize("stage", ["autoregressive", "matching-2"])
def test_play_goes_on_past_the_clip_and_shows_what_the_offline_codec_shows(root, stage):
    checkpoint = load(root, stage)
    config = default_config(checkpoint.manifest)
    session = Session(checkpoint, config if stage == "matching-2" else type(config)(2, 2, config.policy))
    session.say(*checkpoint.told([CAPTIONS[0]]))
    first = session.reset(0, 3)
    latents, played = [checkpoint.codec.encode(to_model_pixels(torch.from_numpy(first))[None])], [first]
    for _ in range(CLIP_FRAMES + 1):
        played.append(session.step(np.zeros(0, np.float32)))
        latents.append(session.pending)
    whole = to_frames(checkpoint.codec.decode(torch.cat(latents, dim=1)))[0].numpy()
    assert [len(part) for part in played] == [13, *[STRIDE] * (CLIP_FRAMES + 1)]
    assert np.array_equal(whole[13:], np.concatenate(played[1:])) and session.num_frames == 4 + CLIP_FRAMES + 1
    assert session.num_frames > 2 * CLIP_FRAMES
    forgetful = to_frames(checkpoint.codec.decode(torch.cat(latents[-2:], dim=1)))[0].numpy()
    assert not np.array_equal(forgetful[-STRIDE:], played[-1]), "the codec's state reaches back beyond one frame"


def test_what_was_trained_on_clips_begins_from_nothing_and_its_clips_are_a_choice(root):
    checkpoint = load(root, "matching-2")
    session = Session(checkpoint, default_config(checkpoint.manifest))
    session.say(*checkpoint.told([CAPTIONS[0]]))
    assert checkpoint.manifest.beginning == "nothing" and checkpoint.starts is not None
    assert session.reset(None, 3).shape == (1, 32, 48, 3) and session.generated_chunks == session.num_frames == 1
    assert np.array_equal(session.reset(1, 3), checkpoint.starts.frames[1].numpy()) and session.generated_chunks == 0
    (choice,) = build_catalogue((str(root / "run" / "matching-2"),), Loading()).choices
    assert choice.starts[:2] == ("from nothing", "start 0") and choice.opening == 0
