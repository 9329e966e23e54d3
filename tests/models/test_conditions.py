"""Conditions: cut, nulled and grouped by pixel frame without losing their place."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fakes import tiny_conditions
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models.conditions import Conditions, ReadText, action_conditions, chosen_text, clip_conditions, join


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


def told(frames: int, batch: int = 2) -> Conditions:
    """Conditions with a prompt per row, and one negative prompt."""
    text, negative = (normal((rows, 5, 7), stream(rows, "fake text"), torch.float64) for rows in (batch, 1))
    return tiny_conditions(frames, batch).told(text, negative.expand(batch, -1, -1))


def read(text: Tensor) -> ReadText:
    """Something that a model may have made of a prompt: as many keys and values as there are tokens, in two layers."""
    keys = text[None, :, None].expand(2, -1, 3, -1, -1)
    return ReadText(keys, 2 * keys)


def test_the_null_says_the_negative_prompt_and_knows_no_action():
    conditions = told(4)
    null = conditions.null((1, 3))
    assert torch.equal(null.text, conditions.negative) and not null.known.any()
    keep = torch.tensor([True, False])
    dropped = conditions.dropped(keep, (1, 3))
    assert torch.equal(dropped.text[0], conditions.text[0]) and torch.equal(dropped.text[1], conditions.negative[1])
    actions_alone = replace(conditions, known=conditions.known & keep[:, None])
    assert not torch.equal(actions_alone.text[1], conditions.negative[1]), (
        "the broken twin, which drops actions alone, still says the prompt"
    )


def test_prompts_that_were_read_are_dropped_cut_and_joined_like_those_that_were_not():
    conditions = told(4)
    seen = conditions.told(read(conditions.text), read(conditions.negative))
    for change in (
        lambda item: item.null((1, 3)),
        lambda item: item.dropped(torch.tensor([False, True]), (1, 3)),
        lambda item: item.rows(slice(1, 2)),
        lambda item: join([item, item.rows(slice(0, 1))]),
        lambda item: item.to("cpu", torch.float32),
        lambda item: item.frames(1, 2),
    ):
        raw, made = change(conditions), change(seen)
        assert torch.equal(made.text.keys, read(raw.text).keys) and torch.equal(made.text.values, read(raw.text).values)
        assert torch.equal(made.negative.keys, read(raw.negative).keys)
    with pytest.raises(ConfigError, match="read all of them, or none"):
        join([seen, conditions])
    with pytest.raises(ConfigError, match="read both, or none"):
        chosen_text(torch.tensor([True, False]), seen.text, conditions.text)


def test_without_a_negative_prompt_there_is_no_null():
    conditions = replace(told(4), negative=torch.zeros(2, 0, 7))
    with pytest.raises(ConfigError, match="tell it both"):
        conditions.null((1, 3))
    with pytest.raises(ConfigError, match="tell it both"):
        conditions.dropped(torch.tensor([True, False]), (1, 3))
