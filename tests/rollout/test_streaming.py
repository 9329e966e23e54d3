"""Streaming with a memory equals teacher forcing, chunk by chunk, and never looks ahead or at stale slots."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from fakes import ALL_POLICIES, POLICIES, model_for, tiny_config, tiny_model
from mutoscope.core.shapes import LatentShape
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import Chunk, Full, Policy, SinkWindow, Source, Window
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import ClipLayout
from mutoscope.models.denoise import clip_layout, teacher_forced
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout import executor
from mutoscope.rollout.executor import Pass
from streaming import CUTS, Clip, looks_ahead, random_clip, sees_other_noise, stream_clip

Move = Callable[[Source], Source]


@dataclass(frozen=True)
class SawTooth:
    """Keeps one more frame with every chunk, then forgets all but one: slots to read with unread ones between."""

    def capacity(self, max_chunk: int) -> int:
        return 8

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        return tuple(Source(frame, frame) for frame in remembered[-(chunk.start % 4 + 1) :])


def forced(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
    """The teacher-forced velocities."""
    parts = clip_layout(model, policy, lengths, "cpu")
    return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions, parts)


def forced_elsewhere(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip, move: Move) -> Tensor:
    """Teacher forcing whose key sources stand where `move` puts them."""
    chunks = tuple(replace(chunk, sources=tuple(map(move, chunk.sources))) for chunk in layout(policy, lengths))
    parts = ClipLayout(chunks, model.config.grid, model.config.head_dim, torch.device("cpu"), torch.float64)
    return teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, clip.conditions, parts)


def agree(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], move: Move = lambda source: source) -> bool:
    """Whether streaming gives the velocities of teacher forcing."""
    clip = random_clip(lengths)
    with torch.no_grad():
        expected = forced_elsewhere(model, policy, lengths, clip, move)
        return torch.allclose(stream_clip(model, policy, lengths, clip), expected, atol=1e-9)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", [*ALL_POLICIES.values(), Window(3), SinkWindow(4, 3), SinkWindow(1, 5), SawTooth()], ids=str)
def test_streaming_equals_teacher_forcing(policy, cut):
    assert agree(model_for(policy), policy, CUTS[cut])


@pytest.mark.parametrize(("height", "width", "patch"), [(1, 1, 1), (2, 7, 1), (6, 4, 2)])
def test_streaming_equals_teacher_forcing_at_other_sizes(height, width, patch):
    model = tiny_model(tiny_config(latent=LatentShape(4, height, width), patch=patch))
    lengths = CUTS["chunks of 3"]
    policy, clip = SinkWindow(2, 4), random_clip(lengths)
    repeats = (1, 1, 1, -(-height // 3), -(-width // 5))
    clean, noisy = (latents.repeat(repeats)[..., :height, :width] for latents in (clip.clean, clip.noisy))
    clip = replace(clip, clean=clean, noisy=noisy)
    with torch.no_grad():
        assert torch.allclose(stream_clip(model, policy, lengths, clip), forced(model, policy, lengths, clip), atol=1e-9)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", POLICIES)
def test_streaming_broken_twin_with_positions_off_by_one(policy, cut):
    assert not agree(tiny_model(), POLICIES[policy], CUTS[cut], lambda source: Source(source.frame, source.position + 1))


def test_streaming_broken_twin_with_sinks_left_where_they_were():
    assert not agree(tiny_model(), SinkWindow(2, 4), CUTS["frame-wise"], lambda source: Source(source.frame, source.frame))


def same_as_full(policy: Policy, lengths: tuple[int, ...]) -> bool:
    """Whether a policy changes nothing, on both paths."""
    model, clip = tiny_model(), random_clip(lengths)
    with torch.no_grad():
        whole = forced(model, Full(16), lengths, clip)
        return all(torch.allclose(run(model, policy, lengths, clip), whole, atol=1e-9) for run in (forced, stream_clip))


@pytest.mark.parametrize("cut", CUTS)
def test_a_window_as_long_as_the_clip_is_the_full_memory(cut):
    lengths = CUTS[cut]
    assert same_as_full(Window(sum(lengths)), lengths)
    assert same_as_full(SinkWindow(2, sum(lengths) - 2), lengths)
    assert not same_as_full(Window(sum(lengths) - 1), lengths)


def poison(store: MemoryStore, item: Pass) -> None:
    """Fill every slot that the plan does not name as a source, but for what a learned memory has yet to take in."""
    kept = {source.slot for source in item.plan.sources}
    kept |= {
        source.slot for source in item.plan.evicted if (store.spec.waiting_slots or item.plan.blends) and source.frame > store.entered[0]
    }
    for slot in set(range(store.spec.slots)) - kept:
        for tensor in (store.keys, store.values, *((store.waiting,) if store.spec.waiting_slots else ())):
            tensor[..., store.span(slot), :] = 100.0


def reads_stale_slots(policy: Policy, lengths: tuple[int, ...]) -> bool:
    """Whether what lies in unnamed slots changes the output."""
    model, clip = model_for(policy), random_clip(lengths)
    return not torch.equal(stream_clip(model, policy, lengths, clip), stream_clip(model, policy, lengths, clip, poison))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", [*ALL_POLICIES.values(), SawTooth()], ids=str)
def test_unnamed_slots_are_never_read(policy, cut):
    assert not reads_stale_slots(policy, CUTS[cut])


def test_unnamed_slots_broken_twin_without_a_mask(monkeypatch):
    monkeypatch.setattr(executor, "slot_mask", lambda *arguments: None)
    assert reads_stale_slots(SawTooth(), CUTS["frame-wise"])


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", [*ALL_POLICIES.values(), SawTooth()], ids=str)
def test_streaming_never_looks_ahead(policy, cut):
    assert not looks_ahead(stream_clip, policy, CUTS[cut])
    assert not sees_other_noise(stream_clip, policy, CUTS[cut])


@pytest.mark.parametrize("policy", POLICIES)
def test_streaming_broken_twin_with_actions_one_frame_early(policy):
    def early(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
        conditions = replace(clip.conditions, actions=clip.conditions.actions.roll(-1, dims=1))
        return stream_clip(model, policy, lengths, replace(clip, conditions=conditions))

    assert looks_ahead(early, POLICIES[policy], CUTS["frame-wise"])
