"""Conditions: cut, nulled and grouped by pixel frame without losing their place."""

import pytest
import torch

from fakes import tiny_conditions
from mutoscope.core.errors import ConfigError
from mutoscope.models.conditions import clip_conditions


def test_frames_keep_their_place():
    conditions = tiny_conditions(5)
    part = conditions.frames(2, 4)
    assert torch.equal(part.actions, conditions.actions[:, 2:4]) and torch.equal(part.known, conditions.known[:, 2:4])


def test_nulls_forget_what_is_known_and_nothing_else():
    conditions = tiny_conditions(4)
    assert not conditions.without_actions().known.any()
    dropped = conditions.drop_actions(torch.tensor([True, False]))
    assert torch.equal(dropped.known[0], conditions.known[0]) and not dropped.known[1].any()
    assert torch.equal(dropped.actions, conditions.actions)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_frames_carry_the_actions_of_their_own_pixel_frames(stride):
    length = 1 + 3 * stride
    actions = torch.arange(length, dtype=torch.float32).view(1, length, 1)
    grouped = clip_conditions(actions, torch.ones(1, length, dtype=torch.bool), stride)
    expected = [[0] * stride] + [[1 + frame * stride + place for place in range(stride)] for frame in range(3)]
    assert grouped.actions[0, :, :, 0].tolist() == expected


def test_a_frame_is_known_if_all_its_pixel_frames_are():
    known = torch.tensor([[False, True, True, True, False, True, True]])
    assert clip_conditions(torch.zeros(1, 7, 2), known, 2).known.tolist() == [[False, True, False, True]]


def test_pixel_frames_that_do_not_group_are_refused():
    with pytest.raises(ConfigError, match="6 pixel frames are not 1"):
        clip_conditions(torch.zeros(1, 6, 2), torch.ones(1, 6, dtype=torch.bool), 4)
