"""Data parallelism under torchrun: one process per device, gradients averaged after accumulation."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from mutoscope.core.errors import ConfigError
from mutoscope.train.placement import PLAIN, Placement


@dataclass(frozen=True)
class Workers:
    """Which process this is, of how many, its device, and how the work is laid out over them."""

    rank: int
    world_size: int
    device: torch.device
    placement: Placement = PLAIN

    def __post_init__(self) -> None:
        if self.world_size % self.placement.clip_processes:
            raise ConfigError(
                f"{self.world_size} processes do not divide into groups of clip_processes {self.placement.clip_processes}; "
                "start a multiple of them"
            )

    @property
    def leads(self) -> bool:
        """True on the process that writes files."""
        return self.rank == 0

    @property
    def home(self) -> torch.device:
        """Where models are made and loaded: on the host where each device is to hold a part of them only."""
        return self.device if self.placement.weights == "replicated" else torch.device("cpu")

    @property
    def readers(self) -> int:
        """How many processes read clips of their own; those that share the frames of a clip read the same ones."""
        return self.world_size // self.placement.clip_processes

    @property
    def reader(self) -> int:
        """Which of the readers this process belongs to."""
        return self.rank // self.placement.clip_processes

    def average_gradients(self, module: nn.Module) -> None:
        """Mean of the gradients over all ranks, one flat collective. Every rank must call it equally often.

        Those of sharded weights are the mean already: they were reduced as the backward pass went.
        """
        if self.world_size == 1:
            return
        found = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        gradients = [gradient for gradient in found if not isinstance(gradient, DTensor)]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.world_size
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def average_scalars(self, values: dict[str, float]) -> dict[str, float]:
        """Mean of metrics over all ranks."""
        if self.world_size == 1:
            return values
        flat = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(flat)
        return dict(zip(values, (flat / self.world_size).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """True on all ranks if it is on one."""
        if self.world_size == 1:
            return flag
        value = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(value)
        return bool(value > 0)

    def wait(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()


def start_workers(device: str = "auto", placement: Placement = PLAIN) -> Workers:
    """Join torchrun's process group if there is one; choose the device ("auto": CUDA where there is one)."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    use_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if use_cuda else "gloo")
    return Workers(rank, world_size, chosen, placement)
