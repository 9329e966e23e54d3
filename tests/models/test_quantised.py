"""Weights of eight bits stay near the model, and take what they say. torchao is imported for it: the slowest part of this file."""

import pytest
import torch

from fakes import tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.models.denoise import bidirectional
from mutoscope.models.quantised import held_bytes, quantise_weights

SIZES = dict(dim=48, ffn_dim=96)
# Relative error of a velocity when this was written: 0.0084 (int8), 0.0124 (int8-dynamic), 0.0413 (fp8).
NEAR = {"int8": 0.02, "int8-dynamic": 0.03, "fp8": 0.08}


def velocity(name: str) -> tuple[torch.Tensor, int]:
    """Of a clip, and the bytes of the layers."""
    model = quantise_weights(tiny_model(tiny_config(**SIZES)).float().eval().requires_grad_(False), name)
    with torch.no_grad():
        made = bidirectional(model, tiny_latents(3).float(), torch.full((2, 3), 0.5), tiny_conditions(3).to("cpu", torch.float32))
    return made, sum(map(held_bytes, model.blocks.parameters()))


def test_weights_of_eight_bits_are_near_and_small():
    wanted, whole = velocity("plain")
    assert whole == sum(parameter.nbytes for parameter in tiny_model(tiny_config(**SIZES)).float().blocks.parameters())
    for name, bound in NEAR.items():
        made, size = velocity(name)
        error = float((made - wanted).norm() / wanted.norm())
        assert 0 < error < bound and size < 0.5 * whole, (name, error, size / whole)


def test_weights_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="known: fp8, fp8-dynamic, int8, int8-dynamic"):
        quantise_weights(tiny_model(), "int4")
    with pytest.raises(ConfigError, match="need a GPU that multiplies eight-bit floats"):
        quantise_weights(tiny_model(), "fp8-dynamic")
