"""The projections of an attention layer: queries, keys and values, what was read, and beside them the branch of a camera."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mutoscope.models.attention import Attend
from mutoscope.models.camera import Views, apply_view
from mutoscope.models.recall import RecallLayer

if TYPE_CHECKING:
    from mutoscope.models.transformer import TransformerConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2 + eps) * weight, over all heads' channels together (as Wan norms queries and keys)."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` -> the same."""
        return nn.functional.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class LayerNorm(nn.LayerNorm):
    """Torch's own in the type of what it norms: the weights may be narrower, where training gathers them so."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., dim]` -> the same."""
        return nn.functional.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Projections of an attention layer; `heads` folds `[B, N, dim]` into `[B, head, N, head_dim]`.

    `prope_o` projects what tokens read by their cameras; it begins at zero, and is None where there is no camera.
    """

    prope_o: nn.Linear | None

    def __init__(self, config: "TransformerConfig") -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.v, self.o = nn.Linear(config.dim, config.dim), nn.Linear(config.dim, config.dim)
        self.norm_q, self.norm_k = RMSNorm(config.dim, config.eps), RMSNorm(config.dim, config.eps)
        self.prope_o = None

    def heads(self, x: Tensor) -> Tensor:
        """`[B, N, dim]` -> `[B, head, N, head_dim]`."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def self_attention(
        self, x: Tensor, layer: int, attend: Attend, memories: Iterable[RecallLayer], views: Views | None
    ) -> tuple[Tensor, ...]:
        """Queries, keys and values of x, attended as the mode says, with what learned memories recall added: `[B, head, N, head_dim]`.

        With a camera a second tensor: the same queries, keys and values attended by their cameras, as layer ~layer.
        """
        asked, told, given = self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)
        queries, keys, values = map(self.heads, (asked, told, given))
        attended = attend(layer, queries, keys, values)
        for memory in memories:
            attended = attended + attend.recall(layer, memory, queries, keys, values)
        if views is None:
            return (attended,)
        seen = (apply_view(views.asking, asked), apply_view(views.told, told), apply_view(views.told, given))
        return attended, attend(~layer, *map(self.heads, seen))

    def project(self, attended: tuple[Tensor, ...], views: Views | None) -> Tensor:
        """What `self_attention` gave, projected out: `[B, N, dim]`."""
        joined = self.join(attended[0])
        if views is None or self.prope_o is None:
            return joined
        return joined + self.prope_o(apply_view(views.read, side_by_side(attended[1])))

    def join(self, attended: Tensor) -> Tensor:
        """All heads projected out, `[B, head, N, head_dim]` -> `[B, N, dim]`."""
        return self.o(side_by_side(attended))

    def read(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of text tokens `[B, L, dim]`, each `[B, head, L, head_dim]`."""
        return self.heads(self.norm_k(self.k(text))), self.heads(self.v(text))

    def cross_attention(self, x: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Tokens of x read what `read` made of the text."""
        return self.join(scaled_dot_product_attention(self.heads(self.norm_q(self.q(x))), keys, values))


def side_by_side(attended: Tensor) -> Tensor:
    """`[B, head, N, head_dim]` -> `[B, N, dim]`."""
    return attended.transpose(1, 2).flatten(2)
