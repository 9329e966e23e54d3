"""Attention itself: one softmax over keys. `attention` is the call of training; play chooses one of KERNELS, once, and calls that.

sdpa    torch's own, whichever of its implementations fits: the reference that the others are tested against
cudnn   torch's own, by cuDNN alone (CUDA)
flash   the package flash-attn: version 3 where it is installed, else 2 (CUDA, half precision); it cannot leave out keys
flex    FlexAttention: compiled on CUDA, once for keys of any length; on a CPU as it is, for tests
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from mutoscope.core.errors import ConfigError, choose, optional_import

FEW_KEYS = 1024
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries `[batch, head, query, head_dim]`, keys and values `[batch, head, key, head_dim]`, and None, or `[1, key]` in the queries' type,
which is added to the scores, or as bool, which says what keys are seen -> `[batch, head, query, head_dim]`."""
KernelName = Literal["sdpa", "cudnn", "flash", "flex"]


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, `[batch, head, token, head_dim]`; bias broadcasts to `[batch, head, query, key]`.

    The library's kernel, but in bfloat16 training on a CPU two products, which are faster there. They keep all scores for the backward
    pass, hence for few keys only.
    """
    few = queries.device.type == "cpu" and queries.dtype == torch.bfloat16 and keys.shape[-2] <= FEW_KEYS
    if few and queries.requires_grad:
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2)
        scores = scores if bias is None else scores + bias.to(scores)
        return scores.softmax(-1, dtype=queries.dtype) @ values
    mask = None if bias is None else bias.to(queries).expand(*bias.shape[:-2], queries.shape[-2], -1)
    return scaled_dot_product_attention(queries, keys, values, attn_mask=mask)


def sdpa(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Torch's own."""
    return scaled_dot_product_attention(queries, keys, values, attn_mask=bias)


def cudnn(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Torch's own, by cuDNN."""
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(queries, keys, values, attn_mask=bias)


def flash(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """The package's, which has tokens before heads."""
    if bias is not None:
        raise ConfigError("attention 'flash' cannot leave out or weaken keys, and this memory has such; use sdpa or flex")
    made = _flash_function()(*(x.transpose(1, 2) for x in (queries, keys, values)))
    return (made[0] if isinstance(made, tuple) else made).transpose(1, 2)


def flex(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """FlexAttention; what is added is looked up by the key's number."""
    if bias is None:
        return _flex_function(queries.device.type)(queries, keys, values)
    added = torch.zeros_like(bias, dtype=queries.dtype).masked_fill(~bias, float("-inf")) if bias.dtype == torch.bool else bias
    row = added[0]

    def score(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return value + row[key]

    return _flex_function(queries.device.type)(queries, keys, values, score_mod=score)


KERNELS: dict[KernelName, Kernel] = {"sdpa": sdpa, "cudnn": cudnn, "flash": flash, "flex": flex}


def kernel_by_name(name: str, device: torch.device | str) -> Kernel:
    """The kernel of that name; one that cannot run on the device is an error."""
    kernel: Kernel = choose({str(key): value for key, value in KERNELS.items()}, name, "attention")
    if name in ("cudnn", "flash") and torch.device(device).type != "cuda":
        raise ConfigError(f"attention '{name}' runs on CUDA alone, and this device is '{device}'; use sdpa or flex")
    if name == "flash":
        _flash_function()
    return kernel


@lru_cache(maxsize=1)
def _flash_function() -> Any:
    newest = "flash_attn_interface" if find_spec("flash_attn_interface") else "flash_attn"
    return optional_import(newest, package="flash-attn", extra="flash").flash_attn_func


@lru_cache(maxsize=2)
def _flex_function(device_type: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return compiled_flex() if device_type == "cuda" else flex_attention


def compiled_flex(**changes: Any) -> Any:
    """FlexAttention through torch.compile, with lengths as variables: a memory that fills has another one with every chunk.

    With `dynamic=False` each would be compiled anew, and after torch's limit of eight all further ones would run unfused, with every score
    in memory, and nobody would be told. `fullgraph` makes that limit an error.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, **{"dynamic": True, "fullgraph": True, **changes})
