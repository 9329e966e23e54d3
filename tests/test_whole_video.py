"""`mutoscope generate` with a bidirectional teacher: a clip at once, by a prompt or by keys."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fakes import ACTIONS, tiny_checkpoint, tiny_codec, tiny_config, tiny_manifest, tiny_model
from mutoscope import cli
from mutoscope.core.streams import derive_seed, stream
from mutoscope.core.world import NO_ACTIONS
from mutoscope.models.checkpoint import freeze, save_checkpoint
from mutoscope.models.text_config import TextConfig
from mutoscope.rollout.whole_clip import whole_clips
from prompt_fakes import TOKENS, WIDTH, fake_cache


@pytest.fixture
def written(monkeypatch) -> list[np.ndarray]:
    """The frames of every video that would be written, exactly."""
    videos: list[np.ndarray] = []
    monkeypatch.setattr("mutoscope.media.video.write_video", lambda path, frames, rate: videos.append(frames))
    return videos


@pytest.fixture
def with_keys(tmp_path) -> Path:
    made = tiny_checkpoint("bidirectional")
    save_checkpoint(tmp_path / "keys", made.manifest, model=None, average=made.model, codec=made.codec, starts=made.starts)
    return tmp_path / "keys"


@pytest.fixture
def with_words(tmp_path) -> Path:
    config, world = tiny_config(action_dim=0, travel=False, text_dim=WIDTH), replace(tiny_manifest().world, actions=NO_ACTIONS)
    manifest = tiny_manifest("bidirectional", model=config, world=world, text=TextConfig("minilm", TOKENS), conditions=("text",))
    model = freeze(tiny_model(config).float())
    save_checkpoint(tmp_path / "words", manifest, model=None, average=model, codec=tiny_codec(), starts=None)
    fake_cache(tmp_path / "words" / "prompts")
    return tmp_path / "words"


def test_keys_steer_a_clip(with_keys, written, capsys):
    script = [f"{ACTIONS.names[0]}*3,{ACTIONS.names[1]}*2", f"{ACTIONS.names[2]}*5"]
    for actions in script:
        assert cli.main(["generate", str(with_keys), "--actions", actions, "--steps", "3", "--scale", "1"]) == 0
    first, other = written
    assert "6 frames at 17.5 frames/s, one clip" in capsys.readouterr().out
    made, latent = tiny_checkpoint("bidirectional"), tiny_checkpoint().codec.latent
    noise = torch.randn(
        (1, 6, latent.channels, latent.height, latent.width), generator=stream(derive_seed(0, "generate whole clip"), "noise")
    )
    actions = torch.zeros(1, 6, 3)
    actions[0, 1:4, 0] = actions[0, 4:, 1] = 1
    np.testing.assert_array_equal(first, whole_clips(made, noise, actions, torch.arange(6)[None] > 0, text=None, steps=3)[0])
    assert (first != other).any()


def test_a_prompt_makes_a_clip_and_guidance_another(with_words, written):
    command = ["generate", str(with_words), "--steps", "2", "--scale", "2", "--prompt"]
    for more in (["a red disc*4"], ["a blue cross*4"], ["a red disc*4", "--guidance", "4"], ["a red disc*4", "--seed", "1"]):
        assert cli.main([*command, *more]) == 0
    assert {video.shape for video in written} == {(4, 24, 40, 3)}
    assert len({video.tobytes() for video in written}) == 4
    assert cli.main([*command, "a red disc*4", "--precision", "bf16"]) == 0
    assert np.abs(written[-1].astype(float) - written[0]).mean() < np.abs(written[1].astype(float) - written[0]).mean()


@pytest.mark.parametrize(
    ("asked", "said"),
    [([], "makes a clip as long as it is told"), (["--actions", "stand*3", "--steps", "0"], "--steps must be at least 1, got 0")],
)
def test_a_clip_of_no_length_or_no_steps_is_refused(asked, said, with_keys, written, capsys):
    assert cli.main(["generate", str(with_keys), *asked]) == cli.MISTAKE
    assert said in capsys.readouterr().err and not written


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (["--memory", "window=4"], "--memory"),
        (["--start", "0"], "--start"),
        (["--prompt", "a red disc*4", "a blue cross*4"], "more than one --prompt"),
        (["--commits", "fused"], "--commits, --attention, --runner, --cache"),
    ],
)
def test_what_belongs_to_a_stream_is_refused_by_name(asked, named, with_words, written, capsys):
    prompt = [] if "--prompt" in asked else ["--prompt", "a red disc*4"]
    assert cli.main(["generate", str(with_words), *prompt, *asked]) == cli.MISTAKE
    assert f"makes a whole clip at once and has no memory; leave out {named}, or give" in capsys.readouterr().err and not written
