"""Chunks that attend in groups against chunks one by one, for every policy, and what fills a group up."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from fakes import POLICIES, RULES
from mutoscope.core.shapes import TokenGrid
from mutoscope.core.streams import normal, stream
from mutoscope.memory.ledger import ChunkSources, layout
from mutoscope.memory.policy import EmaSink, Full, Policy, Window
from mutoscope.models import groups
from mutoscope.models.attention import ClipLayout, attend_chunks, attend_groups
from mutoscope.models.groups import MOST_FILLING, Group, group_chunks
from mutoscope.models.rope import rotate, rotations

GRID, HEAD_DIM = TokenGrid(1, 3), 12
CUTS = {"frame-wise": (1,) * 14, "chunks of 3": (1, 1, 3, 3, 3, 3)}
UNCHANGING = {name: policy for name, policy in (POLICIES | RULES).items() if not isinstance(policy, EmaSink)}


def parts_of(policy: Policy, lengths: tuple[int, ...]) -> ClipLayout:
    """A clip under a policy."""
    return ClipLayout(layout(policy, lengths), GRID, HEAD_DIM, torch.device("cpu"), torch.float64)


def clip_tensors(frames: int, own: int) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Queries and keys and values of the last `own` frames, and originals, keys and values of a past of `frames`: noise."""
    sizes = (own, own, own, frames, frames)
    draws = [
        normal((2, 2, count * GRID.tokens, HEAD_DIM), stream(index, "groups test"), torch.float64) for index, count in enumerate(sizes)
    ]
    queries, keys, values, originals, old_values = (tensor.requires_grad_() for tensor in draws)
    turned = rotate(originals, rotations(torch.arange(frames), GRID, HEAD_DIM, torch.float64))
    return queries, (keys, values), (originals, turned, old_values)


def outcome(attend, parts: ClipLayout, frames: int) -> list[Tensor]:
    """What all chunks attend to, and its gradient with respect to everything."""
    queries, own, past = clip_tensors(frames, sum(parts.lengths))
    found = attend(parts, queries, own, past)
    weight = normal(found.shape, stream(9, "groups test"), torch.float64)
    gradients = torch.autograd.grad((found * weight).sum(), (queries, *own, past[0], past[2]), materialize_grads=True)
    return [found, *gradients]


def alike(parts: ClipLayout, frames: int, by: ClipLayout | None = None) -> bool:
    """Whether groups (of `by`, if another layout is to blame) do what chunks one by one do."""
    pairs = zip(
        outcome(partial(attend_groups, layer=0), by or parts, frames), outcome(partial(attend_chunks, layer=0), parts, frames), strict=True
    )
    return all(torch.allclose(found, wanted, atol=1e-12) for found, wanted in pairs)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("policy", UNCHANGING)
def test_groups_do_what_chunks_do_one_by_one(policy, cut):
    parts, frames = parts_of(UNCHANGING[policy], CUTS[cut]), sum(CUTS[cut])
    assert alike(parts, frames) and len(parts.groups) < len(parts.chunks)
    late = parts.since(5)
    assert alike(late, frames)


def test_what_fills_a_group_up_is_seen_by_nobody():
    """The twin shows it to all."""
    parts = parts_of(Window(5), CUTS["frame-wise"])
    assert any(group.bias is not None for group in parts.groups) and alike(parts, 14)
    seen = replace(parts)
    seen.groups = tuple(replace(group, bias=None) for group in parts.groups)
    assert not alike(parts, 14, by=seen)


def test_sinks_are_turned_to_where_they_stand_for_each_chunk():
    """The twin reads them where they stood once."""
    parts = parts_of(POLICIES["sink"], CUTS["frame-wise"])
    still = replace(parts)
    still.groups = tuple(replace(group, turns=torch.ones_like(group.turns)) for group in parts.groups)
    assert alike(parts, 14) and not alike(parts, 14, by=still)


def cut_into(policy: Policy, lengths: tuple[int, ...]) -> tuple[tuple[ChunkSources, ...], tuple[Group, ...]]:
    """A clip's chunks and its groups."""
    chunks = layout(policy, lengths)
    return chunks, group_chunks(chunks, GRID, HEAD_DIM, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize("policy", [Full(200), Window(5), POLICIES["sink"]])
def test_groups_cover_a_clip_in_order_and_read_little_more_than_they_must(policy):
    chunks, cut = cut_into(policy, (1,) * 100)
    assert sum(group.chunks for group in cut) == 100 and len(cut) < 12
    read = sum(len(chunk.sources) + 1 for chunk in chunks)
    gathered = sum(group.kept.numel() + group.moved.numel() for group in cut)
    assert read <= gathered <= MOST_FILLING * read


def test_groups_stay_small_where_frames_are_large(monkeypatch):
    monkeypatch.setattr(groups, "MOST_KEYS", 5 * GRID.tokens * 3)
    _, cut = cut_into(Window(5), (1,) * 20)
    assert max(group.chunks for group in cut[1:]) == 3
    monkeypatch.setattr(groups, "MOST_KEYS", 1)
    assert [group.chunks for group in cut_into(Window(5), (1,) * 20)[1]] == [1] * 20
