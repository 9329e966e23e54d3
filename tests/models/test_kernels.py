"""Every kernel of attention that runs here gives what torch's own gives; the others say what they need."""

import pytest
import torch

from mutoscope.core.errors import ConfigError, MissingPackageError
from mutoscope.core.streams import normal, stream
from mutoscope.models import softmax
from mutoscope.models.softmax import KERNELS, kernel_by_name, sdpa


def draws() -> list[torch.Tensor]:
    """Queries, keys and values of two rows and three heads."""
    return [normal((2, 3, length, 8), stream(length, "kernels")) for length in (5, 11, 11)]


def biases() -> dict[str, torch.Tensor | None]:
    """Nothing added, keys left out, keys weakened."""
    seen = torch.ones(1, 11, dtype=torch.bool)
    seen[:, 3:6] = False
    weaker = torch.linspace(-2, 0, 11)[None].masked_fill(~seen, float("-inf"))
    return {"nothing": None, "left out": seen, "weakened": weaker}


@pytest.mark.parametrize("bias", biases())
@pytest.mark.parametrize("name", ["sdpa", "flex"])
def test_kernels_are_equal_on_a_cpu(name, bias):
    added = biases()[bias]
    wide = added.double() if added is not None and added.is_floating_point() else added
    found, wanted = kernel_by_name(name, "cpu")(*draws(), added), sdpa(*(x.double() for x in draws()), wide)
    assert torch.allclose(found.double(), wanted, atol=1e-6)


def test_kernels_broken_twin_that_forgets_what_is_hidden():
    hidden = biases()["left out"]
    assert not torch.allclose(KERNELS["flex"](*draws(), None), sdpa(*draws(), hidden), atol=1e-3)


def test_what_a_kernel_needs_is_said(monkeypatch):
    for name in ("cudnn", "flash"):
        with pytest.raises(ConfigError, match="runs on CUDA alone"):
            kernel_by_name(name, "cpu")
    with pytest.raises(ConfigError, match="known: cudnn, flash, flex, sdpa"):
        kernel_by_name("fast", "cpu")
    with pytest.raises(ConfigError, match="cannot leave out or weaken keys"):
        softmax.flash(*draws(), biases()["left out"])
    softmax._flash_function.cache_clear()
    monkeypatch.setattr(softmax, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="flash-attn"):
        kernel_by_name("flash", "cuda")
