"""The mean of several students: weights, what it refuses, and that it is a stage like any other."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_fakes import write_clips
from safetensors.torch import load_file
from training_fakes import ALONE, RUN, UPDATE, stage_config

from fakes import tiny_model
from mutoscope.core.config import from_plain, to_plain
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import load_checkpoint, read_manifest
from mutoscope.train import chain as chains
from mutoscope.train.chain import mean_model, open_chain, stage_manifest, train_chain
from mutoscope.train.config import AverageStage, MatchingStage, RunConfig

SHORT = replace(UPDATE, updates=2)
PARTS = ("matching", "matching-shared", "matching-free")
BEFORE = tuple(stage_config(kind, SHORT) for kind in ("codec", "bidirectional", "autoregressive", "consistency"))


def student(name: str, **changes) -> MatchingStage:
    return replace(stage_config("matching", SHORT), name=name, **changes)


STUDENTS = (student("matching"), student("matching-shared", rollouts="shared"), student("matching-free", guidance=1.0))
ALL = replace(RUN, stages=(*BEFORE, *STUDENTS, AverageStage("mean", PARTS)))


def test_every_weight_is_the_mean_of_the_students():
    models = [tiny_model(seed=seed) for seed in (1, 2, 3)]
    mean = mean_model(models).state_dict()
    for name, value in mean.items():
        expected = sum(model.state_dict()[name].double() for model in models) / 3
        assert torch.allclose(value.double(), expected, rtol=0, atol=1e-15)
    assert any(not torch.equal(value, models[0].state_dict()[name]) for name, value in mean.items())


def test_the_students_stay_as_they_are():
    models = [tiny_model(seed=seed) for seed in (1, 2)]
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    mean_model(models)
    assert all(
        torch.equal(value, state[name]) for state, model in zip(before, models, strict=True) for name, value in model.state_dict().items()
    )


@pytest.mark.parametrize("of", [(), ("matching",), ("matching", "matching")])
def test_a_mean_needs_several_stages(of):
    with pytest.raises(ConfigError, match="stage 'mean': a mean needs two or more different stages"):
        AverageStage("mean", of)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_steps": 1}, r"differ in student_steps \(2, 1\) and have no mean"),
        ({"first_chunk_steps": 1}, r"differ in first_chunk_steps \(2, 1\)"),
        ({"start": "autoregressive"}, r"differ in start \(consistency, autoregressive\)"),
        ({"memory": Window(3)}, r"differ in memory \(of the run, Window\(window=3\)\)"),
    ],
)
def test_students_that_are_played_otherwise_or_began_elsewhere_have_no_mean(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(ALL, stages=(*BEFORE, student("matching"), student("other", **changes), AverageStage("mean", ("matching", "other"))))


def test_only_students_have_a_mean_and_only_after_them():
    with pytest.raises(ConfigError, match="stage 'mean' cannot be built on 'consistency', a ConsistencyStage; it needs MatchingStage"):
        replace(ALL, stages=(*BEFORE, student("matching"), AverageStage("mean", ("matching", "consistency"))))
    with pytest.raises(ConfigError, match="stage 'mean' starts from 'matching', which does not come before it"):
        replace(ALL, stages=(*BEFORE, AverageStage("mean", ("matching", "other")), student("matching")))


def test_it_is_played_under_its_students_memory():
    stages = (*BEFORE, *(student(name, memory=Window(3)) for name in ("one", "two")), AverageStage("mean", ("one", "two")))
    run = replace(ALL, stages=stages)
    assert run.memory_of(run.stage("mean")) == Window(3) != run.memory


def test_it_is_plain_data():
    assert from_plain(RunConfig, to_plain(ALL)) == ALL


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A finished run folder beside its data."""
    folder = tmp_path_factory.mktemp("average")
    write_clips(folder / "data"), write_clips(folder / "held-out", seed=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chains, "draw_samples", lambda *given: None)
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda place: None)
        train_chain(open_at(folder), (), lambda stage, path: None)
    return folder


def open_at(folder: Path, run: RunConfig = ALL) -> chains.Chain:
    return open_chain(run, folder / "run", folder / "data", folder / "held-out", ALONE)


def test_in_a_chain_it_is_a_checkpoint_to_play(root):
    made, parts = root / "run" / "mean" / "checkpoint", [root / "run" / name / "checkpoint" for name in PARTS]
    mean, weights = load_file(made / "average.safetensors"), [load_file(part / "average.safetensors") for part in parts]
    for name, value in mean.items():
        assert torch.equal(value, torch.stack([part[name].double() for part in weights]).mean(0).float())
    manifest, first = read_manifest(made), read_manifest(parts[0])
    assert manifest.parents == tuple(f"{name}:{load_checkpoint(part).hash}" for name, part in zip(PARTS, parts, strict=True))
    assert manifest.updates == 3 and (manifest.stage, manifest.student_steps, manifest.first_chunk_steps) == ("matching", 2, 2)
    assert (manifest.teacher_steps, manifest.distilled_guidance) == (first.teacher_steps, first.distilled_guidance)
    assert load_checkpoint(made).starts is not None and list((root / "run" / "mean" / "samples").glob("*.png"))


def test_another_student_is_another_mean(root):
    chain = open_at(root)
    other = replace(ALL, stages=(*BEFORE, student("matching", guidance=2.0), *STUDENTS[1:], ALL.stages[-1]))
    changed = open_at(root, other)
    assert chain.stage_identity(ALL.stages[-1]) != changed.stage_identity(other.stages[-1])
    with pytest.raises(CheckpointError, match="made by another configuration of stage 'matching'"):
        train_chain(changed, ("mean",), lambda stage, path: None)
    inputs = {name: chains.load_parent(chain, name) for name in PARTS}
    assert stage_manifest(chain, ALL.stages[-1], inputs["matching"].manifest.codec, inputs).recipe_hash == chain.stage_identity(
        ALL.stages[-1]
    )
