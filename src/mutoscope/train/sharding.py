"""FSDP2 from outside the model: every process holds its part of each matrix, and a block is whole only while it computes.

Travel and learned memories stay whole on every process: they are small, and play reads them between passes. So do codecs.
Models are put together again only to be written (`whole_tensors`): a part of a moving average is no checkpoint.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from mutoscope.models.transformer import Block, VideoTransformer
from mutoscope.train.precision import computes_in_bf16


def process_mesh(device: torch.device, world_size: int) -> DeviceMesh:
    """All processes in a row."""
    return init_device_mesh(device.type, (world_size,))


def part_home(device: torch.device, off_loaded: bool) -> OffloadPolicy:
    """Where a process keeps its parts: on its device, or on the host, where learners' gradients and optimiser states then are too."""
    return CPUOffloadPolicy(pin_memory=device.type == "cuda") if off_loaded else OffloadPolicy()


def shard_model(model: VideoTransformer, mesh: DeviceMesh, precision: str, device: torch.device, home: OffloadPolicy) -> None:
    """Cut a model's weights into parts, block by block, and move this process's to its device.

    Master weights keep their type. Where training computes in bfloat16, blocks are gathered in it: half the traffic, and half the memory
    of a whole block. Gradients are reduced in float32.
    """
    kept = kept_whole(model)
    for parameter in kept:
        parameter.data = parameter.data.to(device, copy=True)  # what is cut is copied too: models may share their weights until now
    narrow = computes_in_bf16(precision, device)
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if narrow else MixedPrecisionPolicy()
    for block in model.blocks:
        assert isinstance(block, Block)
        gather_for_context(block)
        if narrow:
            compute_in_bf16(block, device)
        fully_shard(block, mesh=mesh, reshard_after_forward=True, mp_policy=policy, offload_policy=home, ignored_params=kept)
        for method in ("write", "read_text"):
            register_fsdp_forward_method(block, method)
    model.register_forward_hook(lambda model, inputs, velocity: velocity.clone())  # FSDP warns of outputs that are views of others
    # The outermost layers too are let go after each pass: what is kept over an optimiser step without a backward pass is never renewed.
    fully_shard(model, mesh=mesh, reshard_after_forward=True, offload_policy=home, ignored_params=kept)
    for method in ("write", "read_text"):
        register_fsdp_forward_method(model, method)


def compute_in_bf16(block: Block, device: torch.device) -> None:
    """Let a block whose weights are gathered in bfloat16 compute in it whoever asks: samples and rollouts do so outside of autocast too."""

    def narrow(plain: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*inputs: object) -> Any:
            with torch.autocast(device.type, torch.bfloat16):
                return plain(*inputs)

        return forward

    for method in ("forward", "write", "read_text"):
        setattr(block, method, narrow(getattr(block, method)))


def kept_whole(model: VideoTransformer) -> set[nn.Parameter]:
    """Parameters that every process holds whole."""
    return {parameter for name, parameter in model.named_parameters() if ".recall." in name or name.startswith("travel.")}


def gather_for_context(block: Block) -> None:
    """Gather a block's weights when a gradient reaches its keys or values, however it came there.

    FSDP gathers them when one reaches the block's output. But the clean half of teacher forcing is read through its keys and values
    (models.attention.Context), and the last block's output by nobody.
    """
    for part in (block.self_attn.norm_k, block.self_attn.v):
        part.register_forward_hook(partial(_gather_before_backward, block))


def _gather_before_backward(block: nn.Module, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    def gather(gradient: Tensor) -> None:
        assert isinstance(block, FSDPModule)
        block.unshard()

    if output.requires_grad:
        output.register_hook(gather)


def is_sharded(module: nn.Module) -> bool:
    """Whether this process holds a part of the module only."""
    return isinstance(module, FSDPModule)


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, which shares its memory; all of it where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor on every process. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def cut_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor that every process has, cut as `like` is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def whole_tensors(module: nn.Module, leads: bool) -> dict[str, Tensor]:
    """A module's whole tensors in host memory, on the leading process; elsewhere none. Every process must call it."""
    found = {}
    for name, value in module.state_dict().items():
        gathered = whole(value.detach())
        if leads:
            found[name] = gathered.cpu()
    return found


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, over all their parts: a part's own norm would be another one on every process."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    cut = [gradient for gradient in gradients if isinstance(gradient, DTensor)]
    squares = torch.stack([own_part(gradient).square().sum() for gradient in cut]).sum()
    torch.distributed.all_reduce(squares, group=cut[0].device_mesh.get_group())
    uncut = [gradient.square().sum().to(squares.device) for gradient in gradients if not isinstance(gradient, DTensor)]
    return (squares + sum(uncut, squares.new_zeros(()))).sqrt()


def clip_gradients(parameters: list[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients so that their norm is at most `most`; returns the norm before that."""
    if not any(isinstance(parameter.grad, DTensor) for parameter in parameters):
        return nn.utils.clip_grad_norm_(parameters, most)
    norm = gradient_norm(parameters)
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            own_part(parameter.grad).mul_(scale.to(parameter.grad.device))
    return norm
