"""The recall task: landmarks are seen late, leave the view, and come back; the truth scores one, a frozen picture does not move."""

import numpy as np
import pytest

from mutoscope.core.errors import ConfigError
from mutoscope.data.worlds import make_world
from mutoscope.evaluate.recall import RecallClips, RecallTask, copy_sink, landmark_chance, play_truth, score, script, within_memory
from mutoscope.memory.policy import Full, SinkWindow, Window

TASK = RecallTask(lead=8, away=12)
RING = ("stand", "turn_left", "turn_right")


@pytest.fixture(scope="module")
def clips() -> RecallClips:
    """Six episodes of the ring, eight turns to the landmarks, twelve frames away."""
    return play_truth(make_world("ring", height=32, width=32, frame_skip=1), TASK, 6, 0)


def test_a_script_turns_away_waits_and_comes_back() -> None:
    assert script(TASK, 4, RING) == ("turn_right",) * 12 + ("stand",) * 4 + ("turn_left",) * 4
    assert script(RecallTask(4, 8), 4, ("stand", "up", "down", "left", "right")) == ("right",) * 8 + ("left",) * 4


@pytest.mark.parametrize("task", [RecallTask(8, 7), RecallTask(3, 8)])
def test_a_task_too_short_to_lose_the_landmarks_is_refused(task: RecallTask) -> None:
    with pytest.raises(ConfigError, match="takes 8 frames"):
        script(task, 4, RING)


def test_a_world_without_a_way_back_is_refused() -> None:
    with pytest.raises(ConfigError, match="this one has: stand, turn_left"):
        script(TASK, 4, ("stand", "turn_left"))


def test_landmarks_are_new_after_the_sinks_out_of_view_in_between_and_back_at_the_end(clips: RecallClips) -> None:
    columns = clips.position[0, :, 1]
    landmark = columns[clips.context - 1]
    assert columns[-1] == landmark and clips.frames.shape[1] == clips.context + TASK.away
    in_view = np.abs(columns - landmark) < 4
    assert not in_view[: TASK.lead - 3].any() and in_view[clips.context - 1]
    assert not in_view[clips.context + 3 : -4].any() and in_view[-1]
    assert np.array_equal(clips.frames[:, -1], clips.frames[:, clips.context - 1])


def test_the_truth_scores_one(clips: RecallClips) -> None:
    scores = score(clips.frames[:, clips.context :], clips)
    assert (scores.identity == 1).all() and (scores.moved == 1).all() and (scores.psnr_db > 50).all()


def test_a_memory_of_the_first_frame_guesses_and_does_not_move(clips: RecallClips) -> None:
    scores = score(copy_sink(clips), clips)
    assert scores.identity.mean() < 0.4 and not scores.moved.any()


def test_a_frozen_picture_recalls_but_does_not_move(clips: RecallClips) -> None:
    frozen = np.repeat(clips.frames[:, clips.context - 1 : clips.context], TASK.away, axis=1)
    scores = score(frozen, clips)
    assert (scores.identity == 1).all() and not scores.moved.any()


def test_broken_twin_a_return_that_is_one_tile_off_is_noticed(clips: RecallClips) -> None:
    made = clips.frames[:, clips.context :].copy()
    made[:, -1] = clips.frames[:, -2]
    assert score(made, clips).identity.mean() < 0.5


def test_chance_is_an_eighth_or_a_little_more(clips: RecallClips) -> None:
    assert 0.125 <= landmark_chance(clips) < 0.2


def test_what_a_memory_may_still_read(clips: RecallClips) -> None:
    assert within_memory(Full(64), clips, 1) and within_memory(Window(13), clips, 1)
    assert not within_memory(Window(12), clips, 1) and not within_memory(SinkWindow(4, 12), clips, 1)
    assert within_memory(Window(15), clips, 3) and not within_memory(Window(12), clips, 3)
