"""What only a CUDA device can show: the same frames as the CPU, and bfloat16 near float32. Run by `make test-gpu`."""

import copy

import pytest
import torch

from fakes import CHOOSING, tiny_conditions, tiny_latents, tiny_model
from mutoscope.memory.ledger import chunk_lengths
from mutoscope.memory.policy import SinkWindow
from mutoscope.models.denoise import clip_layout, teacher_forced
from mutoscope.rollout.training import RolloutPlan, roll_out
from mutoscope.train.precision import precision_context

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
FRAMES = 8


def forward(model, device: str, dtype: torch.dtype) -> torch.Tensor:
    """A teacher-forced forward of the same clip on a device, in a type, back on the CPU in float64."""
    moved = copy.deepcopy(model).to(device, dtype)
    clean, noisy = (tiny_latents(FRAMES, seed=seed).to(device, dtype) for seed in (1, 2))
    conditions = tiny_conditions(FRAMES).to(device, dtype)
    sigma = torch.linspace(0.1, 0.9, FRAMES).expand(2, -1).to(device, dtype)
    clip = clip_layout(moved, SinkWindow(1, 3), chunk_lengths(FRAMES, 1), device)
    with torch.no_grad():
        return teacher_forced(moved, clean, noisy, sigma, conditions, conditions, clip).cpu().double()


def relative_error(made: torch.Tensor, wanted: torch.Tensor) -> float:
    """|made - wanted| / |wanted|."""
    return float((made - wanted).norm() / wanted.norm())


def test_cuda_equals_cpu_in_float32() -> None:
    model = tiny_model()
    assert relative_error(forward(model, "cuda", torch.float32), forward(model, "cpu", torch.float64)) < 1e-3


def test_training_precision_stays_near_float32() -> None:
    model = tiny_model()
    with precision_context("bf16", torch.device("cuda")):
        made = forward(model, "cuda", torch.float32)
    assert relative_error(made, forward(model, "cpu", torch.float64)) < 5e-2


@pytest.mark.parametrize("policy", [SinkWindow(1, 3), *CHOOSING.values()], ids=str)
def test_rollouts_on_cuda_equal_those_on_the_cpu(policy) -> None:
    plan = RolloutPlan(policy, context=2, chunk_frames=1, first_levels=(1.0, 0.75), levels=(1.0, 0.5))
    results = []
    for device in ("cpu", "cuda"):
        real, conditions = tiny_latents(FRAMES).to(device), tiny_conditions(FRAMES).to(device, torch.float64)

        def noise(frame: int, draw: int, device: str = device) -> torch.Tensor:
            return tiny_latents(1, seed=100 * frame + draw).to(device)

        results.append(roll_out(tiny_model().to(device), plan, real, conditions, noise).clean.cpu())
    assert relative_error(results[1], results[0]) < 1e-6
