"""A run that was stopped, killed or fed NaN goes on as if nothing had happened, in every stage and bit for bit."""

import errno
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from training_fakes import (
    ALONE,
    CHUNKS,
    KINDS,
    UPDATE,
    FakeSource,
    different,
    everything,
    loop_plan,
    make_stage,
    metrics,
    train,
)

from grids import taking_turns
from mutoscope.core import files
from mutoscope.core.errors import CheckpointError, ConfigError, MutoscopeError
from mutoscope.train import state
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import UpdateConfig
from mutoscope.train.learner import Learner
from mutoscope.train.loop import Interrupted, run_loop
from mutoscope.train.state import append_json_line, complete_states, cut_json_lines


class PowerCut(Exception):
    """What no code expects."""


@dataclass
class FailingSource:
    """A source that does something at its first batch of update `at`."""

    source: FakeSource
    at: int
    event: object

    def batch(self, turn: str, update: int, micro: int, accumulate: int, clips: tuple[str, int] | None = None) -> ClipBatch:
        batch = self.source.batch(turn, update, micro, accumulate, clips)
        return self.event(batch) if update == self.at else batch


def power_cut(batch: ClipBatch) -> ClipBatch:
    raise PowerCut


def interrupt(batch: ClipBatch) -> ClipBatch:
    signal.raise_signal(signal.SIGINT)
    return batch


def terminate(batch: ClipBatch) -> ClipBatch:
    signal.raise_signal(signal.SIGTERM)
    return batch


def spoil(batch: ClipBatch) -> ClipBatch:
    return replace(batch, clean=torch.full_like(batch.clean, torch.nan))


def train_until(kind: str, folder: Path, at: int, event, update: UpdateConfig = UPDATE, run=None) -> None:
    stage, source = make_stage(kind, update, **({"run": run} if run else {}))
    run_loop(stage, FailingSource(source, at, event), loop_plan(folder, update), ALONE, lambda update: None)


def stopped_and_resumed(kind: str, folder: Path, at: int = 3) -> dict[str, torch.Tensor]:
    """Killed in update `at`, after the save at 2; then trained to the end by fresh objects."""
    with pytest.raises(PowerCut):
        train_until(kind, folder, at, power_cut)
    return everything(train(kind, folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_bit_for_bit(kind, tmp_path):
    straight = everything(train(kind, tmp_path / "straight"))
    assert different(straight, stopped_and_resumed(kind, tmp_path / "resumed")) == []
    assert metrics(tmp_path / "straight") == metrics(tmp_path / "resumed")


@pytest.mark.parametrize("kind", ["autoregressive", "ode", "consistency", "matching", "long-matching"])
def test_so_does_an_interrupted_one_with_chunks_and_micro_batches(kind, tmp_path):
    update = replace(UPDATE, accumulate=2)
    straight = everything(train(kind, tmp_path / "straight", update, CHUNKS))
    with pytest.raises(Interrupted):
        train_until(kind, tmp_path / "resumed", 2, interrupt, update, CHUNKS)
    assert different(straight, everything(train(kind, tmp_path / "resumed", update, CHUNKS))) == []


def forget(part: str, monkeypatch) -> None:
    """Break resuming: what belongs to `part` stays as it is in a fresh run."""
    restore = Learner.restore

    def forgetful(self: Learner, tensors: dict[str, torch.Tensor], updates: int) -> None:
        fresh = self.tensors()
        kept = {name: fresh.get(name) if name.startswith(part) else value for name, value in tensors.items()}
        restore(self, {name: value for name, value in kept.items() if value is not None}, self.updates if part == "updates" else updates)

    monkeypatch.setattr(Learner, "restore", forgetful)


@pytest.mark.parametrize(("kind", "part"), taking_turns(KINDS, ["model/", "average/", "optimiser/", "updates"]))
def test_broken_twins_that_forget_a_part_are_found(kind, part, tmp_path, monkeypatch):
    straight = everything(train(kind, tmp_path / "straight"))
    forget(part, monkeypatch)
    assert different(straight, stopped_and_resumed(kind, tmp_path / "resumed")) != []


def test_a_lost_critic_is_found_and_said(tmp_path):
    with pytest.raises(PowerCut):
        train_until("matching", tmp_path, 3, power_cut)
    (complete_states(tmp_path / "state")[-1] / "critic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"critic\.safetensors cannot be read .* delete that folder"):
        train("matching", tmp_path)


def test_the_average_of_consistency_is_its_target_and_resumes_with_it(tmp_path, monkeypatch):
    straight = everything(train("consistency", tmp_path / "straight"))
    forget("average/", monkeypatch)
    changed = different(straight, stopped_and_resumed("consistency", tmp_path / "resumed"))
    assert any(name.startswith("model/model/") for name in changed), "a lost target must lead the weights elsewhere"


def test_the_lost_average_of_another_stage_is_not_its_target(tmp_path, monkeypatch):
    straight = everything(train("autoregressive", tmp_path / "straight"))
    forget("average/", monkeypatch)
    changed = different(straight, stopped_and_resumed("autoregressive", tmp_path / "resumed"))
    assert changed and all(name.startswith("model/average/") for name in changed)


@pytest.mark.parametrize("event", [interrupt, terminate])
def test_a_stop_request_saves_at_once_and_says_how_to_go_on(event, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"stage 'fake stage' at update 3 of 5 and saved it; run the same command to go on"):
        train_until("bidirectional", tmp_path, 2, event)
    assert complete_states(tmp_path / "state")[-1].name == "update-00000003"
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stop_request_in_the_last_update_is_not_lost(tmp_path):
    with pytest.raises(Interrupted):
        train_until("bidirectional", tmp_path / "stopped", UPDATE.updates - 1, interrupt)
    straight, resumed = train("bidirectional", tmp_path / "straight"), train("bidirectional", tmp_path / "stopped")
    assert different(everything(straight), everything(resumed)) == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "ode"])  # whose clips are all read before its first update
def test_nan_is_an_error_that_leaves_the_saved_state_as_it_was(kind, tmp_path):
    with pytest.raises(ConfigError, match=r"gradient norm became nan .* last saved state is intact"):
        train_until(kind, tmp_path / "spoiled", 2 if kind == "sharing-matching" else 3, spoil)  # a shared rollout is made at update 2
    assert complete_states(tmp_path / "spoiled" / "state")[-1].name == "update-00000002"
    straight = everything(train(kind, tmp_path / "straight"))
    assert different(straight, everything(train(kind, tmp_path / "spoiled"))) == []


def test_nan_moves_no_weight(tmp_path):
    stage, source = make_stage("bidirectional")
    before = everything(stage)
    with pytest.raises(ConfigError):
        run_loop(stage, FailingSource(source, 0, spoil), loop_plan(tmp_path), ALONE, lambda update: None)
    assert different(before, everything(stage)) == []


@pytest.mark.parametrize("lost", ["state.json", "model.safetensors"])
def test_a_state_without_its_last_file_is_not_a_state(lost, tmp_path, monkeypatch):
    """Killed while the state of update 4 was written: state.json is the last file, so it is absent whatever else is there."""
    straight = everything(train("consistency", tmp_path / "straight"))
    with pytest.raises(PowerCut):
        train_until("consistency", tmp_path / "killed", 4, power_cut)
    newest = tmp_path / "killed" / "state" / "update-00000004"
    (newest / "state.json").unlink()
    (newest / lost).unlink(missing_ok=True)
    assert complete_states(newest.parent)[-1].name == "update-00000002"
    assert different(straight, everything(train("consistency", tmp_path / "killed"))) == []


def test_state_json_is_written_last(tmp_path, monkeypatch):
    def full_disk(path: Path, value: object) -> None:
        raise PowerCut

    monkeypatch.setattr(state, "write_json", full_disk)
    with pytest.raises(PowerCut):
        train("matching", tmp_path)
    assert sorted(path.name for path in (tmp_path / "state" / "update-00000002").iterdir()) == ["critic.safetensors", "model.safetensors"]
    assert complete_states(tmp_path / "state") == []


def test_a_cut_off_state_is_named_and_the_advice_in_the_message_works(tmp_path):
    straight = everything(train("bidirectional", tmp_path / "straight"))
    with pytest.raises(PowerCut):
        train_until("bidirectional", tmp_path / "killed", 4, power_cut)
    newest = complete_states(tmp_path / "killed" / "state")[-1]
    data = (newest / "model.safetensors").read_bytes()
    (newest / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        CheckpointError, match=f"{newest.name}.model.safetensors cannot be read .* delete that folder to use the state before"
    ):
        train("bidirectional", tmp_path / "killed")
    shutil.rmtree(newest)
    assert different(straight, everything(train("bidirectional", tmp_path / "killed"))) == []


def test_a_full_disk_is_said_and_costs_nothing(tmp_path, monkeypatch):
    straight = everything(train("bidirectional", tmp_path / "straight"))
    with pytest.raises(PowerCut):
        train_until("bidirectional", tmp_path / "full", 3, power_cut)

    def no_space(path: Path, data: bytes) -> None:
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files, "_write", no_space)
        with pytest.raises(MutoscopeError, match="No space left on device.*nothing was changed"):
            train("bidirectional", tmp_path / "full")
    assert complete_states(tmp_path / "full" / "state")[-1].name == "update-00000002"
    assert not list((tmp_path / "full").rglob("*.tmp"))
    assert different(straight, everything(train("bidirectional", tmp_path / "full"))) == []


def test_the_state_of_another_configuration_is_refused(tmp_path):
    train("bidirectional", tmp_path)
    stage, source = make_stage("bidirectional")
    with pytest.raises(
        CheckpointError,
        match=r"another configuration of this stage, or to other training data \(this, not other\); give another run folder",
    ):
        run_loop(stage, source, loop_plan(tmp_path, identity="other"), ALONE, lambda update: None)


def test_the_newest_two_states_are_kept(tmp_path):
    train("bidirectional", tmp_path, replace(UPDATE, save_every=1))
    assert [path.name for path in complete_states(tmp_path / "state")] == ["update-00000004", "update-00000005"]


def test_a_finished_run_does_nothing(tmp_path):
    first = everything(train("bidirectional", tmp_path))
    stage, source = make_stage("bidirectional")
    run_loop(stage, FailingSource(source, 0, power_cut), loop_plan(tmp_path), ALONE, lambda update: None)
    assert different(first, everything(stage)) == []


def test_metrics_are_cut_where_a_resumed_run_begins(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for update in range(4):
        append_json_line(path, {"update": update, "loss": 1.0})
    with open(path, "a") as handle:
        handle.write('{"update": 4, "lo')
    cut_json_lines(path, 2)
    assert [line["update"] for line in metrics(tmp_path)] == [0, 1]
