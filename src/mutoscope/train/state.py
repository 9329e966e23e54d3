"""The whole state of a run on disk: one folder per saved update, whole or absent, the newest two kept."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from mutoscope.core.errors import CheckpointError
from mutoscope.core.files import read_json, write_bytes, write_json
from mutoscope.train.learner import Learner

KEEP = 2


def save_state(folder: Path, step: int, learners: Mapping[str, Learner[Any]], identity: str) -> None:
    """Write `folder/update-XXXXXXXX`; its state.json comes last, so that an interrupted write is never taken for a state."""
    target = folder / f"update-{step:08d}"
    target.mkdir(parents=True, exist_ok=True)
    for name, learner in learners.items():
        tensors = {key: value.detach().contiguous().cpu() for key, value in learner.tensors().items()}
        write_bytes(target / f"{name}.safetensors", save(tensors))
    write_json(
        target / "state.json", {"step": step, "identity": identity, "updates": {name: item.updates for name, item in learners.items()}}
    )
    for old in complete_states(folder)[:-KEEP]:
        shutil.rmtree(old)


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
        try:
            tensors = load_file(states[-1] / f"{name}.safetensors")
        except (SafetensorError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{states[-1] / name}.safetensors cannot be read ({error}); delete that folder to use the state before it"
            ) from error
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


def precision_context(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where asked for, or with "auto" on devices that compute in it; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16" or (precision == "auto" and computes_bf16(device)))


def computes_bf16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 there: newer NVIDIA cards, and processors with instructions for them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
