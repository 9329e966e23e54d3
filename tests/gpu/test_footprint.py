"""The planner's peak against what CUDA allocates, at a moderate size: float32 and bfloat16 over float32 masters. Run by `make test-gpu`."""

import gc
from dataclasses import replace

import pytest
import torch
from training_fakes import RUN, loop_plan

from fakes import ACTIONS
from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import stream
from mutoscope.memory.policy import Window
from mutoscope.models.arithmetic import BF16_ON_CUDA, FP32_ON_CUDA
from mutoscope.models.conditions import action_conditions
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from mutoscope.train.batch import ClipBatch, Draws
from mutoscope.train.config import AutoregressiveStage, BidirectionalStage, UpdateConfig
from mutoscope.train.footprint import Settings, stage_footprint
from mutoscope.train.loop import one_update
from mutoscope.train.parallel import Workers
from mutoscope.train.stages.teachers import AutoregressiveRun, BidirectionalRun

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CUDA = torch.device("cuda", 0)
CONFIG = TransformerConfig(LatentShape(16, 32, 32), 512, 2048, 8, 8, patch=2, freq_dim=64, action_dim=ACTIONS.dim)
UPDATE = UpdateConfig(2, 2, 1e-4)
BOUND = 0.25


class Source:
    """Random clips on the device."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def batch(self, turn, update, micro, accumulate, clips=None) -> ClipBatch:
        draws = Draws(0, update, tuple(range(UPDATE.batch_size)), CUDA)
        known = torch.ones(UPDATE.batch_size, self.frames, dtype=torch.bool, device=CUDA)
        told = action_conditions(torch.zeros(UPDATE.batch_size, self.frames, 1, ACTIONS.dim, device=CUDA), known)
        return ClipBatch(draws.normal("clean", self.frames, 16, 32, 32), told, draws, draws)


@pytest.mark.parametrize("numerics", [FP32_ON_CUDA, BF16_ON_CUDA], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["bidirectional", "autoregressive"])
def test_the_peak_of_an_update_is_predicted(kind, numerics):
    gc.collect()  # what tests before this one have left; their graphs lie in cycles
    torch.cuda.empty_cache()
    before, run = torch.cuda.memory_allocated(), replace(RUN, memory=Window(4), clip_frames=7)
    model = VideoTransformer(CONFIG).initialise(stream(0, "gpu footprint")).to(CUDA)
    if kind == "bidirectional":
        stage, made = BidirectionalStage(kind, UPDATE), BidirectionalRun
    else:
        stage, made = AutoregressiveStage(kind, "bidirectional", UPDATE), AutoregressiveRun
    real = made.make(run, stage, model)
    plan = loop_plan(None, UPDATE, precision="bf16" if numerics is BF16_ON_CUDA else "fp32")
    for update in range(2):  # the second one has its optimiser's state
        torch.cuda.reset_peak_memory_stats()
        one_update(real, Source(run.clip_frames), plan, Workers(0, 1, CUDA), update)
    predicted = stage_footprint(run, stage, CONFIG, Settings(UPDATE.batch_size, numerics=numerics)).peak
    allocated = torch.cuda.max_memory_allocated() - before
    print(f"{kind}: predicted {predicted:,}, allocated {allocated:,}")
    assert predicted == pytest.approx(allocated, rel=BOUND)
