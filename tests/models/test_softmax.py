"""Attention by two matrix products (bfloat16 training on a CPU) against the library's kernel."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from mutoscope.core.streams import stream
from mutoscope.models.softmax import attention


def draws(dtype: torch.dtype, learns: bool) -> list[torch.Tensor]:
    generator = stream(0, "attention test")
    return [torch.randn(2, 3, length, 8, generator=generator).to(dtype).requires_grad_(learns) for length in (5, 11, 11)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("learns", [True, False])
def test_every_precision_gives_the_library_s_attention_and_its_gradient(dtype, tolerance, learns):
    own, wide = draws(dtype, learns), [x.detach().double().requires_grad_() for x in draws(dtype, learns)]
    found, wanted = attention(*own), scaled_dot_product_attention(*wide)
    assert found.dtype == dtype and torch.allclose(found.double(), wanted, atol=tolerance)
    without_scale = (wide[0] @ wide[1].transpose(-1, -2)).softmax(-1) @ wide[2]
    assert not torch.allclose(without_scale, wanted, atol=tolerance), "a forgotten 1 / sqrt(d) would show"
    if learns:
        weight = torch.randn(found.shape, generator=stream(1, "attention test"))
        (found.double() * weight).sum().backward(), (wanted * weight).sum().backward()
        for mine, theirs in zip(own, wide, strict=True):
            assert torch.allclose(mine.grad.double(), theirs.grad, atol=4 * tolerance)
