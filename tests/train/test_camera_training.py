"""A chain from an imported teacher with a camera: its stages learn from clips that say how the camera moved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from training_fakes import ALONE

from fakes import ACTIONS
from mutoscope.commands.import_ import imported_manifest
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import load_model, read_manifest
from mutoscope.models.foreign import ForeignWeights
from mutoscope.models.wan_weights import import_wan
from mutoscope.train import loop
from mutoscope.train.batch import ClipBatch
from mutoscope.train.chain import Chain, open_chain, train_chain
from mutoscope.train.config import AutoregressiveStage, MatchingStage, PublishedStage, RunConfig
from prompt_fakes import fake_cache
from wan_fakes import SEEN, SEEN_RUN, codec_tensors, wan_tensors
from wan_runs import CAPTIONS, TINY, UPDATE, moving_pictures

ONE = replace(UPDATE, updates=1, save_every=1)
RUN: RunConfig = replace(
    TINY,
    name="tiny-camera",
    model=SEEN_RUN.model,
    stages=(
        PublishedStage("wan"),
        AutoregressiveStage("autoregressive", "wan", ONE),
        MatchingStage("matching", "autoregressive", "wan", ONE, 1, 1, student_every=1, average_from=0),
    ),
)


def record(path: Path, actions: ActionSpec = CAMERA_ACTIONS, frames: int = 18) -> Path:
    """Two episodes under random buttons, with captions and their embeddings."""
    with DatasetWriter(path, WorldSpec("seen", 32, 48, 16.0, actions), seed=0) as writer:
        for episode in range(2):
            held = numpy_stream(0, "held", episode).integers(0, 2, (frames, actions.dim)).astype(np.float32)
            held[0] = 0
            writer.add({"frames": moving_pictures(frames, episode), "actions": held}, caption=CAPTIONS[episode])
    fake_cache(path / "prompts")
    return path


def bring_in(root: Path, run: RunConfig = RUN) -> None:
    """The published teacher in its place."""
    weights = wan_tensors(config=SEEN) if run.model.camera is not None else wan_tensors()
    manifest = imported_manifest(run, run.stages[0], 16.0)
    import_wan(ForeignWeights(root, "", weights, None), manifest, root / "run" / "wan" / "checkpoint", codec_tensors())


def chain_at(root: Path, run: RunConfig = RUN) -> Chain:
    return open_chain(run, root / "run", root / "data", root / "held-out", ALONE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[str, ClipBatch]]:
    """A finished run, and the first clips that every stage read."""
    root, read = tmp_path_factory.mktemp("cameras"), dict[str, ClipBatch]()
    record(root / "data"), record(root / "held-out", frames=61), bring_in(root)

    def look(stage, source, plan, workers, sample) -> None:
        read[plan.name] = source.batch(stage.turns(0)[0], 0, 0, 1)
        loop.run_loop(stage, source, plan, workers, sample)

    with pytest.MonkeyPatch.context() as patched:
        for place, value in (("chain.run_loop", look), ("chain.draw_samples", lambda *given: None)):
            patched.setattr(f"mutoscope.train.{place}", value)
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda folder: None)
        train_chain(chain_at(root), (), lambda stage, path: None)
    return root, read


def test_clips_come_with_the_cameras_of_their_actions(trained):
    _, read = trained
    assert {name: batch.clean.shape[1] for name, batch in read.items()} == {"autoregressive": 3, "matching": 3}
    for batch in read.values():
        told = with_cameras(batch.conditions, RUN.model.camera)
        assert batch.conditions.cameras is not None and told.cameras is not None and torch.equal(batch.conditions.cameras, told.cameras)
        assert batch.conditions.cameras.std(dim=1).max() > 0.1, "cameras moved"


def test_the_branch_learns_in_every_stage(trained):
    root, _ = trained
    before = load_model(root / "run" / "wan" / "checkpoint")[1].state_dict()
    for stage in ("autoregressive", "matching"):
        manifest, model = load_model(root / "run" / stage / "checkpoint")
        assert manifest.conditions == ("camera", "text") and manifest.model == SEEN
        changed = [name for name, value in model.state_dict().items() if "prope_o" in name and not torch.equal(value, before[name])]
        assert len(changed) == 2 * SEEN.num_layers
        before = model.state_dict()


def test_clips_without_a_camera_are_refused(tmp_path):
    bring_in(tmp_path)
    record(tmp_path / "data", ACTIONS), record(tmp_path / "held-out", ACTIONS, frames=61)
    with pytest.raises(ConfigError, match=r"moved by the buttons forward, .* of the world 'seen' are forward, turn_left, turn_right"):
        chain_at(tmp_path)


def test_a_teacher_without_a_camera_is_refused(tmp_path):
    bring_in(tmp_path, replace(RUN, model=replace(RUN.model, camera=None)))
    record(tmp_path / "data"), record(tmp_path / "held-out", frames=61)
    with pytest.raises(
        CheckpointError, match=r"imported for another recipe: model action_dim is 0, needed 8; model camera is None, needed"
    ):
        chain_at(tmp_path)
    assert read_manifest(tmp_path / "run" / "wan" / "checkpoint").conditions == ("text",)
