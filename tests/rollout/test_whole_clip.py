"""A clip at once: Euler's method written out, guidance, and a checkpoint's own pictures."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes import tiny_checkpoint, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.streams import stream
from mutoscope.models.codec import to_frames
from mutoscope.models.conditions import clip_conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.noise.schedule import uniform_grid
from mutoscope.rollout import whole_clip
from mutoscope.rollout.whole_clip import denoise_clip, whole_clips

LEVELS = (1.0, 0.7, 0.25, 0.0)


def by_hand(model, x, conditions, guidance):
    """x_{k+1} = x_k - (s_k - s_{k+1}) (v_u + w (v_c - v_u)), with both passes always made."""
    null = replace(conditions, known=torch.zeros_like(conditions.known))
    for now, after in ((1.0, 0.7), (0.7, 0.25), (0.25, 0.0)):
        sigma = torch.full(x.shape[:2], now, dtype=x.dtype)
        told, untold = (bidirectional(model, x, sigma, item) for item in (conditions, null))
        x = x - (now - after) * (untold + guidance * (told - untold))
    return x


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_eulers_method_with_guidance(guidance):
    model, noise, conditions = tiny_model(tiny_config(travel=False)).double(), tiny_latents(3).double(), tiny_conditions(3)
    assert conditions.known.any()
    with torch.no_grad():
        expected = by_hand(model, noise, conditions, guidance)
        other = by_hand(model, noise, conditions, guidance + 1)
    made = denoise_clip(model, noise, conditions, LEVELS, guidance)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
    assert (made - other).abs().max() > 1e-6  # the guidance is heard


def test_without_guidance_a_step_is_one_pass(monkeypatch):
    calls, steps = [], []

    def counted(*arguments):
        calls.append(1)
        return bidirectional(*arguments)

    monkeypatch.setattr(whole_clip, "bidirectional", counted)
    given = tiny_model(tiny_config(travel=False)), tiny_latents(3), tiny_conditions(3)
    denoise_clip(*given, LEVELS, progress=steps.append)
    assert len(calls) == 3 and steps == [1, 1, 1]
    denoise_clip(*given, LEVELS, 2.0)
    assert len(calls) == 9


def test_pictures_of_a_checkpoint():
    checkpoint = tiny_checkpoint("bidirectional")
    latent, rows, frames = checkpoint.codec.latent, 2, 3
    noise = torch.randn((rows, frames, latent.channels, latent.height, latent.width), generator=stream(0, "noise"))
    actions, known = torch.rand(rows, frames, 3, generator=stream(0, "actions")), torch.arange(frames).expand(rows, -1) > 0
    made = whole_clips(checkpoint, noise, actions, known, text=None, steps=4)
    conditions, levels = clip_conditions(actions, known, 1), uniform_grid(4, checkpoint.manifest.shift).tolist()
    clean = denoise_clip(checkpoint.model, noise, conditions, levels)
    with torch.no_grad():
        np.testing.assert_array_equal(made, to_frames(checkpoint.codec.decode(clean)).numpy())
    assert made.shape == (2, 3, 12, 20, 3) and made.dtype == np.uint8
    others = whole_clips(checkpoint, noise, 1 - actions, known, text=None, steps=4)
    assert (others != made).any()  # the actions are heard
