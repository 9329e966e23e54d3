"""What a CUDA device holds at most while a checkpoint is loaded. Run by `make test-gpu`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fakes import tiny_checkpoint, tiny_config, tiny_model
from mutoscope.commands.loading import Loading
from mutoscope.models.checkpoint import save_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
SIZES = dict(dim=768, ffn_dim=1536, num_layers=4)


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """A student whose layers are nearly all of it, in float32."""
    path, made, model = tmp_path_factory.mktemp("loading"), tiny_checkpoint(), tiny_model(tiny_config(**SIZES)).float()
    manifest = replace(made.manifest, model=model.config)
    save_checkpoint(path, manifest, model=None, average=model, codec=made.codec, starts=made.starts)
    return path


def held(loading: Loading, path: Path) -> tuple[int, int]:
    """Bytes on the device at most while a checkpoint is loaded, and afterwards."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = loading.load(path)
    peak, after = torch.cuda.max_memory_allocated() - before, torch.cuda.memory_allocated() - before
    assert next(loaded.model.parameters()).is_cuda
    return peak, after


def test_loading_holds_no_more_than_playing(student):
    _, whole = held(Loading("cuda"), student)
    peak, after = held(Loading("cuda", "bf16"), student)
    assert after < 0.55 * whole and peak < 1.05 * after
    peak, after = held(Loading("cuda", "bf16", "int8"), student)
    assert after < 0.35 * whole and peak < after + 0.55 * whole / 4 * 2, "a layer of four in bfloat16, and what it becomes on the way"
