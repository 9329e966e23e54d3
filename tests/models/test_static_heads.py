"""Which heads are static: shares of attention against sums over single weights, and the whole way from clips to a policy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fakes import ACTIONS, WORLD, tiny_checkpoint, tiny_conditions, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.policy import Full
from mutoscope.models.denoise import clip_layout, encode_context
from mutoscope.models.rope import rotate
from mutoscope.models.static_heads import clip_shares, head_shares, most_static, near_frames, near_share, with_heads

POLICY = HeadWise(1, sink=1, window=3)
CUTS = {"frame-wise": (1,) * 7, "chunks of 3": (1, 3, 3)}


def summed(weights: Tensor, near: Tensor) -> list[float]:
    """Weight by weight."""
    queries, totals = weights.shape[0] * weights.shape[2], [0.0] * weights.shape[1]
    for row in weights.tolist():
        for head, asked in enumerate(row):
            totals[head] += sum(weight for given in asked for weight, flag in zip(given, near.tolist(), strict=True) if flag)
    return [total / queries for total in totals]


def test_a_share_is_the_mean_over_queries_of_what_near_keys_are_given():
    weights = normal((2, 3, 4, 5), stream(0, "weights"), torch.float64).softmax(-1)
    near = torch.tensor([True, False, False, True, True])
    assert near_share(weights, near).tolist() == pytest.approx(summed(weights, near))
    assert near_share(weights, ~near).tolist() != pytest.approx(summed(weights, near))
    assert near_share(weights, torch.ones(5, dtype=torch.bool)).tolist() == pytest.approx([1.0] * 3)


def test_the_most_static_heads_by_hand():
    shares = torch.tensor([[0.2, 0.9, 0.5], [0.7, 0.1, 0.7]])
    assert most_static(shares, 1) == ((1,), (0,)) and most_static(shares, 2) == ((1, 2), (0, 2))


def test_near_is_what_static_heads_would_read():
    frames = near_frames(POLICY, CUTS["frame-wise"])
    assert [[index for index, flag in enumerate(near) if flag] for near in frames[-2:]] == [[0, 3, 4, 5], [0, 4, 5, 6]]
    assert [index for index, flag in enumerate(near_frames(POLICY, CUTS["chunks of 3"])[-1]) if flag] == [0, 4, 5, 6]


def listed_shares(lengths: tuple[int, ...]) -> list[list[float]]:
    """From the very keys that the clean half leaves, chunk by chunk; queries are caught on their way."""
    model, clean, conditions = tiny_model(), tiny_latents(7), tiny_conditions(7)
    parts, frames, found = clip_layout(model, Full(7), lengths, "cpu"), near_frames(POLICY, lengths), []
    asked: list[Tensor] = []
    hooks = [block.self_attn.norm_q.register_forward_hook(lambda module, given, out: asked.append(out)) for block in model.blocks]
    context = encode_context(model, clean, conditions, parts)
    for hook in hooks:
        hook.remove()
    turn = parts.turns.placed(model.travel(conditions)).whole
    for queries, (_, keys, _) in zip(asked, context.layers.values(), strict=True):
        turned = rotate(queries.unflatten(-1, (2, -1)).transpose(1, 2), turn)
        start, shares = 0, []
        for length, near in zip(lengths, frames, strict=True):
            span, stop = slice(15 * start, 15 * (start + length)), 15 * (start + length)
            weights = (turned[:, :, span] @ keys[:, :, :stop].transpose(-1, -2) / 12**0.5).softmax(-1)
            if not all(near):
                shares.append(summed(weights, torch.tensor(near).repeat_interleave(15)))
            start += length
        found.append([sum(column) / len(column) for column in zip(*shares, strict=True)])
    return found


def test_shares_of_a_model_are_those_of_its_clean_half():
    """The twin counts a longer window as near."""
    lengths = CUTS["chunks of 3"]
    model, clean, conditions = tiny_model(), tiny_latents(7), tiny_conditions(7)
    shares, wanted = head_shares(model, clean, conditions, POLICY, lengths), listed_shares(lengths)
    assert shares.shape == (2, 2) and torch.allclose(shares, torch.tensor(wanted, dtype=shares.dtype), atol=1e-9)
    twin = head_shares(model, clean, conditions, replace(POLICY, window=5), lengths)
    assert not torch.allclose(twin, torch.tensor(wanted, dtype=twin.dtype), atol=1e-3)


def test_clips_that_show_nothing_further_away_are_refused():
    with pytest.raises(ConfigError, match="clips of 4 frames show nothing beyond 1 sinks and a window of 3"):
        head_shares(tiny_model(), tiny_latents(4), tiny_conditions(4), POLICY, (1,) * 4)


def test_a_checkpoint_names_its_static_heads():
    checkpoint = tiny_checkpoint()
    frames = torch.randint(0, 256, (2, 7, WORLD.height, WORLD.width, 3), generator=stream(0, "clips"), dtype=torch.uint8).numpy()
    actions, known = np.zeros((2, 7, ACTIONS.dim), np.float32), np.ones((2, 7), bool)
    found = with_heads(POLICY, clip_shares(checkpoint, POLICY, frames, actions, known))
    assert replace(found, heads=()) == POLICY and len(found.heads) == 2
    assert found.groups(2, 2)[0] == found.heads
