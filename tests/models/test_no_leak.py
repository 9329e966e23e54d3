"""No way to run the transformer lets the future, or another chunk's noise, into a chunk's output."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fakes import ALL_POLICIES, LAST_PASS, POLICIES, tiny_model
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import Policy, PolicyConfig, Source, Window
from mutoscope.models.attention import ClipLayout
from mutoscope.models.denoise import (
    bidirectional,
    clip_layout,
    denoise_given_context,
    encode_context,
    replay,
    teacher_forced,
    with_last_passes,
)
from mutoscope.models.transformer import VideoTransformer
from streaming import CUTS, Clip, Run, looks_ahead, random_clip, sees_other_noise


def run_teacher_forced(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    parts = clip_layout(model, policy, lengths, "cpu")
    return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions, parts)


def run_null_guidance(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    parts = clip_layout(model, policy, lengths, "cpu")
    return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions.null(lengths), parts)


def run_two_halves(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    parts = clip_layout(model, policy, lengths, "cpu")
    context = encode_context(model, clip.clean, clip.conditions, parts).without_frames()
    context = with_last_passes(model, clip.noisy, clip.sigma, clip.conditions, parts, context)
    return denoise_given_context(model, clip.noisy, clip.sigma, clip.conditions, parts, context)


def run_replay(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    return replay(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip_layout(model, policy, lengths, "cpu"))


def run_without_mask(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    return bidirectional(model, clip.noisy, clip.sigma, clip.conditions)


def with_extra_source(offset: int) -> Run:
    """Teacher forcing in which every chunk also sees the clean frame `offset` places after its start."""

    def run(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
        chunks = []
        for chunk in layout(policy, lengths):
            leaked = min(chunk.chunk.start + offset, sum(lengths) - 1)
            chunks.append(replace(chunk, sources=(*chunk.sources, Source(leaked, leaked))))
        parts = ClipLayout(tuple(chunks), model.config.grid, model.config.head_dim, torch.device("cpu"), torch.float64)
        return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions, parts)

    return run


ENTRIES = {"teacher forced": run_teacher_forced, "null guidance": run_null_guidance, "two halves": run_two_halves, "replay": run_replay}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", ALL_POLICIES)
@pytest.mark.parametrize("entry", ENTRIES)
def test_no_entry_point_leaks(entry, policy, cut):
    assert not looks_ahead(ENTRIES[entry], ALL_POLICIES[policy], CUTS[cut])
    assert sees_other_noise(ENTRIES[entry], ALL_POLICIES[policy], CUTS[cut]) == (policy in LAST_PASS)


@pytest.mark.parametrize("offset", [0, 3], ids=["its own clean frame", "a later frame"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", ALL_POLICIES)
def test_no_leak_broken_twin_with_one_source_too_many(policy, cut, offset):
    assert looks_ahead(with_extra_source(offset), ALL_POLICIES[policy], CUTS[cut])


def test_no_leak_broken_twin_that_attends_to_everything():
    assert looks_ahead(run_without_mask, POLICIES["full"], CUTS["frame-wise"])
    assert sees_other_noise(run_without_mask, POLICIES["full"], CUTS["frame-wise"])


def reach(policy: PolicyConfig, layers: int) -> list[int]:
    """Clean frames that the last of nine frames depends on, from gradients."""
    model = tiny_model()
    del model.blocks[layers:]
    clip = random_clip(CUTS["frame-wise"])
    clean = clip.clean.clone().requires_grad_()
    output = run_teacher_forced(model, policy, CUTS["frame-wise"], replace(clip, clean=clean))[:, -1].square().sum()
    (gradient,) = torch.autograd.grad(output, clean)
    return gradient.abs().amax(dim=(0, 2, 3, 4)).nonzero().flatten().tolist()


def test_one_layer_sees_exactly_what_the_policy_gives():
    assert reach(POLICIES["full"], 1) == [*range(8)]
    assert reach(POLICIES["window"], 1) == [5, 6, 7]
    assert reach(POLICIES["sink"], 1) == [0, 1, 5, 6, 7]
    assert reach(Window(2), 1) == [7]


def test_two_layers_see_further_through_commits():
    assert reach(POLICIES["window"], 2) == [2, 3, 4, 5, 6, 7]
