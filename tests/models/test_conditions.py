"""Conditions: cut, nulled and grouped by pixel frame without losing their place."""

import pytest
import torch

from fakes import tiny_conditions
from mutoscope.core.errors import ConfigError
from mutoscope.models.conditions import action_conditions, clip_conditions


def test_frames_keep_their_place():
    conditions = tiny_conditions(5)
    part = conditions.frames(2, 4)
    assert torch.equal(part.actions, conditions.actions[:, 2:4]) and torch.equal(part.known, conditions.known[:, 2:4])


def test_nulls_forget_what_is_known_and_nothing_else():
    conditions = tiny_conditions(4)
    assert not conditions.null((1, 3)).known.any()
    dropped = conditions.dropped(torch.tensor([True, False]), (1, 3))
    assert torch.equal(dropped.known[0], conditions.known[0]) and not dropped.known[1].any()
    assert torch.equal(dropped.actions, conditions.actions)


def test_travel_is_the_sum_of_the_known_actions_before():
    actions = torch.tensor([[9.0, 1.0, 2.0, 4.0]]).view(1, 2, 2, 1)
    known = torch.tensor([[True, True, True]])
    conditions = action_conditions(torch.tensor([5.0, 1.0, 2.0]).view(1, 3, 1, 1), known)
    assert conditions.travel.dtype == torch.float64
    assert conditions.travel.flatten().tolist() == [0, 5, 6] and conditions.travelled().flatten().tolist() == [5, 6, 8]
    strided = action_conditions(actions, torch.tensor([[False, True]]), torch.tensor([[3.0]]))
    assert strided.travel.flatten().tolist() == [3, 3] and strided.travelled().flatten().tolist() == [3, 9]


def test_who_knows_no_actions_stands_where_its_chunk_began():
    conditions = tiny_conditions(6)
    null = conditions.null((1, 3, 2))
    assert torch.equal(null.travelled(), conditions.travel[:, [0, 1, 1, 1, 4, 4]])
    dropped = conditions.dropped(torch.tensor([True, False]), (1, 3, 2))
    assert torch.equal(dropped.travelled()[0], conditions.travelled()[0])
    assert torch.equal(dropped.travelled()[1], null.travelled()[1])


def test_chunks_that_do_not_make_up_the_frames_are_refused():
    with pytest.raises(ConfigError, match="do not make up 4 frames"):
        tiny_conditions(4).null((1, 2))


def test_travel_to_another_type_stays_exact():
    far = action_conditions(torch.ones(1, 1, 1, 1), torch.ones(1, 1, dtype=torch.bool), torch.tensor([[1e9]], dtype=torch.float64))
    assert far.to("cpu", torch.bfloat16).travelled().item() == 1e9 + 1


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
