"""Two processes (gloo), each with two micro-batches, equal one with the whole batch, in every stage."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import one_worker
import pytest
import torch
from safetensors.torch import load_file
from training_fakes import ALONE, KINDS, metrics


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(rank: int, port: int, folder: Path) -> subprocess.Popen:
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    group = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    env = {**os.environ, **group, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen([sys.executable, one_worker.__file__, str(folder)], env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What two processes left."""
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    (folder / "unaveraged").mkdir()
    running = [start(rank, port, folder) for rank in (0, 1)]
    told = [process.communicate(timeout=250)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(told)
    return folder


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.allclose(first[name], second[name], rtol=1e-6, atol=1e-9) for name in first)


def alone(kind: str, folder: Path) -> dict[str, torch.Tensor]:
    one_worker.train_kind(kind, folder, ALONE, accumulate=1)
    return load_file(folder / f"{kind}-0.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(kind, folder, tmp_path):
    ranks = [load_file(folder / f"{kind}-{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0]), "the ranks have forked"
    assert close(alone(kind, tmp_path), ranks[0])
    for one, two in zip(metrics(tmp_path / kind), metrics(folder / kind), strict=True):
        same = [name for name in one if name.endswith(("/loss", "/gradient_norm"))]
        assert [two[name] for name in same] == pytest.approx([one[name] for name in same], rel=1e-5)


def test_broken_twin_that_does_not_average_gradients_is_found(folder, tmp_path):
    ranks = [load_file(folder / "unaveraged" / f"{one_worker.TWIN}-{rank}.safetensors") for rank in (0, 1)]
    assert not close(ranks[0], ranks[1])
    assert not close(alone(one_worker.TWIN, tmp_path), ranks[0])


def test_the_leading_process_alone_writes_states(folder):
    for kind in KINDS:
        assert [path.name for path in sorted((folder / kind / "state").iterdir())] == ["update-00000002", "update-00000003"]
        assert [line["update"] for line in metrics(folder / kind)] == [0, 1, 2]
