"""Data parallelism under torchrun: one process per device, gradients averaged after accumulation."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Workers:
    """Which process this is, of how many, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """True on the process that writes files."""
        return self.rank == 0

    def average_gradients(self, module: nn.Module) -> None:
        """Mean of the gradients over all ranks, one flat collective. Every rank must call it equally often."""
        if self.world_size == 1:
            return
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
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


def start_workers(device: str = "auto") -> Workers:
    """Join torchrun's process group if there is one; choose the device ("auto": CUDA where there is one)."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    use_cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if use_cuda else "gloo")
    return Workers(rank, world_size, chosen)
