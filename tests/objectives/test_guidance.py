"""Guidance: its fixed points and its straight line."""

import torch

from mutoscope.core.streams import normal, stream
from mutoscope.objectives.guidance import guide


def test_guidance_weights():
    conditional, unconditional = (normal((2, 3), stream(seed, "v"), torch.float64) for seed in range(2))
    assert torch.allclose(guide(conditional, unconditional, 1.0), conditional, atol=1e-15)
    assert torch.equal(guide(conditional, unconditional, 0.0), unconditional)
    assert torch.allclose(guide(conditional, unconditional, 3.0), 3 * conditional - 2 * unconditional, atol=1e-14)
    assert torch.allclose(guide(conditional, conditional, 7.0), conditional, atol=1e-15)
