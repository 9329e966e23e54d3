"""Streaming with a memory equals teacher forcing, chunk by chunk, and never looks ahead or at stale slots."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import ALL_POLICIES, LAST_PASS, POLICIES, STATEFUL, model_for, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.shapes import LatentShape
from mutoscope.memory.ledger import layout
from mutoscope.memory.policy import Chunk, Full, Policy, PolicyConfig, SinkWindow, Source, Window
from mutoscope.memory.store import MemoryStore
from mutoscope.models.attention import ClipLayout
from mutoscope.models.denoise import clip_layout, teacher_forced
from mutoscope.models.transformer import VideoTransformer
from mutoscope.rollout import executor
from mutoscope.rollout.executor import Executor, Pass, PassKind, drive
from mutoscope.rollout.planner import commit_chunk
from streaming import CUTS, Clip, looks_ahead, random_clip, sees_other_noise, stream_clip

Move = Callable[[Source], Source]


@dataclass(frozen=True)
class SawTooth:
    """Keeps one more frame with every chunk, then forgets all but one: slots to read with unread ones between."""

    def capacity(self, max_chunk: int) -> int:
        return 8

    def past(self, chunk: Chunk, remembered: tuple[int, ...]) -> tuple[Source, ...]:
        return tuple(Source(frame, frame) for frame in remembered[-(chunk.start % 4 + 1) :])


def forced(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip, real: int = 0) -> Tensor:
    """The teacher-forced velocities; the first `real` frames are told a memory by their commits alone."""
    parts = clip_layout(model, policy, lengths, "cpu", real)
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


def agree_after(policy: Policy, lengths: tuple[int, ...], **streaming: Any) -> bool:
    """Whether streaming gives what teacher forcing does when the first two frames are real ones."""
    model, clip = model_for(policy), random_clip(lengths)
    with torch.no_grad():
        expected = forced(model, policy, lengths, clip, real=2)
        return torch.allclose(stream_clip(model, policy, lengths, clip, **streaming), expected, atol=1e-9)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", STATEFUL)
def test_a_real_beginning_is_told_by_its_commits_and_what_is_made_by_its_source(policy, cut):
    """The twins, in which commits write what last passes wrote, or last passes what is real, differ for memories told by last passes."""
    last = policy in LAST_PASS
    assert agree_after(STATEFUL[policy], CUTS[cut], real=2)
    assert agree_after(STATEFUL[policy], CUTS[cut], real=2, committed="real") != last
    assert agree_after(STATEFUL[policy], CUTS[cut], real=1) != last


def first_states(policy: PolicyConfig, kinds: tuple[PassKind, ...]) -> list[Tensor]:
    """What the first layer's memory holds, and what waits to enter it, after each of some passes of the first chunk."""
    model, latents, conditions = model_for(policy), tiny_latents(len(kinds)), tiny_conditions(1)
    store, held = model.new_store(policy, 1, 2, latents), []
    for index, kind in enumerate(kinds):
        plan = store.open_chunk(slice(0, 2), 1)
        Executor(model).run([Pass(store, slice(0, 2), plan, latents[:, index : index + 1], 0.5, conditions, kind)])
        held.append(torch.cat([store.states[0].flatten(), store.waiting[0].flatten(), store.waiting_values[0].flatten()]))
    return held


@pytest.mark.parametrize("policy", STATEFUL)
def test_one_pass_of_a_chunk_writes_a_memory_and_the_others_leave_it_alone(policy):
    denoising, last, commit = first_states(STATEFUL[policy], ("denoising", "last", "commit"))
    empty, real = first_states(STATEFUL[policy], ("denoising", "real"))
    assert torch.equal(denoising, empty) and not torch.equal(real, empty)
    assert torch.equal(last, empty) == (policy not in LAST_PASS)
    assert torch.equal(commit, last) == (policy in LAST_PASS)


def guided(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip, kinds: tuple[PassKind, PassKind]) -> list[Tensor]:
    """Both velocities of guidance, unconditional and conditional, of every chunk; `kinds` of their passes."""
    store, rows, start = model.new_store(policy, max(lengths), 2, clip.clean), slice(0, 2), 0
    found: list[list[Tensor]] = [[], []]
    for length in lengths:
        span, own = slice(start, start + length), clip.conditions.frames(start, start + length)
        for velocities, told, kind in zip(found, (own.null((length,)), own), kinds, strict=True):
            plan = store.open_chunk(rows, length)
            velocities += Executor(model).run([Pass(store, rows, plan, clip.noisy[:, span], float(clip.sigma[0, start]), told, kind)])
        drive(Executor(model), [commit_chunk(store, rows, clip.clean[:, span], own)])
        start += length
    return [torch.cat(velocities, dim=1) for velocities in found]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", [*LAST_PASS, "window+linear"])
def test_both_branches_of_guidance_read_what_conditional_passes_wrote(policy, cut):
    """The twin's memory is written by the unconditional ones."""
    memory, lengths = STATEFUL[policy], CUTS[cut]
    model, clip, parts = model_for(memory), random_clip(lengths), clip_layout(model_for(memory), memory, lengths, "cpu")
    null = clip.conditions.null(lengths)
    with torch.no_grad():
        wanted = [
            teacher_forced(model, clip.clean, clip.noisy, clip.sigma, clip.conditions, told, parts) for told in (null, clip.conditions)
        ]
        found, twin = (guided(model, memory, lengths, clip, kinds) for kinds in (("denoising", "last"), ("last", "denoising")))
    assert all(torch.allclose(*pair, atol=1e-9) for pair in zip(found, wanted, strict=True))
    assert all(torch.allclose(*pair, atol=1e-9) for pair in zip(twin, wanted, strict=True)) == (policy not in LAST_PASS)


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
    """Fill every slot that the plan does not name as a source, but for what a learned memory has yet to take in.

    What a last pass told stands in the open chunk's slots until its eviction: its commit does not write that again.
    """
    kept = {source.slot for source in item.plan.sources}
    kept |= {
        source.slot for source in item.plan.evicted if (store.spec.waiting_slots or item.plan.blends) and source.frame > store.entered[0]
    }
    for slot in set(range(store.spec.slots)) - kept:
        told = store.spec.waiting_values and slot in item.plan.write_slots
        for tensor in (store.keys, store.values, *(() if told else (store.waiting, store.waiting_values))):
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
    assert sees_other_noise(stream_clip, policy, CUTS[cut]) == (policy in LAST_PASS.values())


@pytest.mark.parametrize("policy", POLICIES)
def test_streaming_broken_twin_with_actions_one_frame_early(policy):
    def early(model: VideoTransformer, policy: Policy, lengths: tuple[int, ...], clip: Clip) -> Tensor:
        conditions = replace(clip.conditions, actions=clip.conditions.actions.roll(-1, dims=1))
        return stream_clip(model, policy, lengths, replace(clip, conditions=conditions))

    assert looks_ahead(early, POLICIES[policy], CUTS["frame-wise"])
