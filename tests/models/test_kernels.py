"""Every kernel of attention that runs here gives what torch's own gives; the others say what they need."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

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


LENGTHS, GRAPHS = 30, 3  # as many keys as queries, any number of them, and the same with something added


def graphs_of_a_stream(monkeypatch, limit: int, **changes: object) -> int:
    """How many graphs torch, which may keep `limit`, compiles for a memory that fills, whose frames are weakened from the third on."""
    torch._dynamo.reset()
    counter, whole = CompileCounter(), [normal((1, 2, 2 * LENGTHS, 16), stream(index, "filling memory")) for index in range(2)]
    compiled = softmax.compiled_flex(backend=counter, **changes)
    monkeypatch.setattr(softmax, "_flex_function", lambda device_type: compiled)
    try:
        with torch.inference_mode(), torch._dynamo.config.patch(recompile_limit=limit):
            for length in range(1, LENGTHS + 1):
                keys, values = (x[:, :, : 2 * length] for x in whole)
                queries, added = keys[:, :, :2], None if length < 3 else torch.linspace(-1, 0, 2 * length)[None]
                assert torch.allclose(softmax.flex(queries, keys, values, added), sdpa(queries, keys, values, added), atol=1e-5)
    finally:
        torch._dynamo.reset()
    return counter.frame_count


def test_a_filling_memory_compiles_a_few_graphs_of_flex_and_no_more(monkeypatch):
    """Had torch come to its limit, it would be an error: compiled with `fullgraph`, flex never goes on unfused."""
    assert 1 <= graphs_of_a_stream(monkeypatch, GRAPHS) <= GRAPHS


def test_flex_broken_twin_that_compiles_every_length_anew(monkeypatch):
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        graphs_of_a_stream(monkeypatch, 2, dynamic=False)
