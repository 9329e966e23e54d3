"""The recall study end to end with random weights: every distance has a row, marked where memory or training end."""

import json
import sys
from pathlib import Path

import pytest

from fakes import scatter_parameters, tiny_config, tiny_manifest
from mutoscope.core.streams import stream
from mutoscope.data.worlds import make_world
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import freeze, save_checkpoint
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.transformer import VideoTransformer
from mutoscope.studies.recall import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A student of the ring that has learned nothing."""
    world = make_world("ring", height=16, width=16, frame_skip=1).unwrapped.world
    codec = ConvCodec(ConvCodecConfig(16, 16, latent_channels=4, widths=(6, 8), blocks=1)).initialise(stream(0, "codec"))
    config = tiny_config(latent=codec.latent, action_dim=world.actions.dim)
    model = VideoTransformer(config).initialise(stream(0, "model"))
    scatter_parameters(model, 0)
    manifest = tiny_manifest(world=world, codec=codec.config, model=config, memory=Window(9), clip_frames=12)
    path = tmp_path / "ring" / "matching-2"
    save_checkpoint(path, manifest, model=freeze(model), average=freeze(model), codec=freeze(codec), starts=None)
    return path


def test_every_distance_has_a_row(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "recall"
    arguments = ["recall", str(checkpoint), "--away", "4", "8", "16", "--lead", "4", "--episodes", "3", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    results = json.loads((output / "recall.json").read_text())
    own = [row for row in results["rows"] if row["label"] == "matching-2, 2 steps"]
    assert [(row["away"], row["within_memory"], row["within_clip"]) for row in own] == [
        (4, True, True),
        (8, True, False),
        (16, False, False),
    ]
    assert all(0 <= row["identity"]["value"] <= 1 for row in own) and len(results["rows"]) == 6
    table = (output / "recall.md").read_text()
    assert "k = 16" in table and "(m) (x)" in table and "| chance |" in table
    assert (output / "recall.png").stat().st_size > 1000


def test_what_cannot_be_asked_is_explained(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["recall", str(checkpoint), "--away", "3", "--output", str(tmp_path / "recall")])
    assert main() == 2 and "takes 4 frames" in capsys.readouterr().err
