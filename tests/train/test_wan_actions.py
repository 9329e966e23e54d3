"""Wan's codec under a world with actions: recorded frames, a teacher of one's own, and windows of rollouts longer than a clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

from training_fakes import ALONE

from fakes import ACTIONS
from mutoscope.commands.import_ import imported_manifest
from mutoscope.core.errors import DataError
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import WorldSpec
from mutoscope.data.clips import open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.checkpoint import load_checkpoint
from mutoscope.models.foreign import ForeignWeights
from mutoscope.models.wan_weights import import_wan
from mutoscope.rollout.session import Session, default_config
from mutoscope.train import loop
from mutoscope.train.batch import ClipBatch
from mutoscope.train.chain import Chain, open_chain, train_chain
from mutoscope.train.config import AutoregressiveStage, BidirectionalStage, MatchingStage, PublishedStage, RunConfig
from mutoscope.train.pictures import draw_samples
from prompt_fakes import fake_cache
from wan_fakes import codec_tensors, wan_tensors
from wan_runs import CAPTIONS, CLIP_FRAMES, STRIDE, TINY, UPDATE, moving_pictures

BEYOND, FRAMES, SHOWN = 2, 36, 61
ONE = replace(UPDATE, updates=1, save_every=1)
RUN: RunConfig = replace(
    TINY,
    stages=(
        PublishedStage("wan"),
        BidirectionalStage("teacher", ONE),
        AutoregressiveStage("autoregressive", "teacher", ONE),
        MatchingStage("matching", "autoregressive", "teacher", ONE, 1, 1, student_every=1, average_from=0, frames_beyond_clip=BEYOND),
    ),
)


def record(path: Path, seed: int, frames: int) -> None:
    """Two episodes with captions and their embeddings; the action of frame k has k in its first place."""
    with DatasetWriter(path, WorldSpec("walk", 32, 48, 16.0, ACTIONS), seed=seed) as writer:
        for episode in range(2):
            actions = numpy_stream(seed, "actions", episode).integers(0, 2, (frames, ACTIONS.dim)).astype(np.float32)
            actions[:, 0] = np.arange(frames)
            actions[0] = 0
            writer.add({"frames": moving_pictures(frames, 10 * seed + episode), "actions": actions}, caption=CAPTIONS[episode])
    fake_cache(path / "prompts")


def chain_at(root: Path, run: RunConfig = RUN) -> Chain:
    return open_chain(run, root / "run", root / "data", root / "held-out", ALONE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[str, ClipBatch]]:
    """A finished run, and the first clips that every stage read."""
    root, read = tmp_path_factory.mktemp("actions"), dict[str, ClipBatch]()
    record(root / "data", 0, FRAMES), record(root / "held-out", 1, SHOWN)
    weights = ForeignWeights(root, "", wan_tensors(), None)
    import_wan(weights, imported_manifest(RUN, RUN.stages[0], 16.0), root / "run" / "wan" / "checkpoint", codec_tensors())

    def look(stage, source, plan, workers, sample) -> None:
        read[plan.name] = source.batch(stage.turns(0)[0], 0, 0, 1)
        loop.run_loop(stage, source, plan, workers, sample)

    def draw(chain, stage, *others) -> None:
        if stage.name == "teacher":  # the students' samples are those of test_wan_chain.py
            draw_samples(chain, stage, *others)

    with pytest.MonkeyPatch.context() as patched:
        for place, value in (("pictures.ROWS", 1), ("pictures.SAMPLE_STEPS", 1), ("chain.run_loop", look), ("chain.draw_samples", draw)):
            patched.setattr(f"mutoscope.train.{place}", value)
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda folder: None)
        train_chain(chain_at(root), (), lambda stage, path: None)
    return root, read


def test_every_stage_reads_whole_clips_with_the_actions_of_their_pixel_frames(trained):
    _, read = trained
    lengths = {name: batch.clean.shape[1] for name, batch in read.items()}
    assert lengths == {"teacher": CLIP_FRAMES, "autoregressive": CLIP_FRAMES, "matching": CLIP_FRAMES + BEYOND}
    for name, batch in read.items():
        pixels = 1 + STRIDE * (lengths[name] - 1)
        for number in batch.conditions.actions[..., 0]:
            first = int(number[0, 0])
            assert first % pixels == 0, "a clip begins where one was cut"
            assert number[1:].flatten().tolist() == list(range(first + 1, first + pixels))
            assert number[0].tolist() == [first] * STRIDE


def test_clips_of_every_length_are_cut_once_from_the_recorded_frames(trained):
    root, _ = trained
    found = {path.parent.name: open_dataset(path.parent) for path in root.glob("run/latents/*/*/manifest.json")}
    assert {name: len(dataset.episodes) for name, dataset in found.items()} == {
        "clips-of-3": 2 * 4,
        "clips-of-5": 2 * 2,
    }
    assert {episode.caption for episode in found["clips-of-5"].episodes} == set(CAPTIONS)


def test_the_student_is_played_from_its_starts_with_an_action_for_every_pixel_frame(trained):
    root, _ = trained
    checkpoint = load_checkpoint(root / "run" / "matching" / "checkpoint")
    assert checkpoint.manifest.conditions == ("actions", "text") and checkpoint.starts is not None
    assert checkpoint.starts.frames.shape[1] == 13 and len(list((root / "run" / "teacher" / "samples").glob("*.png"))) == 1
    session = Session(checkpoint, default_config(checkpoint.manifest))
    session.say(*checkpoint.told(CAPTIONS[:1]))
    session.reset(0, 1)
    shown = [session.step(np.eye(ACTIONS.dim, dtype=np.float32)[0]) for _ in range(2)]
    assert [frames.shape for frames in shown] == [(STRIDE, 32, 48, 3)] * 2


def test_episodes_are_as_long_in_pixel_frames_as_clips_are_in_frames(trained):
    root, _ = trained
    long = replace(RUN, stages=(*RUN.stages[:3], replace(RUN.stages[3], frames_beyond_clip=8)))
    with pytest.raises(DataError, match="needs clips of 41 frames, and the longest episode of .*data has 36; record longer ones, or lower"):
        chain_at(root, long)
