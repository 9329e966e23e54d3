"""Sharded training (FSDP2, gloo) equals one process, is saved in parts and put together, and fails where a rank goes its own way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_worker
import torch
from safetensors.torch import load_file
from sharded_worker import KINDS, LAUNCHES, LOADED, NARROW, TWICE, played
from training_fakes import ALONE, CPU, TOLD, everything, loop_plan, make_stage, metrics

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.train.loop import run_loop
from mutoscope.train.parallel import Workers
from mutoscope.train.placement import Placement
from mutoscope.train.state import complete_states, load_state

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the groups of processes left."""
    folder = tmp_path_factory.mktemp("sharded")
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, sharded_worker.__file__, str(folder)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The same stages, trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {kind: (sharded_worker.train(kind, folder, ALONE), metrics(folder / kind)) for kind in KINDS}


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.allclose(first[name], second[name], rtol=1e-9, atol=1e-11) for name in first)


def alike(first: list[dict], second: list[dict], within: float = 1e-5) -> bool:
    """Whether losses and the norms of gradients are the same; weights alone would not show it, for AdamW's steps have no scale."""
    names = [name for line in first for name in line if name.endswith(("/loss", "gradient_norm"))]
    found = [
        [value for line in lines for name, value in line.items() if name.endswith(("/loss", "gradient_norm"))] for lines in (first, second)
    ]
    return len(names) > 2 and found[0] == pytest.approx(found[1], rel=within)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_with_half_of_every_matrix_equal_one(kind, folder, alone):
    stage, lines = alone[kind]
    assert close(played(stage), load_file(folder / f"{kind}.safetensors"))
    assert alike(lines, metrics(folder / "two" / kind))


def test_blocks_gathered_in_bfloat16_compute_what_autocast_does(folder, tmp_path):
    """Rollouts on a processor leave autocast, and are made in bfloat16 nevertheless."""
    alone = make_stage("matching", NARROW, run=TOLD)
    run_loop(*alone, loop_plan(tmp_path, NARROW, "bf16"), ALONE, lambda update: None)
    assert alike(metrics(tmp_path), metrics(folder / "narrow"), within=0.03)
    assert not alike(metrics(tmp_path), metrics(folder / "narrow"))


@pytest.mark.parametrize("name", LAUNCHES)
def test_two_processes_that_share_the_frames_of_every_clip_equal_one(name, folder, alone, tmp_path):
    _, kind, update = LAUNCHES[name]
    stage, lines = alone[kind]
    if update != TWICE:
        stage = sharded_worker.train(kind, tmp_path, ALONE, update)
        lines = metrics(tmp_path / kind)
    assert close(played(stage), load_file(folder / f"{name}.safetensors"))
    assert alike(lines, metrics(folder / name / kind))


def test_broken_twin_that_does_not_add_up_what_all_processes_ask_of_a_frame_is_found(folder, alone):
    assert not alike(alone["autoregressive"][1], metrics(folder / "not added up" / "autoregressive"))


def test_broken_twin_that_clips_by_the_norm_of_its_own_part_is_found(folder, alone):
    assert not close(played(alone["autoregressive"][0]), load_file(folder / "clipped by parts.safetensors"))


def test_every_process_writes_its_part_of_a_state_and_resuming_changes_no_bit(folder):
    states = complete_states(folder / "two" / LOADED / "state")
    assert [path.name for path in states] == ["update-00000001", "update-00000002"]
    assert sorted(path.name for path in states[0].iterdir()) == ["critic", "model", "state.json"]
    assert len(list((states[0] / "critic").glob("*.safetensors"))) == 2
    assert json.loads((folder / "again.json").read_text()) == []


def test_what_two_processes_saved_loads_on_four_and_on_one(folder, alone):
    trained = everything(alone[LOADED][0])
    expected = {name: value for name, value in trained.items() if not name.endswith("/updates")}
    assert close(expected, load_file(folder / "four.safetensors"))
    stage, _ = make_stage(LOADED, TWICE, wide=True)
    assert not close(trained, everything(stage))
    assert load_state(folder / "two" / LOADED / "state", stage.learners, "this") == 2
    assert close(trained, everything(stage))


def test_a_broken_part_is_named(folder, tmp_path):
    stage, _ = make_stage("autoregressive", TWICE, wide=True)
    states = tmp_path / "state"
    (states / "update-00000001" / "model").mkdir(parents=True)
    (states / "update-00000001" / "state.json").write_text('{"step": 1, "identity": "this", "updates": {"model": 1}}')
    (states / "update-00000001" / "model" / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="cannot be read .* delete that folder to use the state before it"):
        load_state(states, stage.learners, "this")


def test_averages_are_put_together_before_they_are_written(folder, alone):
    average = alone[LOADED][0].learners["model"].average.state_dict()
    assert close(average, load_file(folder / "average.safetensors"))
    assert not close_shapes(average, load_file(folder / "average of one shard.safetensors"))


def close_shapes(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(first[name].shape == second[name].shape for name in first)


@pytest.mark.parametrize("twin", ["forget_the_context", "skip_a_collective"])
def test_a_broken_twin_fails_on_every_rank_and_goes_on_with_none(twin, folder):
    assert json.loads((folder / "failed.json").read_text())[twin]


def test_processes_that_share_clips_divide_the_processes():
    assert [Workers(rank, 4, CPU, Placement(clip_processes=2)).reader for rank in range(4)] == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="3 processes do not divide"):
        Workers(0, 3, CPU, Placement(clip_processes=2))
    with pytest.raises(ConfigError, match="twice"):
        Placement(off_load=("optimiser", "optimiser"))
