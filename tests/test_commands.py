"""What stands behind the commands: which checkpoint, which policy, which changes; generate and bench on a small untrained model."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mutoscope import cli
from mutoscope.commands import checkpoints, evaluate
from mutoscope.commands.catalogue import build_catalogue
from mutoscope.commands.checkpoints import (
    bundled_first,
    find_checkpoint,
    parse_policy,
    session_config,
)
from mutoscope.commands.evaluate import evaluate_config
from mutoscope.commands.generate import continue_start, enlarge
from mutoscope.commands.loading import Loading
from mutoscope.commands.overrides import override
from mutoscope.commands.roofline import count_bytes, count_flops
from mutoscope.commands.script import parse_script
from mutoscope.commands.train import finished, read_recipe
from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.config import to_plain
from mutoscope.core.errors import CapacityError, CheckpointError, ConfigError
from mutoscope.core.files import write_json
from mutoscope.data.clips import open_dataset
from mutoscope.data.recorder import RecordOptions
from mutoscope.data.recorder import record as record_world
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.gym import world_spec
from mutoscope.evaluate.config import EvaluateConfig
from mutoscope.memory.choosing import Retrieval
from mutoscope.memory.policy import SinkWindow, Window
from mutoscope.memory.store import MemoryStore
from mutoscope.models.checkpoint import Checkpoint, placeless, read_manifest, save_checkpoint
from mutoscope.recipes import RECIPES, recipe
from mutoscope.rollout.session import Session
from mutoscope.serve import app
from mutoscope.serve.wire import PaneRequest
from mutoscope.train.chain import draw_starts


@pytest.fixture(scope="module")
def untrained() -> Checkpoint:
    return untrained_checkpoint(recipe("scroll-smoke"), "cpu")


def save(untrained: Checkpoint, path: Path, **changes: object) -> Path:
    manifest = replace(untrained.manifest, **changes)
    save_checkpoint(path, manifest, model=None, average=untrained.model, codec=untrained.codec, starts=untrained.starts)
    return path


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


def test_memories_are_changed_in_the_words_of_play():
    before = recipe("scroll")
    stage = before.stages[-1].name
    assert override(before, ["memory=sink=2,window=6"]).memory == SinkWindow(2, 6)
    assert override(before, [f"stages.{stage}.memory=retrieval=2,window=6"]).stages[-1].memory == Retrieval(2, 6)
    assert override(before, [f"stages.{stage}.memory=of the run"]) == before
    with pytest.raises(ConfigError, match="unknown memory policy 'ring'"):
        override(before, ["memory=ring=4"])


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


def test_training_names_what_it_trained_and_how_to_play_it():
    run, folder = recipe("scroll"), Path("runs/scroll")
    assert finished(run, folder, ()).endswith(f"mutoscope play {folder / run.stages[-1].name}")
    assert finished(run, folder, ("codec", "consistency")).endswith(
        f"finished: codec, consistency; play it with: mutoscope play {folder}/consistency"
    )
    assert "play" not in finished(run, folder, ("codec", "bidirectional"))


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
    for steps in (1, 1, 2, 3):  # the first one works out what all of them share, such as turns
        session = Session(untrained, session_config(untrained.manifest, steps=steps, policy=None, seed=0))
        session.reset(0, 0)
        action = np.zeros(session.world.actions.dim, np.float32)
        for _ in range(session.config.policy.capacity(1)):
            session.step(action)
        flops.append(count_flops(session, action))
        moved.append(count_bytes(session))
    flops, moved, model = flops[1:], moved[1:], untrained.model
    tokens, weights = model.config.grid.tokens, sum(parameter.numel() for parameter in model.parameters())
    attention = 4 * tokens * session.config.policy.capacity(1) * tokens * model.config.dim * model.config.num_layers
    assert flops[1] - flops[0] == flops[2] - flops[1]
    assert attention < flops[1] - flops[0] < attention + 2 * tokens * weights
    assert moved[1] - moved[0] == moved[2] - moved[1] == 4 * weights + session.memory_bytes


def test_bench_writes_percentiles_cold_and_warm_apart(untrained, tmp_path, capsys):
    output, path = tmp_path / "bench.json", save(untrained, tmp_path / "student")
    assert cli.main(["bench", str(path), "--steps", "1", "2", "--frames", "10", "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert [row["steps"] for row in figures["rows"]] == [1, 2]
    assert figures["provenance"]["processor"] and figures["cold"]["first_chunk_ms"] > 0
    for row in figures["rows"]:
        step = row["action_to_pixels_ms"]
        assert 0 < step["p50"] <= step["p95"] <= step["p99"] and row["frames_per_second"] > 0
        assert row["share_of_roofline"] > 0 and row["roofline"]["least_ms"] == max(
            row["roofline"]["compute_ms"], row["roofline"]["memory_ms"]
        )
    assert "frames/s" in capsys.readouterr().out


def test_a_saved_untrained_checkpoint_is_a_checkpoint(untrained, tmp_path):
    assert read_manifest(save(untrained, tmp_path / "a")) == untrained.manifest


def test_an_evaluation_is_as_the_arguments_say():
    defaults = evaluate_config(cli.parse("evaluate", evaluate, ["maze"]))
    assert defaults == EvaluateConfig()
    changed = evaluate_config(cli.parse("evaluate", evaluate, ["maze", "--steps", "1", "2", "--parts", "tiles", "--horizons", "4"]))
    assert changed == EvaluateConfig(steps=(1, 2), parts=("tiles",), horizons=(4,))


def test_the_catalogue_offers_what_the_checkpoints_can(untrained, tmp_path):
    student = save(untrained, tmp_path / "student", memory=Window(8))
    teacher = save(untrained, tmp_path / "teacher", stage="autoregressive", student_steps=32)
    catalogue = build_catalogue((str(student), str(teacher)), Loading())
    assert [choice.steps for choice in catalogue.choices[:2]] == [(2, 1, 4), (2, 1, 4, 32)]
    chosen = ("participative=6,recent=2,sink=3,room=2,grain=tokens",)
    chosen += ("retrieval=2,window=6,by=similarity,host_mib=256.0", "merging=8,recent=2")
    chosen += ("different=8,recent=2,grain=frames",)
    chosen += (f"head-wise={untrained.model.config.num_heads // 2},sink=1,window=1,frames=8,recent=2,grain=tokens",)
    assert catalogue.choices[0].policies == ("window=8", "window=4", "sink=1,window=7", *chosen)
    assert catalogue.choices[0].starts == ("start 0",)
    assert [pane.choice for pane in catalogue.panes][:2] == [choice.id for choice in catalogue.choices[:2]]
    (choice, options), *_ = catalogue.match((PaneRequest(catalogue.choices[0].id, steps=1, policy="sink=1,window=7"),))
    source = choice.make_source(options)
    context = source.reset(0, 0)
    assert context.shape == (4, 32, 32, 3)
    assert source.step(np.zeros(4, np.float32)).shape == (1, 32, 32, 3)
    with pytest.raises(CheckpointError, match="'bidirectional' checkpoint, which cannot be played"):
        build_catalogue((str(save(untrained, tmp_path / "b", stage="bidirectional")),), Loading())


def test_play_begins_with_the_memory_that_was_asked_for(untrained, tmp_path):
    path = str(save(untrained, tmp_path / "student", memory=Window(8)))
    asked = (("", "window=8"), ("sink", "sink=1,window=7"), ("full:full=30", "full=30"), ("window", "window=8"))
    for memory, first in (*asked, ("participative", "participative=6,recent=2,sink=3,room=2,grain=tokens")):
        catalogue = build_catalogue((path,), Loading(), memory)
        (choice, options), *_ = catalogue.match(catalogue.panes)
        assert options.policy == first and len(set(choice.policies)) == len(choice.policies)
        assert {"window=8", "window=4", "sink=1,window=7"} <= set(choice.policies)
    with pytest.raises(CapacityError, match="holds 4 frames and frame 4 does not fit"):
        build_catalogue((path,), Loading(), "full:full=4")
    chunks = str(save(untrained, tmp_path / "chunks", memory=Window(8), chunk_frames=3))
    with pytest.raises(ConfigError, match="2 frames cannot hold a chunk of 3"):
        build_catalogue((chunks,), Loading(), "window:window=2")
    assert not any(text.startswith("participative") for text in build_catalogue((chunks,), Loading()).choices[0].policies)
    refused = (("retrieval=2,by=place", "does not reckon where it stands"), ("retrieval=2,host_mib=0.0001", "give it at least"))
    refused += (("head-wise=99", "name heads that it has"),)
    for memory, message in refused:
        with pytest.raises(ConfigError, match=message):
            build_catalogue((path,), Loading(), memory)


def test_a_wrong_memory_is_said_before_a_port_is_opened(monkeypatch, capsys):
    monkeypatch.setattr(app, "serve", lambda *arguments, **options: pytest.fail("a port would have been opened"))
    assert cli.main(["play", "--memory", "ring"]) == cli.MISTAKE
    assert (
        "known: anchored, deep-sink, different, ema-sink, full, head-wise, merging, participative, recency, retrieval, rolling, sink"
        in capsys.readouterr().err
    )


def test_the_real_world_stands_beside_a_learned_one_that_equals_it(untrained, tmp_path):
    world = world_spec(make_world("scroll", height=32, width=32, frame_skip=1))
    clips = placeless(untrained.starts.frames, torch.zeros(1, 4, world.actions.dim), untrained.starts.known)
    untrained = replace(untrained, starts=clips)
    catalogue = build_catalogue((str(save(untrained, tmp_path / "a", world=world)),), Loading())
    assert [choice.kind for choice in catalogue.choices] == ["learned", "real"]
    assert len(catalogue.panes) == 2
    other = build_catalogue((str(save(untrained, tmp_path / "b", world=replace(world, content_rate=world.content_rate / 7))),), Loading())
    assert [choice.kind for choice in other.choices] == ["learned"]


def test_the_real_world_begins_where_the_learned_one_does(untrained, tmp_path):
    options = RecordOptions("scroll", episodes=2, frames_per_episode=30, height=32, width=32, frame_skip=1)
    record_world(lambda: make_world("scroll", height=32, width=32, frame_skip=1), tmp_path / "held-out", options)
    held_out = open_dataset(tmp_path / "held-out")
    starts = draw_starts(SimpleNamespace(held_out=held_out, run=SimpleNamespace(seed=0, codec="trained", text="none")))
    path = save(replace(untrained, starts=starts), tmp_path / "a", world=held_out.world)
    learned, real = build_catalogue((str(path),), Loading()).choices
    assert real.starts == learned.starts and len(set(starts.way_frames.tolist())) > 1
    source = real.make_source(real.options(PaneRequest(real.id)))
    shown = np.stack([source.reset(start, 0)[-1] for start in range(len(starts.frames))])
    wanted = starts.frames[:, -1].numpy()
    assert np.array_equal(shown, wanted), "the real pane must begin with the last frame of the start clip"
    assert not np.array_equal(shown, np.roll(wanted, 1, axis=0)), "the starts must differ, or their order would not show"


def test_a_plan_counts_every_byte_by_hand(capsys):
    assert cli.main(["plan", "wan-1.3b", "--frames", "7500", "--tokens", "1024"]) == 0
    printed = capsys.readouterr().out
    per_frame = 30 * 12 * 128 * 1024 * 2 * 2
    assert f"{7500 * per_frame:,}" in printed and f"{21 * per_frame:,}" in printed
    assert f"{12 * per_frame + 3 * per_frame // 2:,}" in printed  # sinks keep their unrotated keys beside


@pytest.mark.parametrize("name", ["", "doom", "wan-14b", "wan-1.3b-camera"])
def test_every_kind_of_model_can_be_planned(name, capsys):
    assert cli.main(["plan", *([name] if name else []), "--policies", "window=4", "--dtype", "fp32", "--rows", "2"]) == 0
    assert "2 players" in capsys.readouterr().out


def test_a_plan_counts_a_camera_beside_every_layer(capsys):
    assert cli.main(["plan", "wan-1.3b-camera", "--tokens", "1024", "--policies", "window=20"]) == 0
    printed = capsys.readouterr().out
    assert f"{20 * 2 * 30 * 12 * 128 * 1024 * 2 * 2:,}" in printed and "30 layers that attend twice" in printed
    assert cli.main(["plan", "wan-1.3b-camera"]) == 0
    printed = capsys.readouterr().out
    assert "rolling=6" in printed and not any(name in printed for name in ("merging", "head-wise", "linear"))
    assert cli.main(["plan", "wan-1.3b-camera", "--policies", "window=8+linear"]) == 2
    assert "a learned memory beside its frames, and a model with a camera has none; take 'window' (window=8)" in capsys.readouterr().err


def test_a_plan_counts_the_host_apart(capsys):
    text = "retrieval=8,window=13,host_mib=2048"
    assert cli.main(["plan", "wan-1.3b", "--tokens", "1024", "--policies", text]) == 0
    printed = capsys.readouterr().out
    tensor, note = 30 * 12 * 128 * 1024 * 2, 30 * 12 * 128 * 8
    assert f"{21 * (3 * tensor + note):,}" in printed and ", 11 of those that left are on the host" in printed
    assert cli.main(["plan", "wan-1.3b", "--policies", "retrieval=8"]) == 2
    assert "give it at least host_mib=275" in capsys.readouterr().err


def test_a_plan_counts_the_heads_of_each_group(capsys):
    """Static heads: a sink, kept unrotated too, and six more; dynamic ones: three tensors of 21 frames, and two numbers a token."""
    assert cli.main(["plan", "wan-1.3b", "--tokens", "1024", "--policies", "head-wise=4,sink=1,window=6,frames=21"]) == 0
    tensor, marks = 30 * 128 * 1024 * 2, 30 * 1024 * 8
    printed = capsys.readouterr().out
    assert f"{4 * (2 * 7 + 1) * tensor + 8 * 21 * (3 * tensor + marks):,}" in printed
    assert "reads back at most 20 frames, 4 of 12 heads at most 6" in printed
    assert cli.main(["plan", "wan-1.3b", "--policies", "head-wise=13"]) == 2
    assert "has 13 static heads, and the model 30 layers of 12 heads" in capsys.readouterr().err


def test_a_plan_is_what_a_session_allocates(untrained, tmp_path, capsys):
    path = save(untrained, tmp_path / "checkpoint")
    spec = untrained.model.config.cache(parse_policy("sink=2,window=5"), 1)
    assert cli.main(["plan", str(path), "--policies", "sink=2,window=5", "--chunk", "1", "--dtype", "fp32"]) == 0
    assert f"{MemoryStore(spec).bytes:,}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "recipes: doom.*wan-1.3b"),
        (["doom", "--frames", "0"], "must be at least 1"),
        (["doom", "--policies", "window=2"], "cannot hold a chunk of 3"),
    ],
)
def test_a_plan_that_cannot_be_is_explained(arguments, message, capsys):
    assert cli.main(["plan", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
