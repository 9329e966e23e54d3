"""`scroll-smoke` from nothing: recorded, trained through every stage, pictured, loaded and played."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds import make_world
from mutoscope.media.picture import read_picture
from mutoscope.media.video import read_video
from mutoscope.models.checkpoint import load_checkpoint
from mutoscope.recipes import recipe
from mutoscope.rollout.session import default_config
from mutoscope.rollout.world import LearnedWorld
from mutoscope.train import monitor
from mutoscope.train.chain import open_chain, train_chain
from mutoscope.train.parallel import Workers

# Twelve seconds on an idle core; a core that is shared may take long.
pytestmark = pytest.mark.timeout(1500)
RUN = recipe("scroll-smoke")
VIDEO_STAGES = [stage.name for stage in RUN.stages[1:]]


def record_clips(path: Path, episodes: int, seed: int) -> None:
    data = RUN.data
    sizes = {"height": data.height, "width": data.width, "frame_skip": data.frame_skip}
    options = RecordOptions(data.world, episodes, data.frames_per_episode, seed=seed, **sizes)
    record(lambda: make_world(data.world, **sizes), path, options)


def train_at(root: Path) -> list[str]:
    """Train what is missing; the names of the stages that were."""
    done: list[str] = []
    chain = open_chain(RUN, root / "run", root / "train", root / "held-out", Workers(0, 1, torch.device("cpu")))
    train_chain(chain, (), lambda stage, path: done.append(stage.name))
    return done


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The run folder `run` with its data beside it."""
    root = tmp_path_factory.mktemp("smoke")
    record_clips(root / "train", RUN.data.episodes, 0)
    record_clips(root / "held-out", RUN.data.held_out_episodes, 1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(monitor, "_tensorboard", lambda folder: None)
        assert train_at(root) == [stage.name for stage in RUN.stages]
    return root


def test_every_stage_shows_curves_and_real_beside_made_clips(root):
    for stage in RUN.stages:
        folder = root / "run" / stage.name
        assert read_picture(folder / "curves.png").std() > 0
        assert [path.name for path in sorted((folder / "samples").glob("*.png"))] == ["update-00000002.png", "update-00000004.png"]
    for name in VIDEO_STAGES:
        frames, rate = read_video(root / "run" / name / "samples" / "update-00000004.mp4")
        assert frames.shape[2] >= 2 * 4 * RUN.data.width or frames.shape[1] >= 4 * RUN.data.height
        assert rate > 0 and frames.std() > 0


@pytest.mark.parametrize("name", [name for name in VIDEO_STAGES if name != "bidirectional"])  # which makes whole clips
def test_every_causal_stage_can_be_played(root, name):
    checkpoint = load_checkpoint(root / "run" / name / "checkpoint")
    world = LearnedWorld(checkpoint, default_config(checkpoint.manifest))
    image, _ = world.reset(seed=0)
    after = world.step(world.action_space.sample())[0]
    assert image.shape == after.shape == (RUN.data.height, RUN.data.width, 3) and after.dtype == np.uint8


def test_the_same_command_again_trains_nothing_and_a_lost_stage_alone_is_made_again(root, monkeypatch):
    monkeypatch.setattr(monitor, "_tensorboard", lambda folder: None)
    assert train_at(root) == []
    before = (root / "run" / "ode" / "checkpoint" / "model.safetensors").read_bytes()
    shutil.rmtree(root / "run" / "ode")
    assert train_at(root) == ["ode"]
    assert (root / "run" / "ode" / "checkpoint" / "model.safetensors").read_bytes() == before
