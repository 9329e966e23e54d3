"""States of constant size: hand-worked steps, gradients against autograd, and a hundred thousand writes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mutoscope.core.streams import normal, stream
from mutoscope.memory import states
from mutoscope.models.recall import FIRST_RATE, MOST_RATE

DIM, TOKENS, HIDDEN = 4, 3, 5
Step = Callable[[states.FastParts, Tensor, Tensor], states.FastParts]


def draws(*shape: int, seed: int = 0) -> Tensor:
    """Named noise in float64."""
    return normal(shape, stream(seed, "states test", *shape), torch.float64)


def empty() -> tuple[Tensor, Tensor]:
    """A linear state that has seen nothing, of two rows and three heads."""
    return torch.zeros(2, 3, DIM, DIM).double(), torch.zeros(2, 3, DIM).double()


def test_a_linear_state_is_linear_attention_over_all_that_was_written():
    keys, values, queries = (draws(2, 3, 6, DIM, seed=seed).relu() for seed in range(3))
    state = empty()
    for start in (0, 2):
        part = slice(start, 2 if start == 0 else 6)
        state = states.linear_write(*state, keys[:, :, part], keys[:, :, part], values[:, :, part])
    weights = queries @ keys.transpose(-1, -2)
    wanted = weights @ values / (weights.sum(-1, keepdim=True) + states.EPS_LINEAR)
    assert torch.allclose(states.linear_read(*state, queries, queries), wanted)
    assert not states.linear_read(*empty(), queries, queries).any()


def test_the_delta_rule_by_hand():
    one = torch.ones(1, 1, 1, 1).double()
    keys, values = torch.tensor([[[[1.0, 0.0]]]]).double(), torch.tensor([[[[3.0, 5.0]]]]).double()
    state = torch.zeros(1, 1, 2, 2).double(), torch.zeros(1, 1, 2).double()
    state = states.delta_write(*state, keys, keys, values, one, one)
    assert state[0][0, 0].tolist() == [[3.0, 5.0], [0.0, 0.0]] and state[1][0, 0].tolist() == [1.0, 0.0]
    state = states.delta_write(*state, keys, keys, values + 4, 0.5 * one, one)  # the old answer is erased, what is told is kept whole
    assert state[0][0, 0].tolist() == [[7.0, 9.0], [0.0, 0.0]] and state[1][0, 0].tolist() == [1.0, 0.0]
    other = torch.tensor([[[[0.0, 1.0]]]]).double()
    state = states.delta_write(*state, other, other, values, 0.5 * one, 0.5 * one)
    assert state[0][0, 0].tolist() == [[3.5, 4.5], [1.5, 2.5]] and state[1][0, 0].tolist() == [0.5, 0.5]
    assert states.delta_read(*state, keys, keys)[0, 0].tolist() == [[7.0, 9.0]]


def test_one_token_at_a_time_is_the_published_delta_rule():
    key, value = (draws(2, 3, 1, DIM, seed=seed).abs() / DIM for seed in (1, 2))
    keep, rate = (draws(2, 3, 1, 1, seed=seed).sigmoid() for seed in (3, 4))
    matrix, total = draws(2, 3, DIM, DIM, seed=5), draws(2, 3, DIM, seed=6)
    found, count = states.delta_write(matrix, total, key, key, value, keep, rate)
    column = key.transpose(-1, -2)
    erasing = torch.eye(DIM).double() - rate * column @ key
    assert torch.allclose(found.transpose(-1, -2), keep * matrix.transpose(-1, -2) @ erasing + rate * value.transpose(-1, -2) @ key)
    assert torch.allclose(count, (keep * total[:, :, None] @ erasing + rate * key)[:, :, 0])


def shapes(form: str) -> list[tuple[int, ...]]:
    """Weight shapes of a form."""
    inner = HIDDEN if form == "mlp" else 2 * HIDDEN
    return [(1, 3, inner, DIM), (1, 3, DIM, HIDDEN)]


def fast(form: str) -> states.FastParts:
    """Random fast weights of two rows."""
    inward, outward = (draws(*shape, seed=10 + index).expand(2, -1, -1, -1).clone() for index, shape in enumerate(shapes(form)))
    return inward, outward


def inner_loss(form: str, weights: states.FastParts, keys: Tensor, values: Tensor) -> Tensor:
    """The loss whose gradient a write follows, summed over rows and heads."""
    if form == "swiglu":
        return -(states.swiglu_read(weights, keys) * values).sum() / TOKENS
    return (states.mlp_read(weights, keys) - (values - keys)).square().sum() / (TOKENS * DIM)


@pytest.mark.parametrize("form", ["mlp", "swiglu"])
def test_the_written_out_gradient_is_autograd_s(form):
    keys, values = draws(2, 3, TOKENS, DIM, seed=1), draws(2, 3, TOKENS, DIM, seed=2)
    weights = tuple(weight.requires_grad_() for weight in fast(form))
    wanted = torch.autograd.grad(inner_loss(form, weights, keys, values), weights)
    gradient = states.mlp_gradient if form == "mlp" else states.swiglu_gradient
    for found, right in zip(gradient(weights, keys, values), wanted, strict=True):
        assert torch.allclose(found, right, atol=1e-12)
        assert not torch.allclose(-found, right, atol=1e-3), "a step uphill would show"


@pytest.mark.parametrize("shape", [(HIDDEN, DIM), (DIM, HIDDEN), (DIM, DIM)])
def test_evening_acts_on_singular_values_and_lets_none_exceed_one(shape):
    """Each s of the matrix at norm 1 becomes s (3 - s^2) / 2, again and again; the directions stay."""
    matrix = draws(2, *shape, seed=3)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    wanted = values / (values.norm(dim=-1, keepdim=True) + states.FLOOR_STEP)
    for _ in range(states.EVENINGS):
        wanted = wanted * (3 - wanted.square()) / 2
    found = states.evened(matrix)
    assert torch.allclose(found, left @ (wanted[..., None] * right), atol=1e-12)
    spread, before = torch.linalg.svdvals(found), values / values[:, :1]
    assert spread.max() <= 1 and (spread / spread[:, :1] > before)[:, 1:].all()
    assert torch.linalg.matrix_norm(states.evened(1e6 * matrix), 2).max() <= 1


def test_who_is_told_nothing_makes_no_step():
    """The twin without a floor makes a whole step of what is nearly nothing."""
    nearly = 1e-6 * draws(2, DIM, DIM, seed=4)
    assert states.evened(nearly).norm() < 1e-3 and not states.evened(0 * nearly).any()
    assert (nearly / nearly.norm(dim=(-2, -1), keepdim=True)).norm() > 1


def test_a_step_evens_gate_up_and_last_matrix_each_for_itself():
    keys, values, weights = draws(2, 3, TOKENS, DIM, seed=1), draws(2, 3, TOKENS, DIM, seed=2), fast("swiglu")
    inward, outward = states.swiglu_gradient(weights, keys, values)
    found = states.swiglu_step(weights, keys, values)
    assert torch.allclose(found[0], torch.cat([states.evened(part) for part in inward.split(HIDDEN, dim=-2)], dim=-2))
    assert torch.allclose(found[1], states.evened(outward))
    assert not torch.allclose(found[0], states.evened(inward), atol=1e-3), "gate and up as one matrix would show"


def steepness(step: Step, rate: float, alike: float, dim: int = 32, tokens: int = 8) -> float:
    """Gradient of what is read after 64 writes with respect to the first state, over that with respect to the last one.

    `alike`: the share of the power of every key, and of every value, that is the same in all of them.
    """
    inner = 2 * dim if step is states.swiglu_step or step is states.swiglu_gradient else dim
    weights = draws(2, inner, dim, seed=20) / dim**0.5, draws(2, dim, dim, seed=21) / dim**0.5
    norms = tuple(weight.norm(dim=-1, keepdim=True) for weight in weights)
    first = weights = tuple(weight.requires_grad_() for weight in weights)
    same = draws(2, 2, 1, dim, seed=22)
    for index in range(64):
        keys, values = states.rms(alike**0.5 * same + (1 - alike) ** 0.5 * draws(2, 2, tokens, dim, seed=100 + index))
        weights = states.descend(weights, step(weights, keys, values), (torch.tensor(rate).double(),) * 2, norms)
    read = states.mlp_read if inner == dim else states.swiglu_read
    heard = (states.rms(read(weights, keys)) * values).sum()
    sizes = [torch.cat([part.flatten() for part in torch.autograd.grad(heard, at, retain_graph=True)]).norm() for at in (first, weights)]
    return float(sizes[0] / sizes[1])


@pytest.mark.parametrize("alike", [0.0, 0.5, 0.9])
def test_gradient_through_64_writes_neither_explodes_nor_vanishes(alike):
    """At the rate that fast weights begin with and at the largest. The twin's steps are plain gradients: those of -f(k) . v grow."""
    for step in (states.swiglu_step, states.mlp_gradient):
        assert 0.02 < steepness(step, FIRST_RATE, alike) < 3
        assert 0.02 < steepness(step, MOST_RATE, alike) < 20
    exploding = {0.0: 10, 0.9: 1e6}  # half alike, all rows settle in one direction, after chaos on the way there
    assert alike not in exploding or steepness(states.swiglu_gradient, FIRST_RATE, alike) > exploding[alike]


@pytest.mark.parametrize("form", ["mlp", "swiglu"])
def test_a_write_teaches_what_it_was_told(form):
    keys, values = draws(2, 3, TOKENS, DIM, seed=1), draws(2, 3, TOKENS, DIM, seed=2)
    weights, step = fast(form), states.mlp_gradient if form == "mlp" else states.swiglu_step
    norms = tuple(weight.norm(dim=-1, keepdim=True) for weight in weights)
    rates = tuple(torch.full((3, 1, 1), 0.05).double() for _ in weights)
    losses = [float(inner_loss(form, weights, keys, values))]
    for _ in range(5):
        weights = states.descend(weights, step(weights, keys, values), rates, norms)
        losses.append(float(inner_loss(form, weights, keys, values)))
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("form", ["mlp", "swiglu"])
def test_eta_of_zero_changes_nothing_and_rows_keep_their_norms(form):
    keys, values = draws(2, 3, TOKENS, DIM, seed=1), draws(2, 3, TOKENS, DIM, seed=2)
    weights, step_of = fast(form), states.mlp_gradient if form == "mlp" else states.swiglu_step
    norms = tuple(weight.norm(dim=-1, keepdim=True) for weight in weights)
    step = step_of(weights, keys, values)
    still = states.descend(weights, step, tuple(torch.zeros(3, 1, 1).double() for _ in weights), norms)
    assert all(torch.equal(before, after) for before, after in zip(weights, still, strict=True))
    moved = states.descend(weights, step, tuple(torch.ones(3, 1, 1).double() for _ in weights), norms)
    assert all(torch.allclose(weight.norm(dim=-1, keepdim=True), norm) for weight, norm in zip(moved, norms, strict=True))
    assert not any(torch.allclose(before, after) for before, after in zip(weights, moved, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_a_hundred_thousand_writes_leave_the_norms_alone(eps):
    """In float32. The twin with an eps beside the norm in the divisor shrinks by a factor of e (a known trap)."""
    weight, norm = torch.ones(1, 1, 2, DIM), torch.ones(1, 1, 2, 1) * DIM**0.5
    noise = 1e-3 * torch.randn(100, 1, 1, 2, DIM, generator=stream(0, "long"))
    rate = torch.ones(1, 1, 1)
    if eps:
        for index in range(100_000):
            stepped = weight - noise[index % 100]
            weight = stepped / (stepped.norm(dim=-1, keepdim=True) + eps) * (norm if index == 0 else weight.norm(dim=-1, keepdim=True))
        assert float(weight.norm(dim=-1).max()) < 0.7 * DIM**0.5
        return
    for index in range(100_000):
        weight, _ = states.descend((weight, weight), (noise[index % 100],) * 2, (rate, rate), (norm, norm))
    assert torch.allclose(weight.norm(dim=-1, keepdim=True), norm, rtol=1e-5)


@pytest.mark.long
def test_twenty_thousand_writes_fade_nothing_that_is_written_again():
    """Linear and gated delta states in float32 against float64, after 20,000 frames that tell the same over and over."""
    generator = stream(0, "long")
    keys, values = (torch.randn(16, 1, 1, TOKENS, DIM, generator=generator).relu() / (DIM * TOKENS) ** 0.5 for _ in range(2))
    keep, rate = torch.full((1, 1, 1, 1), 0.98), torch.full((1, 1, 1, 1), 0.5)
    found = {}
    for dtype in (torch.float32, torch.float64):
        linear = delta = torch.zeros(1, 1, DIM, DIM, dtype=dtype), torch.zeros(1, 1, DIM, dtype=dtype)
        for index in range(20_000):
            key, value = keys[index % 16].to(dtype), values[index % 16].to(dtype)
            linear = states.linear_write(*linear, key, key, value)
            delta = states.delta_write(*delta, key, key, value, keep.to(dtype), rate.to(dtype))
        query = keys[3].to(dtype)
        found[dtype] = states.linear_read(*linear, query, query), states.delta_read(*delta, query, query)
    for narrow, wide in zip(found[torch.float32], found[torch.float64], strict=True):
        assert torch.allclose(narrow.double(), wide, rtol=1e-3, atol=1e-6) and wide.abs().max() > 1e-3
