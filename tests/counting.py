"""What torch itself counts while a computation runs: bytes that wait for a backward pass, the most that exists at once, and FLOPs."""

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from mutoscope.models.live_bytes import LiveBytes

FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
# The attention kernels that torch's counter does not know.
KERNELS = {
    FORWARD: lambda q, k, v, *rest, **named: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *rest, **named: sdpa_backward_flop_count(
        g, q, k, v
    ),
}


class Waiting:
    """A tensor that a graph keeps; gone when the graph lets go of it. Without its own place in the graph, or it would keep itself."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


def waiting_bytes(run: Callable[[], Tensor], modules: Iterable[nn.Module]) -> int:
    """Bytes of the different storages that wait for the backward pass of what `run` returns, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for module in modules for parameter in module.parameters()}
    kept: list[weakref.ref[Waiting]] = []

    def pack(tensor: Tensor) -> Waiting:
        waiting = Waiting(tensor)
        kept.append(weakref.ref(waiting))
        return waiting

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda waiting: waiting.tensor):
        result = run()
    alive = [waiting.tensor.untyped_storage() for each in kept if (waiting := each()) is not None]
    assert result.grad_fn is not None
    return sum({storage.data_ptr(): storage.nbytes() for storage in alive if storage.data_ptr() not in weights}.values())


def peak_bytes(run: Callable[[], Tensor]) -> int:
    """The most that exists at once of what is made in a forward and its backward, gradients of the weights among it."""
    with LiveBytes() as counted:
        run().backward()
    return counted.peak


def counted_flops(run: Callable[[], object]) -> float:
    """As torch counts them."""
    with FlopCounterMode(display=False, custom_mapping=KERNELS) as counter:
        run()
    return float(counter.get_total_flops())
