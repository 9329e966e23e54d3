"""What a memory of constant size does with a chunk: pure functions on states, keys, values and queries, all in float32 (or float64).

One write takes a whole chunk, its tokens side by side, so that training and play write alike. Shapes: states `[B, head, ..]`, keys
`[B, head, token, D]`, values `[B, head, token, D]`. Keys that a state rotates come twice: as they are (they count), and turned (they
address). Writes are made for autograd too: in training, gradient flows through every one of them, the inner step of fast weights included.
"""

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

EPS_LINEAR = 1e-6
FLOOR_DELTA = 0.05
EPS_NORM = 1e-5
FLOOR_STEP = 0.1  # a gradient is about sqrt(D) large; one that is far smaller than this makes a small step, not a whole one
EVENINGS = 2


def linear_write(matrix: Tensor, total: Tensor, keys: Tensor, turned: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """S + sum_t turned_t v_t^T `[B, head, D, D]` and z + sum_t keys_t `[B, head, D]`; keys >= 0 (Hybrid Forcing)."""
    return matrix + turned.transpose(-1, -2) @ values, total + keys.sum(dim=-2)


def linear_read(matrix: Tensor, total: Tensor, queries: Tensor, turned: Tensor) -> Tensor:
    """(turned S) / (queries . z + eps) `[B, head, token, D]`; an empty state gives 0."""
    return (turned @ matrix) / ((queries @ total[..., None]) + EPS_LINEAR)


def delta_write(
    matrix: Tensor, total: Tensor, keys: Tensor, turned: Tensor, values: Tensor, keep: Tensor, rate: Tensor
) -> tuple[Tensor, Tensor]:
    """S <- a (S - b K^T K S) + b K^T V and the same for z with ones as values; a, b `[B, head, 1, 1]` in 0 .. 1 (SANA-WM).

    With keys scaled by 1 / sqrt(D * tokens) the erasing step K^T K has a norm of at most about 1 and cannot diverge.
    """
    across = turned.transpose(-1, -2)
    erased = matrix - rate * (across @ (turned @ matrix))
    column = total[..., None]
    faded = column - rate * (keys.transpose(-1, -2) @ (keys @ column))
    told = rate * keys.sum(dim=-2, keepdim=True).transpose(-1, -2)
    return keep * erased + rate * (across @ values), (keep * faded + told)[..., 0]


def delta_read(matrix: Tensor, total: Tensor, queries: Tensor, turned: Tensor) -> Tensor:
    """(turned S) / (queries . z), the divisor held at FLOOR_DELTA or more: erasing can turn its sign, and then nothing is known there."""
    return (turned @ matrix) / (queries @ total[..., None]).clamp_min(FLOOR_DELTA)


FastParts = tuple[Tensor, Tensor]
"""Fast weights as two matrices: inward `[B, head, hidden, D]` (SwiGLU: gate over up) and outward `[B, head, D, hidden]`."""


def mlp_read(weights: FastParts, inputs: Tensor) -> Tensor:
    """f(x) = LN(W1 gelu(W0 x)); what is recalled is x + f(x)."""
    inward, outward = weights
    raw = gelu(inputs @ inward.transpose(-1, -2), approximate="tanh") @ outward.transpose(-1, -2)
    return layer_norm(raw, (raw.shape[-1],), eps=EPS_NORM)


def mlp_gradient(weights: FastParts, keys: Tensor, values: Tensor) -> FastParts:
    """Gradient of mean_t || LN f(k_t) - (v_t - k_t) ||^2 / D with respect to both matrices, written out."""
    inward, outward = weights
    inner = keys @ inward.transpose(-1, -2)
    hidden = gelu(inner, approximate="tanh")
    raw, channels = hidden @ outward.transpose(-1, -2), [keys.shape[-1]]
    normed, mean, spread = torch.ops.aten.native_layer_norm(raw, channels, None, None, EPS_NORM)
    error = (normed - (values - keys)) * (2 / (keys.shape[-2] * keys.shape[-1]))
    back = torch.ops.aten.native_layer_norm_backward(error, raw, channels, mean, spread, None, None, [True, False, False])[0]
    blame = torch.ops.aten.gelu_backward(back @ outward, inner, approximate="tanh")
    return blame.transpose(-1, -2) @ keys, back.transpose(-1, -2) @ hidden


def swiglu_read(weights: FastParts, inputs: Tensor) -> Tensor:
    """f(x) = W1 (silu(W0 x) * W2 x) (LaCT, 2505.23884, eq. 6); W0 and W2 lie in one matrix, for one product instead of two."""
    inward, outward = weights
    opened, lifted = (inputs @ inward.transpose(-1, -2)).chunk(2, dim=-1)
    return (silu(opened) * lifted) @ outward.transpose(-1, -2)


def swiglu_gradient(weights: FastParts, keys: Tensor, values: Tensor) -> FastParts:
    """Gradient of -mean_t f(k_t) . v_t with respect to both matrices, written out."""
    inward, outward = weights
    opened, lifted = (keys @ inward.transpose(-1, -2)).chunk(2, dim=-1)
    share = opened.sigmoid()
    passed = opened * share
    told = values / -keys.shape[-2]
    blame = told @ outward
    slope = torch.addcmul(share, passed, 1 - share)  # of silu
    inner = torch.cat([blame * lifted * slope, blame * passed], dim=-1)
    return inner.transpose(-1, -2) @ keys, told.transpose(-1, -2) @ (passed * lifted)


def swiglu_step(weights: FastParts, keys: Tensor, values: Tensor) -> FastParts:
    """The gradient with each of the three matrices evened (as LaCT does by Muon's iteration, 2505.23884)."""
    inward, outward = swiglu_gradient(weights, keys, values)
    even = evened(torch.stack([*inward.chunk(2, dim=-2), outward.transpose(-1, -2)], dim=-3))
    return even[..., :2, :, :].flatten(-3, -2), even[..., 2, :, :].transpose(-1, -2)


def evened(matrices: Tensor) -> Tensor:
    """Matrices `[.., row, column]` at norm 1, their singular values s then brought nearer to each other by s <- s (3 - s^2) / 2.

    None ever exceeds 1, so that a step is bounded whatever keys, values and weights are: -f(k) . v has no minimum, its plain gradient
    grows with what was learned, and backpropagation through many such steps grows exponentially. What many tokens have in common is
    one large singular value, which would drown what only one of them says. The cubic iteration (Newton-Schulz) never overshoots.
    """
    even = matrices.flatten(0, -3)  # as one batch: small products run faster so
    even = even / (even.norm(dim=(-2, -1), keepdim=True) + FLOOR_STEP)
    for _ in range(EVENINGS):
        even = torch.baddbmm(even, even, torch.bmm(even.transpose(-1, -2), even), beta=1.5, alpha=-0.5)
    return even.view_as(matrices)


def descend(weights: FastParts, gradients: FastParts, rates: FastParts, norms: FastParts) -> FastParts:
    """W - eta grad, then every row back to the norm that it was given at the start (LaCT); rates and norms `[.., row, 1]`.

    Rows of eta = 0 stay as they are, bit for bit (their scale is exactly 1). No eps is added to the divisor: it would make every row
    shrink a little with every write.
    """
    moved = []
    for weight, gradient, rate, norm in zip(weights, gradients, rates, norms, strict=True):
        stepped = torch.addcmul(weight, rate, gradient, value=-1)
        scale = norm / torch.linalg.vector_norm(stepped, dim=-1, keepdim=True).clamp_min(1e-12)
        moved.append(stepped * scale.masked_fill(rate == 0, 1.0))
    return moved[0], moved[1]


def rms(x: Tensor) -> Tensor:
    """x at a root mean square of 1 per token and head."""
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), eps=1e-6)


def wide_type(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where the model is in it: a state lives through more steps than half precision bears."""
    return torch.float64 if dtype == torch.float64 else torch.float32
