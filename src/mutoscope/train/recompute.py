"""Activation checkpointing (arXiv 1604.06174) per block, from outside: the backward pass makes a block's activations once more."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mutoscope.models.transformer import VideoTransformer


def recompute_blocks(model: VideoTransformer) -> None:
    """Of every block keep its input alone where a gradient will be asked for; passes without gradient are as before."""
    for block in model.blocks:
        block.forward = _recomputed(block.forward)


def _recomputed(plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def forward(*inputs: object) -> Tensor:
        if not torch.is_grad_enabled():
            return plain(*inputs)
        # Blocks draw no random numbers: there is no state of a generator to go back to.
        return checkpoint(plain, *inputs, use_reentrant=False, preserve_rng_state=False)

    return forward


def keep_again(model: nn.Module) -> None:
    """Undo it: the model's blocks as their class has them, so that it can be copied."""
    for module in model.modules():
        module.__dict__.pop("forward", None)
