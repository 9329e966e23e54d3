"""`--decoder` from the command line to pictures: a tiny imported Wan shown whole, in tiles, and by a tiny decoder from a file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("diffusers")

from fakes import tiny_checkpoint
from mutoscope import cli
from mutoscope.commands import play
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.fitting import wan_decoders
from mutoscope.commands.loading import Loading, loading_of
from mutoscope.commands.spoken import Spoken
from mutoscope.core.errors import MutoscopeError
from mutoscope.core.streams import normal, stream
from mutoscope.media.video import read_video
from mutoscope.models.checkpoint import save_checkpoint
from mutoscope.models.codec import to_frames
from mutoscope.models.live_bytes import decoding_bytes
from mutoscope.models.split_codec import SplitCodec
from mutoscope.models.tiled_codec import TiledCodec
from mutoscope.models.tiny_codec import TinyCodec, taew_2_1
from mutoscope.rollout.footprint import OPTIONS, Decoder, Held, Playing
from mutoscope.rollout.recent import RecentChunks
from mutoscope.rollout.session import Session, default_config
from mutoscope.rollout.speed import Speed
from wan_runs import CAPTIONS, STRIDE, import_student

SMALL_TILES, ONE_TILE = "tiles=3x4,1", "tiles=4x6,1"  # of 4 x 6 cells


def write_tiny(path: Path, channels: int) -> Path:
    """A file of TAEHV's layout with random weights, for latents of so many channels."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in TinyCodec(taew_2_1(32, 48, channels)).state_dict().items()}
    drawn = {name: normal(shape, stream(0, name)) / max(np.prod(shape[1:]), 4) ** 0.5 for name, shape in shapes.items()}
    save_file(drawn, path) if path.suffix == ".safetensors" else torch.save(drawn, path)
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """An imported student of two steps with its codec and prompts, and tiny decoders beside it."""
    root = tmp_path_factory.mktemp("decoders")
    import_student(root)
    write_tiny(root / "tiny.safetensors", 4)
    write_tiny(root / "tiny.pth", 4)
    write_tiny(root / "taew2_1.pth", 16)
    return root


def video(root: Path, decoder: str, *more: str) -> np.ndarray:
    """Nine pixel frames of `mutoscope generate`."""
    file = root / "made.mp4"
    asked = ["generate", str(root / "student"), "--prompt", f"{CAPTIONS[0]}*9", "--scale", "1", "--output", str(file)]
    assert cli.main([*asked, "--decoder", decoder, *more]) == 0
    return read_video(file)[0].astype(int)


def test_generate_shows_the_same_world_by_every_decoder(root):
    whole, one, tiles = video(root, "whole"), video(root, ONE_TILE), video(root, SMALL_TILES)
    assert whole.shape == (9, 32, 48, 3) and np.array_equal(whole, one)
    assert tiles.shape == whole.shape and 0 < np.abs(tiles - whole).mean() < np.abs(whole[:, ::-1] - whole).mean()
    tiny = video(root, str(root / "tiny.pth"))
    assert tiny.shape == whole.shape and np.array_equal(tiny, video(root, str(root / "tiny.safetensors")))
    assert np.abs(tiny - whole).mean() > np.abs(tiles - whole).mean()


def test_generate_in_bfloat16_is_near_and_takes_every_speed_option(root):
    wide, narrow = video(root, "whole"), video(root, "whole", "--precision", "bf16")
    assert 0 < np.abs(wide - narrow).mean() < np.abs(wide[:, ::-1] - wide).mean() / 4
    assert np.array_equal(narrow.shape, video(root, SMALL_TILES, "--precision", "bf16", "--cache", "int8", "--runner", "static").shape)


def switched(root: Path, *more: str) -> np.ndarray:
    """A video of two prompts, after the second of which the newest chunks are committed once more."""
    file = root / "switched.mp4"
    asked = ["generate", str(root / "student"), "--prompt", f"{CAPTIONS[0]}*13", f"{CAPTIONS[1]}*12", "--scale", "1"]
    assert cli.main([*asked, "--output", str(file), *more]) == 0
    return read_video(file)[0].astype(int)


def test_fused_commits_make_the_same_video_of_prompts(root, monkeypatch):
    """Chunks that were committed together with the next one are among those that a switch of the prompt writes again."""
    own, fused = switched(root), switched(root, "--commits", "fused")
    assert len(own) == 25 and np.abs(own - fused).max() <= 2, "rounding of larger products"
    # Broken twin: nobody remembers what was committed on the way.
    monkeypatch.setattr(RecentChunks, "add", lambda *_: None)
    forgotten = switched(root, "--commits", "fused")
    assert np.array_equal(forgotten[:13], fused[:13]) and np.abs(forgotten[13:] - own[13:]).max() > 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("decoder", ["whole", "tiles", SMALL_TILES, "tiny.pth"])
def test_play_streams_what_the_decoder_makes_of_the_whole_clip(root, decoder, precision):
    """A pane of the player: its pictures are the decoder's of all latents at once, which were never seen side by side."""
    asked = decoder if "tiny" not in decoder else str(root / decoder)
    (choice,) = build_catalogue((str(root / "student"),), Loading(precision=precision, decoder=asked), "", Spoken()).choices
    assert choice.prompts is not None
    loaded = Loading(precision=precision, decoder=asked).load(root / "student")
    session, heard, codec = Session(loaded, default_config(loaded.manifest)), list[Tensor](), loaded.codec
    session.codec = Listening(codec, heard)  # type: ignore[assignment]
    session.say(*loaded.told(CAPTIONS[:1]))
    shown = [session.reset(None, 3)] + [session.step(np.zeros(0, np.float32)) for _ in range(3)]
    offline = to_frames(codec.decode(torch.cat(heard, dim=1))).numpy()[0].astype(int)
    assert offline.shape == (1 + 3 * STRIDE, 32, 48, 3) and offline.std() > 1
    assert np.abs(offline - np.concatenate(shown)).max() <= 1, "rounding of pixels"


class Listening:
    """A codec that notes every latent frame it decodes."""

    def __init__(self, codec: Any, heard: list[Tensor]) -> None:
        self.codec, self.heard = codec, heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self.codec, name)

    def decode_next(self, latents: Tensor, state: Any) -> Any:
        self.heard.append(latents)
        return self.codec.decode_next(latents, state)


def counted(codec: Any) -> int:
    """Bytes of a loaded codec's decoding on a device."""
    weights, shown = (codec.whole, codec.tile) if isinstance(codec, TiledCodec) else (codec, codec)
    weights.to("meta")
    return decoding_bytes(shown, weights).total


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_planner_counts_the_decoders_that_play_makes(root, plans, precision):
    """Bytes of weights, state and work of every decoder that `Loading` makes are those of the planner to the byte, in both types."""
    kinds = []
    for decoder, plan in zip(("whole", "tiles", str(root / "tiny.pth")), plans, strict=True):
        codec: Any = Loading(precision=precision, decoder=decoder).load(root / "student").codec
        kinds.append(type(codec))
        chosen, other = (plan.narrow, plan.wide) if precision == "bf16" else (plan.wide, plan.narrow)
        pictures = 4 * STRIDE * 3 * 32 * 48 if decoder == "tiles" else 0
        taken = counted(codec)
        assert chosen.device == taken + pictures, decoder
        assert abs(other.device - chosen.device) > 0.3 * taken, "a planner that counted the other type would be seen"
    assert kinds[1:] == [TiledCodec, SplitCodec]


@pytest.fixture(scope="module")
def plans(root) -> tuple[Decoder, ...]:
    """The planner's decoders of this world."""
    config: Any = Loading().load(root / "student").manifest.codec
    return wan_decoders(config)


def test_what_is_proposed_can_be_asked_of_play(root, plans):
    """The planner's last step in the words of the command line, which play understands."""
    manifest = Loading().load(root / "student").manifest
    assert manifest.model is not None and manifest.memory is not None and all(option.ready for option in OPTIONS)
    state = Playing(manifest.model, manifest.memory, plans[:2], 1, 2)
    assert state.asked == "" and "mutoscope play" not in state.words and isinstance(state.held, Held)
    for option in OPTIONS:
        state = option.change(state) or state
    assert state.asked == "--precision bf16 --decoder tiles=32x32,8 --cache int8 --weights int8" and state.words.endswith(state.asked)
    options: Any = cli.parse("play", play, state.asked.split())
    wanted = replace(Loading(), precision="bf16", decoder="tiles=32x32,8", weights="int8", speed=Speed(cache="int8"))
    assert loading_of("cpu", options.loading) == wanted


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ("taew2_1.pth", "decodes latents of 16 channels, and this world's have 4"),
        ("absent.pth", r"absent\.pth' is no name and no file that is there; give one of: whole, tiles"),
        ("wan/vae/diffusion_pytorch_model.safetensors", r"has no layer 'decoder\.1\.weight'; a tiny decoder is a file of TAEHV's layout"),
        ("tiles=2x2,2", "tiles of 2x2 cells cannot share 2"),
        ("tiles=2x2", "'tiles=2x2' are no tiles; the decoder is one of"),
    ],
)
def test_decoders_that_cannot_be_are_explained_before_a_page_opens(root, decoder, message, capsys):
    asked = decoder if "=" in decoder else str(root / decoder)
    with pytest.raises(MutoscopeError, match=message):
        build_catalogue((str(root / "student"),), Loading(decoder=asked))
    assert cli.main(["generate", str(root / "student"), "--prompt", "a red disc*9", "--decoder", asked]) == cli.MISTAKE
    assert "mutoscope generate: " in capsys.readouterr().err


def test_a_small_codec_has_no_tiles(tmp_path):
    made = tiny_checkpoint()
    save_checkpoint(tmp_path / "small", made.manifest, model=None, average=made.model, codec=made.codec, starts=made.starts)
    with pytest.raises(MutoscopeError, match="a small codec of its own, and decoders in tiles or from a file are for Wan's"):
        build_catalogue((str(tmp_path / "small"),), Loading(decoder="tiles"))
