"""A chain of stages in a run folder: what was made by something else is refused in words, nothing starts from itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_fakes import write_clips
from safetensors.torch import load_file
from training_fakes import ALONE, RUN, STAGES, UPDATE, different, stage_config

from fakes import WORLD
from mutoscope.core.config import from_plain
from mutoscope.core.errors import CheckpointError, ConfigError, DataError
from mutoscope.core.files import read_json, write_json
from mutoscope.models.checkpoint import load_checkpoint, read_manifest
from mutoscope.train import chain as chains
from mutoscope.train import loop
from mutoscope.train.chain import Chain, load_parent, open_chain, train_chain
from mutoscope.train.config import RunConfig

SHORT = replace(UPDATE, updates=2)
ALL = replace(RUN, stages=tuple(stage_config(kind, SHORT) for kind in STAGES))


def with_stage(kind: str, **changes) -> RunConfig:
    return replace(ALL, stages=tuple(replace(stage, **changes) if stage.name == kind else stage for stage in ALL.stages))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    monkeypatch.setattr(chains, "draw_samples", lambda *given: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run folder beside its data; tests work on copies."""
    root = tmp_path_factory.mktemp("chain")
    write_clips(root / "data"), write_clips(root / "held-out", seed=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chains, "draw_samples", lambda *given: None)
        patched.setattr("mutoscope.train.monitor._tensorboard", lambda folder: None)
        train_chain(open_at(root), (), lambda stage, path: None)
    return root


@pytest.fixture
def root(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def open_at(root: Path, run: RunConfig = ALL) -> Chain:
    return open_chain(run, root / "run", root / "data", root / "held-out", ALONE)


def train_again(root: Path, run: RunConfig = ALL, only: tuple[str, ...] = ()) -> list[str]:
    """The stages that were trained."""
    done: list[str] = []
    train_chain(open_at(root, run), only, lambda stage, path: done.append(stage.name))
    return done


def test_every_stage_leaves_a_checkpoint_that_names_its_parents_and_can_be_loaded(trained):
    manifests = {kind: read_manifest(trained / "run" / kind / "checkpoint") for kind in STAGES}
    assert {kind: manifest.stage for kind, manifest in manifests.items()} == {kind: kind for kind in STAGES}
    named = {kind: [parent.split(":")[0] for parent in manifest.parents] for kind, manifest in manifests.items()}
    assert named["matching"] == ["consistency", "bidirectional"] and named["autoregressive"] == ["bidirectional"]
    checkpoint = load_checkpoint(trained / "run" / "consistency" / "checkpoint")
    assert manifests["matching"].parents[0] == f"consistency:{checkpoint.hash}"
    assert checkpoint.starts is not None and checkpoint.manifest.world == WORLD
    assert manifests["matching"].updates == 1 and manifests["consistency"].updates == 2


def test_the_run_folder_explains_itself(trained):
    run = trained / "run"
    assert from_plain(RunConfig, json.loads((run / "run.json").read_text())) == ALL
    assert {"commit", "processor", "packages"} <= json.loads((run / "environment.json").read_text())["sessions"][0].keys()
    assert all(f"`{kind}/`" in (run / "README.md").read_text() for kind in STAGES)
    assert [json.loads(line)["update"] for line in (run / "matching" / "metrics.jsonl").read_text().splitlines()] == [0, 1]


def test_a_finished_chain_has_nothing_to_do(root):
    before = {path: path.read_bytes() for path in root.rglob("*.safetensors")}
    assert train_again(root) == []
    assert before == {path: path.read_bytes() for path in root.rglob("*.safetensors")}


def test_a_chain_stopped_within_a_stage_ends_at_the_same_weights(root):
    shutil.rmtree(root / "run" / "matching" / "checkpoint")
    shutil.rmtree(root / "run" / "consistency")
    first = load_file(root / "run" / "matching" / "state" / "update-00000002" / "model.safetensors")
    assert train_again(root) == ["consistency", "matching"]
    assert different(first, load_file(root / "run" / "matching" / "state" / "update-00000002" / "model.safetensors")) == []


def test_only_the_named_stages_are_trained_and_a_wrong_name_is_refused(root):
    for kind in ("ode", "consistency"):
        shutil.rmtree(root / "run" / kind)
    assert train_again(root, only=("ode",)) == ["ode"]
    with pytest.raises(ConfigError, match="unknown stage 'odes'; this recipe has: codec"):
        train_again(root, only=("odes",))


def test_an_unfinished_parent_is_refused(root):
    (root / "run" / "autoregressive" / "checkpoint" / "manifest.json").unlink()
    shutil.rmtree(root / "run" / "consistency")
    with pytest.raises(CheckpointError, match="'autoregressive' has no finished checkpoint at .*; train it first"):
        train_again(root, only=("consistency",))


def test_a_parent_of_another_configuration_is_refused(root):
    run = with_stage("autoregressive", action_dropout=0.5)
    with pytest.raises(
        CheckpointError,
        match="made by another configuration of stage 'autoregressive', or from other training data; train it again or give",
    ):
        train_again(root, run, only=("consistency",))


def test_so_is_one_whose_own_parent_was_another(root):
    """The identity of a stage holds those of all its ancestors."""
    run = with_stage("bidirectional", action_dropout=0.5)
    with pytest.raises(CheckpointError, match="another configuration of stage 'autoregressive'"):
        load_parent(open_at(root, run), "autoregressive")


def spoil_manifest(path: Path, **changes) -> None:
    write_json(path / "manifest.json", {**read_json(path / "manifest.json"), **changes})


def test_a_parent_trained_with_another_codec_is_refused(root):
    spoil_manifest(root / "run" / "autoregressive" / "checkpoint", codec_hash="0" * 16)
    shutil.rmtree(root / "run" / "consistency")
    with pytest.raises(CheckpointError, match="trained with another codec than the one in this run; train it again"):
        train_again(root, only=("consistency",))


def test_data_of_another_world_is_refused(root, tmp_path):
    other = replace(WORLD, name="other")
    shutil.rmtree(root / "data"), shutil.rmtree(root / "held-out")
    write_clips(root / "data", world=other), write_clips(root / "held-out", seed=1, world=other)
    with pytest.raises(CheckpointError, match="trained on the world .*'fake'.* is of .*'other'.*; give another run folder, or the data"):
        open_at(root)


def test_held_out_data_of_another_world_is_refused(root):
    shutil.rmtree(root / "held-out")
    write_clips(root / "held-out", world=replace(WORLD, content_rate=35.0))
    with pytest.raises(ConfigError, match="were recorded from different worlds"):
        open_at(root)


def test_other_training_data_than_before_is_refused(root):
    shutil.rmtree(root / "data")
    write_clips(root / "data", seed=5)
    with pytest.raises(CheckpointError, match="or to other training data .*; give another run folder"):
        train_again(root)


@pytest.mark.parametrize("name", ["data", "held-out"])
def test_episodes_too_short_for_the_clips_are_refused_before_anything_trains(root, name):
    shutil.rmtree(root / name)
    write_clips(root / name, frames=5)
    with pytest.raises(DataError, match=f"needs clips of .* frames, and the longest episode of .*{name} has 5; record longer"):
        open_at(root)


def test_episodes_too_short_for_long_rollouts_are_refused_too(root):
    """The clips on disk have 18 frames: clips of 7 and 11 more."""
    assert open_at(root, with_stage("matching", frames_beyond_clip=11))
    with pytest.raises(DataError, match="needs clips of 19 frames, .* has 18; record longer ones, or lower frames_beyond_clip of matching"):
        open_at(root, with_stage("matching", frames_beyond_clip=12))


def test_long_rollouts_read_long_clips_and_no_other_stage_does(root, monkeypatch):
    seen: dict[str, int] = {}

    def look(stage, source, plan, workers, sample) -> None:
        seen[plan.name] = source.batch(stage.turns(0)[0], 0, 0, 1).clean.shape[1]
        loop.run_loop(stage, source, plan, workers, sample)

    monkeypatch.setattr(chains, "run_loop", look)
    for kind in ("codec", "consistency", "matching"):
        shutil.rmtree(root / "run" / kind)
    run = with_stage("matching", frames_beyond_clip=5)
    assert train_again(root, run) == ["codec", "consistency", "matching"]
    assert seen == {"codec": 1, "consistency": 7, "matching": 12}
    assert read_manifest(root / "run" / "matching" / "checkpoint").clip_frames == 7


def test_the_folder_of_another_run_is_refused(root):
    with pytest.raises(ConfigError, match=r"holds another run \('fake'\); give another folder, or delete it"):
        open_at(root, replace(ALL, shift=3.0))


def test_a_corrupt_parent_is_named(root):
    weights = root / "run" / "autoregressive" / "checkpoint" / "average.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    shutil.rmtree(root / "run" / "consistency")
    with pytest.raises(CheckpointError, match=r"average\.safetensors is corrupt .*; copy or train it again"):
        train_again(root)


def first_weights(root: Path, kind: str, monkeypatch) -> dict[str, torch.Tensor]:
    """What a stage that is trained again starts from."""
    seen: dict[str, torch.Tensor] = {}

    def look(stage, source, plan, workers, sample) -> None:
        seen.update({name: value.clone() for name, value in stage.learners["model"].module.state_dict().items()})
        loop.run_loop(stage, source, plan, workers, sample)

    monkeypatch.setattr(chains, "run_loop", look)
    shutil.rmtree(root / "run" / kind / "state")
    (root / "run" / kind / "checkpoint" / "manifest.json").unlink()
    assert train_again(root, only=(kind,)) == [kind]
    return seen


@pytest.mark.parametrize(
    ("kind", "parent"), [("consistency", "autoregressive"), ("matching", "consistency"), ("autoregressive", "bidirectional")]
)
def test_a_stage_trained_again_starts_from_its_parent_and_never_from_its_own_result(root, kind, parent, monkeypatch):
    own = load_file(root / "run" / kind / "checkpoint" / "average.safetensors")
    parents = load_file(root / "run" / parent / "checkpoint" / "average.safetensors")
    start = first_weights(root, kind, monkeypatch)
    assert different(start, parents) == []
    assert different(start, own) != []


def test_a_fresh_stage_trained_again_starts_fresh(root, monkeypatch):
    own = load_file(root / "run" / "bidirectional" / "checkpoint" / "model.safetensors")
    start = first_weights(root, "bidirectional", monkeypatch)
    assert float(start["head.head.weight"].abs().max()) == 0
    assert different(start, own) != []
