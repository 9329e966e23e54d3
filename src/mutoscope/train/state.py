"""The whole state of a run on disk: one folder per saved update, whole or absent, the newest two kept."""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import read_json, write_bytes, write_json
from mutoscope.train.learner import Learner
from mutoscope.train.parallel import Workers
from mutoscope.train.sharding import cut_as, is_sharded

KEEP = 2


def save_state(folder: Path, step: int, learners: Mapping[str, Learner[Any]], identity: str, workers: Workers) -> None:
    """Write `folder/update-XXXXXXXX`; its state.json comes last, so that an interrupted write is never taken for a state.

    The leading process writes a learner that all hold whole, into one file; of a sharded one every process writes its part, into a folder.
    """
    target = folder / f"update-{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    for name, learner in learners.items():
        if is_sharded(learner.module):
            save_parts(target / name, learner.tensors())
        elif workers.leads:
            tensors = {key: value.detach().contiguous().cpu() for key, value in learner.tensors().items()}
            write_bytes(target / f"{name}.safetensors", save(tensors))
    workers.wait()
    if not workers.leads:
        return
    write_json(
        target / "state.json", {"step": step, "identity": identity, "updates": {name: item.updates for name, item in learners.items()}}
    )
    for old in complete_states(folder)[:-KEEP]:
        shutil.rmtree(old)


def save_parts(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Every process's part of the tensors in a safetensors file of its own (torch.distributed.checkpoint), before this returns."""
    dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def load_parts(folder: Path, learner: Learner[Any]) -> dict[str, Tensor]:
    """What any number of processes saved in parts, cut as this learner's tensors are. One process reads it without a group."""
    reader = HuggingFaceStorageReader(str(folder))
    try:
        names = set(reader.read_metadata().state_dict_metadata)
        tensors = {name: value for name, value in learner.places().items() if name in names or not name.startswith("optimiser/")}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process needs no group
            dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
    except (dcp.api.CheckpointException, SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise unreadable(folder, error) from error
    return tensors


def load_file_as(path: Path, learner: Learner[Any]) -> dict[str, Tensor]:
    """What one process saved whole, cut as this learner's tensors are."""
    try:
        tensors = load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise unreadable(path, error) from error
    if not is_sharded(learner.module):
        return tensors
    places = learner.places()
    return {name: cut_as(value, places[name]) for name, value in tensors.items()}


def unreadable(path: Path, error: BaseException) -> CheckpointError:
    """A state that is whole by its name and broken inside."""
    return CheckpointError(f"{path} cannot be read ({error}); delete that folder to use the state before it")


def complete_states(folder: Path) -> list[Path]:
    """State folders with a state.json, oldest first."""
    return sorted(path.parent for path in folder.glob("update-*/state.json"))


def load_state(folder: Path, learners: Mapping[str, Learner[Any]], identity: str) -> int:
    """Restore the newest state and return its update, 0 where there is none. A state of another recipe is refused."""
    states = complete_states(folder)
    if not states:
        return 0
    state = read_json(states[-1] / "state.json", CheckpointError)
    if state["identity"] != identity:
        raise CheckpointError(
            f"{states[-1]} belongs to another configuration of this stage, or to other training data "
            f"({state['identity']}, not {identity}); give another run folder, or delete this stage's folder to start it again"
        )
    for name, learner in learners.items():
        parts = states[-1] / name
        tensors = load_parts(parts, learner) if parts.is_dir() else load_file_as(parts.with_suffix(".safetensors"), learner)
        learner.restore(tensors, state["updates"][name])
    return int(state["step"])


def append_json_line(path: Path, value: dict) -> None:
    """Add one line to a metrics file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(value) + "\n")


def cut_json_lines(path: Path, before: int) -> None:
    """Drop lines of update `before` and later, which a resumed run will write again; a half-written last line goes too."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["update"] < before:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue
    write_bytes(path, "".join(line + "\n" for line in kept).encode())
