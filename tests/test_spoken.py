"""Worlds that are told in words what to show, from the command line: where embeddings come from, what a page may say, videos of prompts."""

import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import tiny_checkpoint, tiny_codec, tiny_config, tiny_manifest, tiny_model, tiny_starts
from mutoscope import cli
from mutoscope.commands import loading, spoken
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.generate import timed_prompt
from mutoscope.commands.loading import Loading
from mutoscope.commands.spoken import Spoken, open_voice
from mutoscope.core.errors import CheckpointError, ConfigError, DataError
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.media.video import read_video
from mutoscope.memory.policy import Window
from mutoscope.models import text_encoders
from mutoscope.models.checkpoint import load_checkpoint, read_manifest, save_checkpoint
from mutoscope.models.text_cache import create_cache
from mutoscope.models.text_config import TextConfig
from mutoscope.models.transformer import VideoTransformer
from mutoscope.serve.catalogue import PaneOptions
from prompt_fakes import TOKENS, WIDTH, FakeEncoder, fake_cache

KNOWN = ("a red square", "a blue one")


@pytest.fixture
def encoder(monkeypatch):
    """Every encoder by any name."""
    made = FakeEncoder()
    monkeypatch.setattr(spoken, "resident_encoder", lambda spoken: made)
    return made


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A student on disk that is told in words, with three embeddings beside it."""
    config = tiny_config(action_dim=0, travel=False, text_dim=WIDTH)
    manifest = tiny_manifest(world=WorldSpec("spoken", 12, 20, 16.0, NO_ACTIONS), model=config, memory=Window(4), beginning="nothing")
    manifest = replace(manifest, conditions=("text",), text=TextConfig("minilm", TOKENS))
    path, model = tmp_path / "student", tiny_model(config).float()
    save_checkpoint(path, manifest, model=model, average=model, codec=tiny_codec(), starts=None)
    fake_cache(path / "prompts", ("", *KNOWN))
    return path


def test_a_page_may_say_what_lies_beside_the_checkpoint(checkpoint):
    (choice,) = build_catalogue((str(checkpoint),), Loading()).choices
    assert choice.prompts is not None and choice.prompts.describe() == {"known": list(KNOWN), "free": False}
    assert any(policy.startswith("anchored=") for policy in choice.policies)
    source = choice.make_source(PaneOptions(2, "window=4"))
    source.say(choice.prompts.embed(KNOWN[0]), "keep")
    first = source.reset(None, 3)
    source.say(choice.prompts.embed(KNOWN[1]), "recommit")
    assert first.shape == (1, 12, 20, 3) and source.step(np.zeros(0, np.float32)).shape == (1, 12, 20, 3)
    with pytest.raises(ConfigError, match="no embedding of 'night'"):
        choice.prompts.check("night")
    with pytest.raises(DataError, match="has no embedding of 'night'"):
        choice.prompts.embed("night")


def test_an_encoder_adds_what_is_missing_once(checkpoint, encoder):
    (choice,) = build_catalogue((str(checkpoint),), Loading(), "", Spoken(encoder="minilm")).choices
    assert choice.prompts is not None and choice.prompts.free
    text, negative = choice.prompts.embed("night")
    assert torch.equal(choice.prompts.embed("night")[0], text) and encoder.asked == ["night"]
    assert text.shape == negative.shape == (1, TOKENS, WIDTH) and bool((text[0, 2:] == 0).all()) and not torch.equal(text, negative)
    again = open_voice(checkpoint, read_manifest(checkpoint), Spoken())
    assert "night" in again.known and torch.equal(again.embed("night")[0], text), "it is on disk, and needs no encoder any more"


def test_another_encoder_adds_nothing_to_a_cache(checkpoint, encoder):
    before = {file.name: file.read_bytes() for file in (checkpoint / "prompts").iterdir()}
    encoder.identity = "fake-2"
    voice = open_voice(checkpoint, read_manifest(checkpoint), Spoken(encoder="minilm"))
    assert voice.embed(KNOWN[0])[0].shape == (1, TOKENS, WIDTH) and encoder.asked == [], "what is there needs no encoder"
    with pytest.raises(DataError, match=rf"prompts was made by fake-1 \({TOKENS} tokens of {WIDTH}\), not by fake-2"):
        voice.embed("night")
    assert {file.name: file.read_bytes() for file in (checkpoint / "prompts").iterdir()} == before and encoder.asked == []


def test_embeddings_elsewhere_and_their_mistakes(checkpoint, encoder, tmp_path):
    manifest = read_manifest(checkpoint)
    with pytest.raises(ConfigError, match="holds no embeddings of prompts; make some"):
        open_voice(checkpoint, manifest, Spoken(str(tmp_path / "nowhere")))
    empty = open_voice(checkpoint, manifest, Spoken(str(tmp_path / "new"), "minilm"))
    assert empty.known == () and encoder.asked == [""], "the negative prompt is needed in any case"
    with pytest.raises(ConfigError, match="holds no prompt to begin with"):
        empty.book()
    create_cache(tmp_path / "wide", "other", WIDTH + 1, TOKENS)
    with pytest.raises(ConfigError, match="other makes embeddings 11 wide, and .*student reads those of minilm, 10 wide"):
        open_voice(checkpoint, manifest, Spoken(str(tmp_path / "wide")))
    encoder.width = WIDTH + 1
    with pytest.raises(ConfigError, match="fake-1 makes embeddings 11 wide"):
        open_voice(checkpoint, manifest, Spoken(str(tmp_path / "unsuited"), "minilm"))
    assert not (tmp_path / "unsuited").exists(), "no cache is left that another encoder would be refused for"
    with pytest.raises(CheckpointError, match="takes no prompts"):
        open_voice(checkpoint, tiny_checkpoint().manifest, Spoken())


@pytest.mark.parametrize("switch", ["recommit", "keep", "cut"])
def test_videos_of_prompts(checkpoint, tmp_path, switch, capsys):
    output = tmp_path / "told.mp4"
    arguments = ["generate", str(checkpoint), "--prompt", f"{KNOWN[0]}*4", f"{KNOWN[1]}*3", "--switch", switch, "--output", str(output)]
    assert cli.main(arguments) == 0
    assert "7 frames at 16 frames/s, 2 prompts" in capsys.readouterr().out and len(read_video(output)[0]) == 7


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (["--prompt", "night*4"], "has no embedding of 'night'"),
        (["--prompt", "night"], "is not words, a star and a number"),
        (["--actions", "stand*4"], "give --prompt"),
        ([], "give --prompt"),
    ],
)
def test_what_cannot_be_told_is_said(checkpoint, asked, words, capsys):
    assert cli.main(["generate", str(checkpoint), *asked]) == cli.MISTAKE
    assert words in capsys.readouterr().err


def encoders_alive(monkeypatch, arguments: list[str], keep: list[FakeEncoder] | None = None) -> tuple[list[int], list[tuple]]:
    """How many encoders there are each time a video model is loaded, and how encoders were asked for."""
    made: list[weakref.ref[FakeEncoder]] = []
    asked, alive = [], []

    def load_encoder(*how: object) -> FakeEncoder:
        encoder = FakeEncoder()
        made.append(weakref.ref(encoder)), asked.append(how)
        if keep is not None:
            keep.append(encoder)
        return encoder

    def load_model(*given, **named):
        alive.append(sum(one() is not None for one in made))
        return original(*given, **named)

    original = loading.load_model
    monkeypatch.setattr(text_encoders, "load_encoder", load_encoder)
    monkeypatch.setattr(loading, "load_model", load_model)
    assert cli.main(arguments) == 0
    return alive, asked


def test_the_encoder_is_gone_before_the_model_is_loaded(checkpoint, tmp_path, monkeypatch):
    arguments = [
        "generate",
        str(checkpoint),
        "--prompt",
        "night*4",
        f"{KNOWN[0]}*2",
        "--encoder",
        "umt5",
        "--output",
        str(tmp_path / "a.mp4"),
    ]
    typed = [*arguments, "--encoder-device", "meta", "--encoder-dtype", "bfloat16"]
    assert encoders_alive(monkeypatch, typed) == ([0], [("umt5", "meta", torch.bfloat16)])
    assert encoders_alive(monkeypatch, arguments) == ([0], []), "all prompts are in the cache: no encoder is loaded"


def test_the_encoder_is_gone_broken_twin_in_which_somebody_keeps_it(checkpoint, tmp_path, monkeypatch):
    arguments = ["generate", str(checkpoint), "--prompt", "night*4", "--encoder", "umt5", "--output", str(tmp_path / "a.mp4")]
    assert encoders_alive(monkeypatch, arguments, keep=[]) == ([1], [("umt5", "cpu", torch.float32)])


def test_play_has_an_encoder_of_its_own_device_and_type(checkpoint, monkeypatch):
    books = []

    def serve(catalogue, **_):
        books.append(catalogue.choices[0].prompts)

    def load_encoder(*how: object) -> FakeEncoder:
        asked.append(how)
        return FakeEncoder()

    asked: list[tuple] = []
    monkeypatch.setattr("mutoscope.serve.app.serve", serve)
    monkeypatch.setattr(text_encoders, "load_encoder", load_encoder)
    spoken.resident_encoder.cache_clear()
    assert cli.main(["play", str(checkpoint), "--encoder", "umt5", "--encoder-device", "meta", "--encoder-dtype", "bfloat16"]) == 0
    assert asked == [], "only what is said and unknown needs it"
    assert books[0].embed("night")[0].shape == (1, TOKENS, WIDTH) == books[0].embed("dusk")[0].shape
    assert asked == [("umt5", "meta", torch.bfloat16)], "it stays for the next prompt"


def test_prompts_with_stars():
    assert timed_prompt("a * b*12") == ("a * b", 12)
    for wrong in ("*3", "night*", "night*0", "night*x"):
        with pytest.raises(ConfigError, match="a star and a number"):
            timed_prompt(wrong)


@pytest.fixture
def with_clips(checkpoint: Path) -> Path:
    """The same student with clips beside it, as it comes out of training on somebody's own."""
    loaded, clips = load_checkpoint(checkpoint), tiny_starts(count=2, context=3)
    starts = replace(clips, actions=clips.actions[:, :, :0], ways=clips.ways[:, :, :0])
    save_checkpoint(checkpoint, loaded.manifest, model=None, average=loaded.model, codec=loaded.codec, starts=starts)
    return checkpoint


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames of every video that would be written, exactly."""
    videos: list[np.ndarray] = []
    monkeypatch.setattr("mutoscope.media.video.write_video", lambda path, frames, rate: videos.append(frames))
    return videos


def test_a_video_begins_from_nothing_unless_a_start_is_named(with_clips, written, capsys):
    arguments = ["generate", str(with_clips), "--prompt", f"{KNOWN[0]}*6", "--scale", "1"]
    for more in ([], ["--start", "none"], ["--start", "1"]):
        assert cli.main([*arguments, *more]) == 0
    own, nothing, named = written
    clip = load_checkpoint(with_clips).starts.frames[1].numpy()
    assert np.array_equal(own, nothing) and np.array_equal(named[:3], clip) and not np.array_equal(own[:3], clip)
    assert cli.main([*arguments, "--start", "2"]) == cli.MISTAKE and "there are starts 0..1" in capsys.readouterr().err


def test_a_page_lists_nothing_before_the_clips_and_opens_with_it(with_clips):
    (choice,) = build_catalogue((str(with_clips),), Loading(), "window=4").choices
    assert (choice.starts, choice.opening) == (("from nothing", "start 0", "start 1"), 0)
    source = choice.make_source(PaneOptions(2, "window=4"))
    source.say(choice.prompts.embed(KNOWN[0]), "keep")
    assert len(source.reset(0, 3)) == 1 and np.array_equal(source.reset(2, 3), load_checkpoint(with_clips).starts.frames[1].numpy())


@pytest.mark.parametrize("switch", ["recommit", "keep", "cut"])
def test_fused_commits_make_the_same_video_with_fewer_forwards(checkpoint, switch, written, monkeypatch):
    forwards, enter = [], VideoTransformer._enter
    monkeypatch.setattr(VideoTransformer, "_enter", lambda self, *given: forwards.append(1) or enter(self, *given))
    arguments = ["generate", str(checkpoint), "--prompt", f"{KNOWN[0]}*6", f"{KNOWN[1]}*4", "--switch", switch, "--scale", "1"]
    counts = []
    for commits in ("own", "fused"):
        forwards.clear()
        assert cli.main([*arguments, "--commits", commits]) == 0
        counts.append(len(forwards))
    own, fused = written
    assert own.std() > 5 and np.abs(own.astype(int) - fused.astype(int)).max() <= 1 and counts[1] <= counts[0] - 6


def test_a_memory_that_cannot_be_fused_is_refused_by_name(checkpoint, capsys):
    arguments = ["generate", str(checkpoint), "--prompt", f"{KNOWN[0]}*6", "--commits", "fused", "--memory", "sink=1,window=3"]
    assert cli.main(arguments) == cli.MISTAKE and "'sink' cannot commit a chunk together" in capsys.readouterr().err
