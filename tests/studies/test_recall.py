"""The recall study end to end with random weights, in both kinds of worlds: a row per distance, marked where memory or training end."""

import json
from pathlib import Path

import numpy as np
import pytest

from camera_world import CameraWorld
from fakes import scatter_parameters, tiny_config, tiny_manifest
from mutoscope import cli
from mutoscope.core.streams import stream
from mutoscope.core.world import WorldSpec
from mutoscope.data import worlds
from mutoscope.data.worlds import make_world
from mutoscope.media.picture import read_picture
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import freeze, save_checkpoint
from mutoscope.models.codec import ConvCodec, ConvCodecConfig
from mutoscope.models.transformer import VideoTransformer
from mutoscope.studies.camera_recall import References


def student(path: Path, world: WorldSpec) -> Path:
    """A student of a world that has learned nothing."""
    codec = ConvCodec(ConvCodecConfig(world.height, world.width, latent_channels=4, widths=(6, 8), blocks=1)).initialise(stream(0, "codec"))
    config = tiny_config(latent=codec.latent, action_dim=world.actions.dim)
    model = VideoTransformer(config).initialise(stream(0, "model"))
    scatter_parameters(model, 0)
    manifest = tiny_manifest(world=world, codec=codec.config, model=config, memory=Window(9), clip_frames=12)
    save_checkpoint(path, manifest, model=freeze(model), average=freeze(model), codec=freeze(codec), starts=None)
    return path


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A student of the ring."""
    return student(tmp_path / "ring" / "matching-2", make_world("ring", height=16, width=16, frame_skip=1).unwrapped.world)


@pytest.fixture
def camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A student of the world with a camera, which is known by name while the test runs."""
    monkeypatch.setitem(worlds.WORLDS, "camera", "camera_world:make_camera")
    return student(tmp_path / "camera" / "matching-2", CameraWorld().world)


def recall(*arguments: object) -> int:
    return cli.main(["recall", *map(str, arguments)])


def test_landmarks_have_a_row_at_every_distance(ring: Path, tmp_path: Path) -> None:
    output = tmp_path / "recall"
    assert recall(ring, "--away", 4, 8, 16, "--lead", 4, "--episodes", 3, "--output", output) == 0
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


def test_returns_have_a_row_for_every_way_distance_and_memory(camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output, asked = tmp_path / "recall", ["--lead", 2, "--look", 1, "--episodes", 3, "--ways", "look", "turn"]
    assert recall(camera, "--memory", "window=4", "sink=1,window=12", "--away", 6, 38, *asked, "--output", output) == 0
    results = json.loads((output / "recall.json").read_text())
    assert [(item["way"], item["away"], item["episodes"]) for item in results["truth"]] == [
        ("look", 6, 3),
        ("look", 38, 3),
        ("turn", 38, 3),
    ]
    assert len(results["left_out"]) == 1 and results["left_out"][0].startswith("turn, k = 6: a full turn with a pause takes")
    labels = ["matching-2, 2 steps, window=4", "matching-2, 2 steps, sink=1,window=12"]
    assert [item["label"] for item in results["candidates"]] == labels
    assert 0 < results["candidates"][0]["memory_bytes"] < results["candidates"][1]["memory_bytes"]
    rows = {(row["label"], row["way"], row["away"]): row for row in results["rows"]}
    assert len(rows) == 3 * 7 and {row["within_memory"] for row in rows.values() if row["label"] == labels[0]} == {False}
    assert [rows[labels[1], "look", away]["within_memory"] for away in (6, 38)] == [True, False]
    assert rows["memory of the last real frame (upper bound)", "look", 6]["recalled"]["value"] == 1
    assert rows["chance", "turn", 38]["identified"] == {"value": 1 / 3, "low": 1 / 3, "high": 1 / 3, "episodes": 3}
    assert rows["chance", "turn", 38]["ssim"]["value"] is None
    table = capsys.readouterr().out
    assert f"| a full turn | {labels[0]} | - | " in table and "| a full turn | chance | - | 0.333 [0.333, 0.333] |" in table
    assert (output / "recall.md").read_text().strip() == table.strip() and (output / "recall.png").stat().st_size > 1000
    # Two ways, each with what was seen, the farthest, the true return and two candidates; three episodes of 96 x 144 and their frames.
    assert read_picture(output / "returns.png").shape[0] == 10 * 98


@pytest.mark.parametrize(("kind", "arguments", "message"), [
    ("ring", ["--away", 3], "takes 4 frames"),
    ("camera", ["--away", 6, "--ways", "turn"], "nothing can be asked: turn, k = 6: a full turn"),
    ("camera", ["--memory", "window=4", "window=4"], "two candidates have one name"),
])  # fmt: skip
def test_what_cannot_be_asked_is_explained(
    kind: str, arguments: list, message: str, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture
) -> None:
    path = request.getfixturevalue(kind)
    assert recall(path, *arguments, "--episodes", 2, "--output", tmp_path / "recall") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "recall" / "recall.json").exists()


def test_candidates_of_two_worlds_are_refused(ring: Path, camera: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert recall(ring, camera, "--output", tmp_path / "recall") == 2
    assert "within one world; these are of camera, ring" in capsys.readouterr().err


def test_recalled_lies_between_what_is_known_without_memory_and_a_whole_memory() -> None:
    ends = References(none=np.array([0.1, 0.3]), whole=np.array([0.7, 0.9]))
    assert np.isclose(ends.recalled(np.array([0.4, 0.6]), 0).value, 0.5) and np.isclose(ends.recalled(ends.whole, 0).low, 1)
    assert np.isclose(ends.recalled(np.array([0.0, 0.2]), 0).value, -1 / 6)
    assert np.isnan(References(ends.whole, ends.none).recalled(ends.none, 0).value)
