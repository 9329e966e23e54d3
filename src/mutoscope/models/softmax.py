"""Attention itself: one softmax over keys, by whichever kernel is fastest where it runs."""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

FEW_KEYS = 1024


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
