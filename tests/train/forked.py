"""Groups of processes for tests, forked from one that has imported everything: importing takes longer than all that they do."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(processes: int, work: Callable[[], None], patience: timedelta = timedelta(seconds=90)) -> None:
    """Run `work` in so many new processes at once, as torchrun does; fail if one of them does, or waits too long for another."""
    port, children = free_port(), []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            _as_rank(rank, processes, port, work, patience)
        children.append(child)
    states = [os.waitpid(child, 0)[1] for child in children]
    if any(states):
        sys.exit(f"{work} failed on ranks {[rank for rank, state in enumerate(states) if state]}")


def _as_rank(rank: int, processes: int, port: int, work: Callable[[], None], patience: timedelta) -> None:
    group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in group.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"})
    try:
        dist.init_process_group("gloo", timeout=patience)
        work()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
