"""The arithmetic of passes against what torch counts: parameters and FLOPs exactly, bytes within a few percent."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from counting import counted_flops, peak_bytes, waiting_bytes
from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import normal, stream
from mutoscope.memory.kinds import GatedDelta
from mutoscope.memory.ledger import chunk_lengths
from mutoscope.memory.policy import EmaSink, PolicyConfig, SinkWindow, Window
from mutoscope.models.arithmetic import (
    BF16_ON_CUDA,
    FP32_ON_CPU,
    Going,
    backward_bytes,
    context_bytes,
    flops,
    gathered,
    kept,
    masked,
    parameters,
    whole_clip,
)
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CameraConfig
from mutoscope.models.conditions import action_conditions
from mutoscope.models.denoise import bidirectional, clip_layout, replay, teacher_forced
from mutoscope.models.transformer import TransformerConfig, VideoTransformer

ROWS = 2
SMALL = TransformerConfig(LatentShape(4, 6, 10), 48, 200, 4, 3, freq_dim=32, action_dim=3)
PROMPTED = TransformerConfig(LatentShape(4, 12, 10), 64, 128, 2, 2, patch=2, freq_dim=16, text_dim=24)
MOVING = TransformerConfig(LatentShape(3, 8, 8), 96, 192, 3, 2, patch=2, freq_dim=16, action_dim=2, temporal_stride=4, travel=True)
SEEN = TransformerConfig(LatentShape(4, 12, 10), 64, 128, 2, 2, patch=2, freq_dim=16, action_dim=8, text_dim=24, camera=CameraConfig())
# A model, frames of its clips, of its chunks, and its memory; groups of several chunks, of padded ones, of one, with keys that move.
CASES: dict[str, tuple[TransformerConfig, int, int, PolicyConfig]] = {
    "window": (SMALL, 7, 1, Window(3)),
    "prompted, chunks of three": (PROMPTED, 7, 3, SinkWindow(2, 4)),
    "moving": (MOVING, 9, 2, SinkWindow(2, 5)),
    "blended": (SMALL, 5, 2, EmaSink(2, 4, decay=0.5)),
    "seen": (SEEN, 7, 3, SinkWindow(2, 4)),
}


@dataclass
class Made:
    """A model with a clip, run in one of three ways; `goings` are the passes whose gradient is taken, `clean` the clean half."""

    case: str
    text: int = 5

    def __post_init__(self) -> None:
        config, frames, chunk, policy = CASES[self.case]
        self.model = VideoTransformer(config).initialise(stream(0, "arithmetic"))
        latent = (config.latent.channels, config.latent.height, config.latent.width)
        self.latents, self.sigma = normal((ROWS, frames, *latent), stream(1, "latents")), torch.full((ROWS, frames), 0.5)
        known = torch.ones(ROWS, frames, dtype=torch.bool)
        told = action_conditions(torch.zeros(ROWS, frames, config.temporal_stride, config.action_dim), known)
        told = with_cameras(told, config.camera)
        self.conditions = replace(told, text=torch.ones(ROWS, self.text, config.text_dim)) if config.text_dim else told
        self.clip = clip_layout(self.model, policy, chunk_lengths(frames, chunk, 1), "cpu")
        self.whole = Going(config, ROWS, frames, whole_clip(frames), self.text)
        self.noisy = replace(self.whole, reach=gathered(self.clip.chunks, config.grid.tokens))
        self.clean = replace(self.noisy, serves="memory")

    def run(self, way: str) -> Tensor:
        x, sigma, told = self.latents, self.sigma, self.conditions
        if way == "whole clip":
            made = bidirectional(self.model, x, sigma, told)
        elif way == "teacher forced":
            made = teacher_forced(self.model, x, x, sigma, told, told, self.clip)
        else:
            made = replay(self.model, x, x, sigma, told, self.clip)
        return made.square().mean()

    def taught(self, way: str) -> tuple[Going, ...]:
        return {"whole clip": (self.whole,), "teacher forced": (self.clean, self.noisy), "replay": (self.noisy,)}[way]


WAYS = ("whole clip", "teacher forced", "replay")


@pytest.mark.parametrize("case", CASES)
def test_parameters_are_counted_exactly(case):
    model = Made(case).model
    counted = parameters(model.config)
    assert counted.total == sum(parameter.numel() for parameter in model.parameters())
    assert counted.block == sum(parameter.numel() for parameter in model.blocks[0].parameters())
    remembering = replace(model.config, travel=False, recall=GatedDelta(), camera=None)
    assert parameters(remembering).total == sum(parameter.numel() for parameter in VideoTransformer(remembering).parameters())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_what_waits_for_the_backward_pass_is_predicted(case, way):
    made = Made(case)
    counted = waiting_bytes(lambda: made.run(way), [made.model])
    assert sum(kept(going, FP32_ON_CPU).total for going in made.taught(way)) == pytest.approx(counted, rel=0.02)


def test_what_waits_broken_twins():
    """Copied keys left out, a clean half whose last layer counts whole, a clip read where it lies: the same check finds each of them."""
    made = Made("window")
    counted = waiting_bytes(lambda: made.run("teacher forced"), [made.model])
    wrong = [
        [replace(going, reach=masked(made.clip.chunks)) for going in (made.clean, made.noisy)],
        [replace(made.clean, serves="velocity"), made.noisy],
        [made.clean, made.whole],
    ]
    for goings in wrong:
        assert sum(kept(going, FP32_ON_CPU).total for going in goings) != pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_the_most_that_exists_at_once_is_predicted(case, way):
    made = Made(case)
    goings = made.taught(way)
    waiting = sum(kept(going, FP32_ON_CPU).total for going in goings)
    context = 0 if way == "whole clip" else context_bytes(made.clean, FP32_ON_CPU)
    predicted = waiting + max(context, *(backward_bytes(going, FP32_ON_CPU) for going in goings))
    assert predicted == pytest.approx(peak_bytes(lambda: made.run(way)), rel=0.1)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_flops_are_those_that_torch_counts(case, way):
    made = Made(case)
    goings = made.taught(way)
    free = [made.clean] if way == "replay" else []
    loss: list[Tensor] = []
    forward = counted_flops(lambda: loss.append(made.run(way)))
    backward = counted_flops(lambda: loss[0].backward())
    assert sum(flops(going).forward for going in (*free, *goings)) == pytest.approx(forward, rel=1e-4)
    assert sum(flops(going).backward for going in goings) == pytest.approx(backward, rel=1e-4)


def test_flops_broken_twin():
    """Padded columns are computed too: a sum over what chunks read alone is less than torch counts."""
    made = Made("window")
    counted = counted_flops(lambda: made.run("replay"))
    alone = replace(made.noisy, reach=masked(made.clip.chunks))
    clip = [replace(made.clean, reach=alone.reach), alone]
    assert sum(flops(going).forward for going in clip) < counted * (1 - 1e-3)


def test_bfloat16_keeps_less_of_matrix_products_and_all_of_the_stream():
    going = Made("window").whole
    wide, narrow = kept(going, FP32_ON_CPU), kept(going, BF16_ON_CUDA)
    assert 0.5 * wide.layers < narrow.layers < wide.layers
    assert BF16_ON_CUDA.weight_casts == 2 and FP32_ON_CPU.weight_casts == 0
