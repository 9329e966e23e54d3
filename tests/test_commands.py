"""What stands behind the commands: which checkpoint, which policy, which changes; generate and bench on a small untrained model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutoscope import cli
from mutoscope.commands import checkpoints
from mutoscope.commands.checkpoints import bundled_first, find_checkpoint, parse_policy, policy_text, session_config
from mutoscope.commands.generate import continue_start, enlarge
from mutoscope.commands.overrides import override
from mutoscope.commands.roofline import count_bytes, count_flops
from mutoscope.commands.script import parse_script
from mutoscope.commands.train import read_recipe
from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.config import to_plain
from mutoscope.core.errors import CapacityError, CheckpointError, ConfigError
from mutoscope.core.files import write_json
from mutoscope.memory.policy import Full, SinkWindow, Window
from mutoscope.models.checkpoint import Checkpoint, read_manifest, save_checkpoint
from mutoscope.recipes import RECIPES, recipe
from mutoscope.rollout.session import Session

SIZES = st.integers(1, 99)
POLICIES = st.builds(Full, SIZES) | st.builds(Window, SIZES) | st.builds(SinkWindow, SIZES, SIZES)


@pytest.fixture(scope="module")
def untrained() -> Checkpoint:
    return untrained_checkpoint(recipe("scroll-smoke"), "cpu")


def save(untrained: Checkpoint, path: Path, **changes: object) -> Path:
    manifest = replace(untrained.manifest, **changes)
    save_checkpoint(path, manifest, model=None, average=untrained.model, codec=untrained.codec, starts=untrained.starts)
    return path


@given(POLICIES)
def test_policies_are_read_as_they_are_written(policy):
    assert parse_policy(policy_text(policy)) == policy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("window", "'window' is not a name and a number of frames; write it like window=16"),
        ("window=", "'window=' is not a name"),
        ("window=-1", "'window=-1' is not a name"),
        ("window=0", "window of at least 1, got 0"),
        ("window=4,window=5", "'window=5' is not a name"),
        ("ring=4", "unknown memory policy 'ring'; known: full, sink, window"),
        ("sink=4", "takes sink, window, got {'sink': 4}"),
        ("", "'' is not a name"),
    ],
)
def test_policies_that_cannot_be_are_named(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_policy(text)


def test_a_session_is_as_the_manifest_says_unless_told_otherwise(untrained):
    manifest = untrained.manifest
    config = session_config(manifest, steps=None, policy=None, seed=3)
    assert (config.steps, config.first_chunk_steps, config.policy, config.seed) == (2, 4, manifest.memory, 3)
    config = session_config(manifest, steps=1, policy="sink=1,window=3", seed=0)
    assert (config.steps, config.first_chunk_steps, config.policy) == (1, 4, SinkWindow(1, 3))
    with pytest.raises(ConfigError, match="steps must be at least 1, got 0"):
        session_config(manifest, steps=0, policy=None, seed=0)
    with pytest.raises(CheckpointError, match="no memory policy"):
        session_config(replace(manifest, memory=None), steps=None, policy=None, seed=0)


def test_checkpoints_are_found_by_path_stage_and_bundled_name(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path / "bundled")
    stage = save(untrained, tmp_path / "run" / "matching-2" / "checkpoint")
    bundled = save(untrained, tmp_path / "bundled" / "maze")
    assert find_checkpoint(str(stage)) == find_checkpoint(str(stage.parent)) == stage
    assert find_checkpoint("maze") == bundled
    with pytest.raises(CheckpointError, match="holds several stages; give one of: .*matching-2"):
        find_checkpoint(str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"'cellar' is no checkpoint.*bundled: maze\)"):
        find_checkpoint("cellar")


def test_the_bundled_default_is_the_two_step_student(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "BUNDLED", tmp_path)
    with pytest.raises(CheckpointError, match="no world is bundled"):
        bundled_first()
    save(untrained, tmp_path / "a", stage="autoregressive", student_steps=32)
    save(untrained, tmp_path / "b", student_steps=4)
    wanted = save(untrained, tmp_path / "c", student_steps=2)
    save(untrained, tmp_path / "d", stage="consistency", student_steps=2)
    assert bundled_first() == wanted


def test_changes_reach_their_place_and_no_other():
    before = recipe("scroll")
    after = override(before, ["model.dim=192", "stages.codec.update.updates=7", "memory.window=21", "name=wide"])
    assert (after.model.dim, after.stages[0].update.updates, after.memory, after.name) == (192, 7, Window(21), "wide")
    undone = override(after, ["model.dim=96", "stages.codec.update.updates=600", "memory.window=20", "name=scroll"])
    assert undone == before
    assert override(before, []) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "model.dimension=1",
            "unknown key 'dimension' in 'model.dimension=1'|unknown key 'dimension' in 'model.dimension'; known there: dim, ",
        ),
        ("stages.matching.update=1", "unknown key 'matching'.*known there: codec, bidirectional"),
        ("stages.codec=1", "'stages.codec' is a whole stage; name one of its keys: name, update"),
        ("model.dim.x=1", "unknown key 'x' in 'model.dim.x'; known there: none, it is a value"),
        ("model.dim=wide", "recipe.model.dim is 'wide'; it must be of type int"),
        ("clip_frames=1", "clips of 1 frames"),
        ("model.dim", "'model.dim' is not a change"),
    ],
)
def test_changes_that_cannot_be_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        override(recipe("scroll"), [change])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_returns_from_its_run_json(name, tmp_path):
    write_json(tmp_path / "run.json", to_plain(recipe(name)))
    assert read_recipe(str(tmp_path / "run.json"), ()) == recipe(name)


def test_an_unknown_recipe_lists_the_known_ones(capsys):
    assert cli.main(["train", "quake"]) == 2
    assert "unknown recipe 'quake'; known: doom" in capsys.readouterr().err
    assert cli.main(["train", "nowhere/run.json"]) == 2
    assert "nowhere/run.json does not exist" in capsys.readouterr().err


def test_generated_frames_follow_the_start_and_repeat_with_the_seed(untrained):
    script = parse_script("forward*3,left*2", untrained.manifest.world.actions)
    config = session_config(untrained.manifest, steps=2, policy=None, seed=1)
    frames = continue_start(untrained, config, 0, script)
    assert frames.shape == (4 + 5, 32, 32, 3) and frames.dtype == np.uint8
    assert (frames[:4] == 128).all()
    assert np.array_equal(frames, continue_start(untrained, config, 0, script))
    assert not np.array_equal(frames, continue_start(untrained, replace(config, seed=2), 0, script))


def test_generate_explains_what_cannot_be(untrained):
    script = parse_script("forward*9", untrained.manifest.world.actions)
    config = session_config(untrained.manifest, steps=1, policy="full=6", seed=0)
    with pytest.raises(ConfigError, match="--start 1 does not exist; this checkpoint has starts 0..0"):
        continue_start(untrained, config, 1, script)
    with pytest.raises(CapacityError, match="'full' holds 6 frames"):
        continue_start(untrained, config, 0, script)
    with pytest.raises(CheckpointError, match="has no start clips"):
        continue_start(replace(untrained, starts=None), config, 0, script)


def test_enlarging_repeats_pixels():
    frames = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    large = enlarge(frames, 3)
    assert large.shape == (1, 6, 6, 3) and np.array_equal(large[:, ::3, ::3], frames) and np.array_equal(large[:, 2::3, 2::3], frames)


def test_flops_and_bytes_are_those_of_the_passes(untrained):
    """A pass more costs the transformer's FLOPs once more, and its weights and the cache once more."""
    flops, moved = [], []
    for steps in (1, 2, 3):
        session = Session(untrained, session_config(untrained.manifest, steps=steps, policy=None, seed=0))
        session.reset(0, 0)
        action = np.zeros(session.world.actions.dim, np.float32)
        for _ in range(session.config.policy.capacity(1)):
            session.step(action)
        flops.append(count_flops(session, action))
        moved.append(count_bytes(session))
    model = untrained.model
    tokens, weights = model.config.grid.tokens, sum(parameter.numel() for parameter in model.parameters())
    attention = 4 * tokens * session.config.policy.capacity(1) * tokens * model.config.dim * model.config.num_layers
    assert flops[1] - flops[0] == flops[2] - flops[1]
    assert attention < flops[1] - flops[0] < attention + 2 * tokens * weights
    assert moved[1] - moved[0] == moved[2] - moved[1] == 4 * weights + session.memory_bytes


def test_bench_writes_percentiles_cold_and_warm_apart(tmp_path, capsys):
    output = tmp_path / "bench.json"
    assert cli.main(["bench", "--recipe", "scroll-smoke", "--steps", "1", "2", "--frames", "10", "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert [row["steps"] for row in figures["rows"]] == [1, 2]
    assert figures["provenance"]["processor"] and figures["cold"]["first_chunk_ms"] > 0
    for row in figures["rows"]:
        step = row["action_to_pixels_ms"]
        assert 0 < step["p50"] <= step["p95"] <= step["p99"] and row["frames_per_second"] > 0
        assert 0 < row["share_of_roofline"] < 1.5
    assert "frames/s" in capsys.readouterr().out


def test_bench_explains_what_cannot_be(capsys):
    assert cli.main(["bench", "--frames", "1"]) == 2
    assert "--frames must be at least 10" in capsys.readouterr().err
    assert cli.main(["bench", "maze", "--recipe", "doom"]) == 2
    assert "not both" in capsys.readouterr().err


def test_a_saved_untrained_checkpoint_is_a_checkpoint(untrained, tmp_path):
    assert read_manifest(save(untrained, tmp_path / "a")) == untrained.manifest
