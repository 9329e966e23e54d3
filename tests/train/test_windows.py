"""Windows of long rollouts under a codec with a temporal stride: their first frame is one pixel frame, as that of every clip."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from training_fakes import CPU, RUN, UPDATE, stage_config

pytest.importorskip("diffusers")

from training_fakes import WideDraws

from fakes import ODD, tiny_codec, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import derive_seed, normal, stream
from mutoscope.memory.ledger import chunk_lengths
from mutoscope.memory.policy import Window
from mutoscope.models.conditions import Conditions, clip_conditions
from mutoscope.rollout.training import Rollout, ScoreWindow, score_window
from mutoscope.train.batch import ClipBatch
from mutoscope.train.stages.matching import MatchingRun
from mutoscope.train.stages.windows import EncodedAgain, WindowStart, as_generated, window_start
from wan import tiny_wan

STRIDE, FRAMES, CLIP = 4, 9, 4
CODEC = tiny_wan().double()


def conditions(frames: int = FRAMES, batch: int = 2) -> Conditions:
    """Random actions of a clip's pixel frames, the first unknown."""
    pixels = 1 + STRIDE * (frames - 1)
    known = torch.ones(batch, pixels, dtype=torch.bool)
    known[:, 0] = False
    return clip_conditions(normal((batch, pixels, 3), stream(0, "actions"), torch.float64), known, STRIDE)


def rollout(chunk: int, context: int) -> Rollout:
    """A rollout of random frames."""
    lengths = chunk_lengths(FRAMES, chunk, context)
    generated = torch.ones(2, FRAMES, dtype=torch.float64)
    generated[:, :context] = 0
    clean = tiny_latents(FRAMES)
    return Rollout(clean, clean, generated, generated, lengths, context, ())


def begin(how: WindowStart, made: Rollout, frames: int) -> ScoreWindow:
    return how(made, score_window(made, conditions(), frames))


def begins_with_one_pixel_frame(how: WindowStart) -> bool:
    """Whether a window's first frame is the last pixel frame of all that was generated up to there, encoded alone."""
    made = rollout(1, 1)
    window = begin(how, made, CLIP)
    alone = CODEC.encode(CODEC.decode(made.clean[:, : FRAMES - CLIP + 1])[:, -1:])
    return torch.allclose(window.clean[:, :1], alone, atol=1e-9) and torch.equal(window.clean[:, 1:], made.clean[:, FRAMES - CLIP + 1 :])


class WithoutPast(EncodedAgain):
    """The broken twin: the frame is decoded as if it were the first."""

    def first_frame(self, latents: Tensor) -> Tensor:
        return super().first_frame(latents[:, -1:])


def test_the_first_frame_is_decoded_with_its_past_and_encoded_alone():
    assert begins_with_one_pixel_frame(EncodedAgain(CODEC))
    assert not begins_with_one_pixel_frame(as_generated)
    assert not begins_with_one_pixel_frame(WithoutPast(CODEC))


@pytest.mark.parametrize(("chunk", "context", "frames"), [(1, 1, 4), (1, 3, 7), (2, 1, 5), (2, 5, 7), (4, 1, 5)])
def test_scores_are_asked_of_whole_chunks_after_the_first_frame(chunk, context, frames):
    made, start = rollout(chunk, context), FRAMES - frames
    window = begin(EncodedAgain(CODEC), made, frames)
    borders = [sum(made.lengths[:index]) for index in range(len(made.lengths) + 1)]
    assert window.first in borders and window.first == start + 1
    scored = [start + index >= max(window.first, context) for index in range(frames)]
    assert window.scored[0].bool().tolist() == scored and not window.scored[:, 0].any()


def test_a_window_at_the_start_of_a_rollout_stays_as_it_is():
    made = rollout(1, 1)
    window, plain = begin(EncodedAgain(CODEC), made, FRAMES), score_window(made, conditions(), FRAMES)
    assert window.first == plain.first == 0 and torch.equal(window.clean, plain.clean) and torch.equal(window.scored, plain.scored)


def test_codecs_without_a_stride_leave_windows_alone():
    assert window_start(tiny_codec()) is as_generated and window_start(CODEC) == EncodedAgain(CODEC)


def tells_what_a_clip_is_told(told: Conditions, start: int) -> bool:
    """Whether conditions are those of a clip that begins with the last pixel frame of frame `start`."""
    pixels = conditions()
    actions = torch.cat([pixels.actions[:, :1, -1], pixels.actions[:, 1:].flatten(1, 2)], dim=1)[:, STRIDE * start :]
    clip = clip_conditions(actions, torch.ones(actions.shape[:2], dtype=torch.bool), STRIDE)
    led = [each.travelled() - each.travelled()[:, :1] for each in (told, clip)]
    return torch.equal(told.actions, clip.actions) and torch.equal(told.known, clip.known) and torch.allclose(*led, atol=1e-12)


@pytest.mark.parametrize("start", [1, 4])
def test_the_first_frames_action_is_that_of_its_one_pixel_frame(start):
    told = conditions().frames(start, FRAMES)
    assert tells_what_a_clip_is_told(told.as_first(), start)
    assert torch.allclose(told.as_first().travelled(), told.travelled(), atol=1e-12), "the camera stands where it stood"
    assert not tells_what_a_clip_is_told(told, start)


def stage(begin: WindowStart) -> MatchingRun:
    """Matching in float64 whose models take frames of four pixel frames; windows end at the longest rollout's end."""
    student, score = (tiny_model(tiny_config(temporal_stride=STRIDE), seed) for seed in (3, 1))
    made = MatchingRun.make(replace(RUN, memory=Window(4), clip_frames=CLIP), stage_config("long-matching", UPDATE), student, score, begin)
    made.rollout_frames = lambda draws: FRAMES
    return made


def losses(begin: WindowStart) -> list[float]:
    draws = WideDraws(derive_seed(0, "draws"), 1, (0, 1), CPU)
    latents = normal((2, FRAMES, ODD.channels, ODD.height, ODD.width), stream(0, "clean"), torch.float64)
    batch = ClipBatch(latents, conditions(), draws, draws)
    return [float(stage(begin).loss(turn, batch)[0].detach()) for turn in ("critic", "model")]


def test_matching_scores_the_window_that_begins_as_a_clip():
    found, plain = losses(EncodedAgain(CODEC)), losses(lambda rollout, window: window)
    assert all(one != other for one, other in zip(found, plain, strict=True)) and all(torch.isfinite(torch.tensor(found)))


def test_long_rollouts_without_the_codec_are_refused():
    with pytest.raises(ConfigError, match="begins with a frame of several pixel frames: give the codec"):
        stage(as_generated)
