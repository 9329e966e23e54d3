"""A picture of one's own as the beginning, from the command line: of a tiny imported Wan with its codec, and of a world with keys."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("cv2")

from fakes import ACTIONS, tiny_checkpoint
from mutoscope import cli
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.loading import Loading
from mutoscope.commands.pictures import Pictures, read_pictures
from mutoscope.core.errors import DataError
from mutoscope.data.worlds.captioned import crop
from mutoscope.data.worlds.picture import scale
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mutoscope.models.codec import to_model_pixels
from mutoscope.rollout.session import Session, default_config
from mutoscope.serve import app
from mutoscope.serve.catalogue import Catalogue
from mutoscope.serve.sources import FROM_NOTHING
from wan_runs import CAPTIONS, STRIDE, import_student, moving_pictures

SIZE = (32, 48)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """An imported student of two steps with its codec and prompts (`wan`), and two pictures of other shapes."""
    root = tmp_path_factory.mktemp("pictures")
    import_student(root)
    for name, seed in (("street.png", 1), ("harbour.png", 2)):
        Image.fromarray(moving_pictures(1, seed, 64, 72)[0]).save(root / name)
    return root


def picture(root: Path, name: str = "street.png") -> np.ndarray:
    return np.array(Image.open(root / name))


def begun(root: Path, pictures: Pictures, chunk_frames: int = 1) -> tuple[Session, np.ndarray]:
    """A session after its beginning with the first picture, and what it showed."""
    loaded = pictures.before(load_checkpoint(root / "student"))
    loaded = replace(loaded, manifest=replace(loaded.manifest, chunk_frames=chunk_frames, memory=Window(2 * chunk_frames + 1)))
    session = Session(loaded, default_config(loaded.manifest))
    session.say(*loaded.told(CAPTIONS[:1]))
    return session, session.reset(0, 3)


def committed_is(root: Path, pictures: Pictures, wanted: np.ndarray) -> bool:
    """Whether what stands in memory as frame 0 is the codec's latent of a picture `[H, W, 3]`."""
    session, _ = begun(root, pictures)
    (first,) = session.recent.chunks
    latent = session.codec.encode(to_model_pixels(torch.from_numpy(wanted)[None, None]))
    assert first.start == 0 and session.num_frames == 1 and first.latents.shape == latent.shape == (1, 1, 4, 4, 6)
    return torch.equal(first.latents, latent)


def test_frame_0_is_the_codecs_latent_of_the_cropped_picture(root):
    street = read_pictures([root / "street.png"], "crop")
    assert committed_is(root, street, crop(picture(root), *SIZE))
    assert committed_is(root, replace(street, fit="stretch"), scale(picture(root), *SIZE))
    assert not committed_is(root, street, scale(picture(root), *SIZE)), "a crop of another shape is not the whole"


def test_frame_0_is_the_codecs_latent_broken_twin_with_a_mirrored_picture(root):
    street = read_pictures([root / "street.png"], "crop")
    mirrored = replace(street, images=(np.ascontiguousarray(street.images[0][:, ::-1]),))
    assert not committed_is(root, mirrored, crop(picture(root), *SIZE))


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_the_picture_is_shown_and_the_stream_goes_on_from_it(root, chunk_frames):
    street, harbour = (read_pictures([root / name], "crop") for name in ("street.png", "harbour.png"))
    played = {}
    for name, pictures in (("street", street), ("harbour", harbour)):
        session, first = begun(root, pictures, chunk_frames)
        assert first.shape == (1, *SIZE, 3) and np.array_equal(first[0], crop(picture(root, f"{name}.png"), *SIZE))
        played[name] = np.concatenate([session.step(np.zeros(0, np.float32)) for _ in range(3)])
        assert len(played[name]) == 3 * chunk_frames * STRIDE and session.num_frames == 1 + 3 * chunk_frames
    assert not np.array_equal(played["street"], played["harbour"]), "the model reads what was committed"


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames of every video that would be written, exactly."""
    videos: list[np.ndarray] = []
    monkeypatch.setattr("mutoscope.media.video.write_video", lambda path, frames, rate: videos.append(frames))
    return videos


def test_a_video_of_a_prompt_begins_with_the_picture(root, written):
    arguments = ["generate", str(root / "student"), "--prompt", f"{CAPTIONS[0]}*9", f"{CAPTIONS[1]}*5", "--scale", "1"]
    street = ["--image", str(root / "street.png")]
    for more in ([], street, [*street, "--fit", "stretch"], [*street, "--switch", "cut"]):
        assert cli.main([*arguments, *more]) == 0
    nothing, cropped, stretched, cut = written
    assert np.array_equal(cropped[0], crop(picture(root), *SIZE)) and np.array_equal(stretched[0], scale(picture(root), *SIZE))
    assert len(nothing) == len(cropped) and not np.array_equal(nothing[0], cropped[0])
    assert np.array_equal(cut[:9], cropped[:9]) and np.array_equal(cut[9], cut[0]), "a new scene begins with the picture again"


def test_a_world_with_keys_begins_with_a_picture_too(root, tmp_path, written, capsys):
    made, path = tiny_checkpoint(), tmp_path / "keys"
    save_checkpoint(path, made.manifest, model=None, average=made.model, codec=made.codec, starts=made.starts)
    arguments = ["generate", str(path), "--actions", f"{ACTIONS.names[0]}*5", "--scale", "1"]
    for more in ([], ["--image", str(root / "street.png")]):
        assert cli.main([*arguments, *more]) == 0
    own, begun_with = written
    assert len(own) == made.starts.frames.shape[1] + 5 and len(begun_with) == 1 + 5
    assert np.array_equal(begun_with[0], crop(picture(root), 12, 20)) and "the first 1 are real" in capsys.readouterr().out
    learned, *_ = build_catalogue((str(path),), Loading(), "", pictures=read_pictures([root / "street.png"], "crop")).choices
    assert (learned.starts, learned.opening) == (("street.png",), 0)
    plain, *_ = build_catalogue((str(path),), Loading()).choices
    assert (plain.starts, plain.opening) == (("start 0", "start 1"), None)


def served(monkeypatch, *arguments: str) -> Catalogue:
    """What `mutoscope play` would serve."""
    catalogues: list[Catalogue] = []
    monkeypatch.setattr(app, "serve", lambda catalogue, **options: catalogues.append(catalogue))
    assert cli.main(["play", *arguments]) == 0
    return catalogues[0]


def test_the_page_lists_the_pictures_and_opens_with_the_first(root, monkeypatch):
    files = [str(root / "street.png"), str(root / "harbour.png")]
    (choice,) = served(monkeypatch, str(root / "student"), "--memory", "window", "--image", *files).choices
    assert (choice.starts, choice.opening) == ((FROM_NOTHING, "street.png", "harbour.png"), 1)
    assert choice.prompts is not None
    source = choice.make_source(choice.options(_request(choice.id)))
    source.say(choice.prompts.embed(CAPTIONS[0]), "keep")
    nothing, *shown = (source.reset(start, 5) for start in range(3))
    for name, first in zip(("street.png", "harbour.png"), shown, strict=True):
        assert np.array_equal(first[0], crop(picture(root, name), *SIZE))
    assert not np.array_equal(nothing[0], shown[0][0]) and source.step(np.zeros(0, np.float32)).shape == (STRIDE, *SIZE, 3)
    (plain,) = served(monkeypatch, str(root / "student")).choices
    assert (plain.starts, plain.opening) == ((), None), "where there is nothing to choose from, there is no list"


def _request(name: str):
    from mutoscope.serve.wire import PaneRequest

    return PaneRequest(name)


@pytest.mark.parametrize("command", ["generate", "play"])
def test_pictures_that_cannot_be_read_are_said_before_anything_is_loaded(root, command, monkeypatch, capsys):
    monkeypatch.setattr("mutoscope.models.checkpoint.load_checkpoint", lambda *given: pytest.fail("loaded"))
    (root / "broken.png").write_bytes((root / "street.png").read_bytes()[:80])
    for name, words in (("gone.png", "does not exist"), ("broken.png", "cannot be read as a picture")):
        assert cli.main([command, str(root / "student"), "--image", str(root / name)]) == cli.MISTAKE
        assert name in (said := capsys.readouterr().err) and words in said
    with pytest.raises(DataError):
        read_pictures([root / "street.png", root / "gone.png"], "crop")


def test_a_picture_and_a_start_clip_are_one_too_many(root, capsys):
    arguments = ["generate", str(root / "student"), "--prompt", f"{CAPTIONS[0]}*9", "--image", str(root / "street.png"), "--start", "1"]
    assert cli.main(arguments) == cli.MISTAKE and "leave --start 1 out" in capsys.readouterr().err


def test_pictures_leave_a_checkpoint_without_them_as_it_is():
    checkpoint = tiny_checkpoint()
    assert isinstance(checkpoint, Checkpoint) and Pictures().before(checkpoint) is checkpoint
