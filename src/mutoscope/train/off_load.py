"""What waits on the host while it is not used: optimiser states between steps, and frozen models block by block between passes.

Sharded models are off-loaded by FSDP itself (train.sharding); this is for models that every process holds whole.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mutoscope.models.transformer import VideoTransformer

HOST = torch.device("cpu")


def to_host(tensor: Tensor) -> Tensor:
    """A tensor in host memory."""
    return tensor.to(HOST)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device."""
    return tensor.to(device)


def off_load_state(optimiser: Optimizer, device: torch.device) -> None:
    """Keep an optimiser's state on the host but for its steps."""
    optimiser.register_step_pre_hook(lambda optimiser, args, kwargs: _move_state(optimiser, partial(to_device, device=device)))
    optimiser.register_step_post_hook(lambda optimiser, args, kwargs: _move_state(optimiser, to_host))


def _move_state(optimiser: Optimizer, move: Callable[[Tensor], Tensor]) -> None:
    """All but counters, which are on the host anyway."""
    for state in optimiser.state.values():
        state.update({name: move(value) for name, value in state.items() if isinstance(value, Tensor) and value.ndim})


def off_load_frozen(model: VideoTransformer, device: torch.device, in_use: set[int]) -> None:
    """Keep a frozen model on the host: a block is on the device while it computes, the outermost layers while the model does.

    Weights whose `id` is `in_use` are those of models that learn too, and stay where they are.
    """
    taken = set(in_use)
    for unit in (*model.blocks, model):
        weights = [weight for weight in unit.parameters() if id(weight) not in taken]
        taken |= {id(weight) for weight in weights}
        held = _Held(weights, device)
        unit.register_forward_pre_hook(held.fetch)
        unit.register_forward_hook(held.let_go)


class _Held:
    """Weights that lie on the host, and are copied to the device for a while. They are frozen: nothing is copied back."""

    def __init__(self, weights: list[nn.Parameter], device: torch.device) -> None:
        self.pairs = [(weight, to_host(weight.data)) for weight in weights]
        self.device = device
        self.let_go()

    def fetch(self, *hooked: Any) -> None:
        """Onto the device."""
        for weight, on_host in self.pairs:
            weight.data = to_device(on_host, self.device)

    def let_go(self, *hooked: Any) -> None:
        """What is on the device is forgotten."""
        for weight, on_host in self.pairs:
            weight.data = on_host
