"""minWM's layout from the file to frames that keys steer: import, generate, play, with a codec of four pixel frames to a frame."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from dataclasses import replace

from mutoscope import cli
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.loading import Loading
from mutoscope.commands.spoken import Spoken
from mutoscope.core.config import to_plain
from mutoscope.core.files import write_json
from mutoscope.media.sheet import write_png
from mutoscope.media.video import read_video
from mutoscope.models.camera import still_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint
from mutoscope.rollout.session import Session, default_config
from prompt_fakes import fake_cache
from wan_fakes import SEEN, SEEN_RUN, codec_tensors, wan_tensors, write_codec, write_training
from wan_runs import CAPTIONS, STRIDE, moving_pictures
from wan_runs import TINY as SMALL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """An imported student of two steps, with its codec and the prompts of its world."""
    root = tmp_path_factory.mktemp("camera")
    run = replace(SMALL, name="tiny-camera", model=SEEN_RUN.model)
    write_json(root / "run.json", to_plain(run))
    write_training(root / "model.pt", model=wan_tensors(config=SEEN), step=1)
    write_codec(root / "vae", {name: 0.3 * tensor for name, tensor in codec_tensors().items()})
    arguments = ["import", str(root / "run.json"), str(root / "model.pt"), "--stage", "matching-2", "--codec", str(root / "vae")]
    assert cli.main([*arguments, "--output", str(root / "student")]) == 0
    fake_cache(root / "student" / "prompts")
    return root / "student"


def played(loaded: Checkpoint, *names: str) -> np.ndarray:
    """Frames under held keys, a key a chunk."""
    session = Session(loaded, default_config(loaded.manifest))
    session.say(*loaded.told(CAPTIONS[:1]))
    session.reset(None, 3)
    shown = np.concatenate([session.step(CAMERA_ACTIONS.vector(name)) for name in names])
    assert torch.equal(session.camera, still_cameras(1)) == (set(names) == {"stand"})
    return shown


def test_keys_steer_an_imported_student(checkpoint):
    loaded = load_checkpoint(checkpoint)
    forward, left, still = (played(loaded, name, name) for name in ("forward", "turn_left", "stand"))
    assert forward.shape == (2 * STRIDE, 32, 48, 3)
    assert not np.array_equal(forward, still) and not np.array_equal(left, still) and not np.array_equal(forward, left)


def test_the_page_offers_its_keys_and_no_memory_that_it_cannot_have(checkpoint):
    (choice,) = build_catalogue((str(checkpoint),), Loading(), "", Spoken()).choices
    assert choice.world.actions == CAMERA_ACTIONS and choice.prompts is not None
    for policy in choice.policies:
        choice.make_source(replace(choice.options(_request(choice.id)), policy=policy))


def _request(name: str):
    from mutoscope.serve.wire import PaneRequest

    return PaneRequest(name)


def test_a_video_of_a_prompt_and_a_way(checkpoint, tmp_path, capsys):
    def video(name: str, *more: str) -> np.ndarray:
        arguments = ["generate", str(checkpoint), "--prompt", f"{CAPTIONS[0]}*9", "--scale", "1", "--output", str(tmp_path / name), *more]
        assert cli.main(arguments) == 0
        return read_video(tmp_path / name)[0]

    still, walked = video("still.mp4"), video("walked.mp4", "--actions", "forward*4,turn_left*4")
    assert len(still) == len(walked) == 9 and "9 frames at 16 frames/s, 1 prompts" in capsys.readouterr().out
    assert not np.array_equal(still, walked)
    assert cli.main(["generate", str(checkpoint), "--actions", "forward*4"]) == cli.MISTAKE and "give --prompt" in capsys.readouterr().err


def test_a_picture_is_where_the_camera_begins(checkpoint, tmp_path, monkeypatch):
    write_png(tmp_path / "street.png", moving_pictures(1)[0])
    videos: list[np.ndarray] = []
    monkeypatch.setattr("mutoscope.media.video.write_video", lambda path, frames, rate: videos.append(frames))
    arguments = ["generate", str(checkpoint), "--prompt", f"{CAPTIONS[0]}*9", "--scale", "1", "--image", str(tmp_path / "street.png")]
    for actions in ("stand*8", "forward*4,turn_left*4"):
        assert cli.main([*arguments, "--actions", actions]) == 0
    still, walked = videos
    assert len(still) == len(walked) == 9 and np.array_equal(still[0], moving_pictures(1)[0]) and np.array_equal(walked[0], still[0])
    assert not np.array_equal(still[1:5], walked[1:5]), "the first keys move it already"
