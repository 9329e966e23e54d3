"""From a data set to a batch: the action of a frame stays with it, and every rank and micro-batch gets its own clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_fakes import write_clips
from training_fakes import ALONE, CPU, UPDATE, make_stage

from fakes import tiny_codec, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.memory.policy import Window
from mutoscope.models.conditions import Conditions, action_conditions, clip_conditions
from mutoscope.models.denoise import bidirectional, clip_layout, teacher_forced
from mutoscope.train import sources
from mutoscope.train.batch import ClipBatch
from mutoscope.train.parallel import Workers
from mutoscope.train.sources import ClipSource, encode_dataset

FRAMES = 6


def source(dataset, workers: Workers = ALONE, seed: int = 0, **changes) -> ClipSource:
    return ClipSource(dataset, "frames", FRAMES, replace(UPDATE, **changes), seed, workers)


def is_aligned(batch: ClipBatch) -> bool:
    """Wherever an action is known it belongs to its frame, and only the first frame of an episode has none."""
    row = ((batch.clean[:, :, 0, 0, 0] + 1) * 127.5).round()
    known = batch.conditions.known
    return bool((row[known] == batch.conditions.actions[:, :, 0, 0][known]).all() and (known | (row % 10 == 0)).all() and known.any())


@pytest.fixture
def dataset(tmp_path):
    return write_clips(tmp_path / "clips", frames=9)


def test_every_frame_comes_with_the_action_that_led_to_it(dataset):
    batches = [source(dataset).batch("model", update, 0, 1) for update in range(12)]
    assert all(is_aligned(batch) for batch in batches)
    assert any(not batch.conditions.known.all() for batch in batches), "no clip began at the first frame of an episode"


@pytest.mark.parametrize("shift", [-1, 1])
def test_broken_twin_that_shifts_actions_by_one_is_found(dataset, monkeypatch, shift):
    monkeypatch.setattr(
        sources, "clip_conditions", lambda actions, *others, **named: clip_conditions(actions.roll(shift, 1), *others, **named)
    )
    assert not any(is_aligned(source(dataset).batch("model", update, 0, 1)) for update in range(4))


def test_latents_keep_the_order_of_their_frames(dataset, tmp_path):
    codec = tiny_codec()
    latents = encode_dataset(dataset, codec, tmp_path / "latents", CPU)
    pictures = ClipSource(dataset, "frames", FRAMES, UPDATE, 0, ALONE).batch("model", 3, 0, 1)
    batch = ClipSource(latents, "latents", FRAMES, UPDATE, 0, ALONE).batch("model", 3, 0, 1)
    assert torch.allclose(codec.encode(pictures.clean), batch.clean, atol=2e-3)
    assert torch.equal(pictures.conditions.actions, batch.conditions.actions)


def parts(dataset, world_size: int, accumulate: int) -> list[ClipBatch]:
    ranks = [source(dataset, Workers(rank, world_size, CPU), accumulate=accumulate) for rank in range(world_size)]
    return [rank.batch("model", 5, micro, accumulate) for rank in ranks for micro in range(accumulate)]


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 2), (2, 1), (2, 2), (1, 4)])
def test_ranks_and_micro_batches_cut_the_same_batch(dataset, world_size, accumulate):
    (whole,) = parts(dataset, 1, 1)
    cut = parts(dataset, world_size, accumulate)
    assert torch.equal(whole.clean, torch.cat([part.clean for part in cut]))
    assert torch.equal(whole.conditions.actions, torch.cat([part.conditions.actions for part in cut]))
    assert torch.equal(whole.draws.normal("noise", 3), torch.cat([part.draws.normal("noise", 3) for part in cut]))


def test_updates_turns_and_seeds_have_clips_of_their_own(dataset):
    asked = [source(dataset).batch("model", 0, 0, 1), source(dataset).batch("model", 1, 0, 1), source(dataset).batch("critic", 0, 0, 1)]
    asked.append(source(dataset, seed=1).batch("model", 0, 0, 1))
    assert len({batch.clean.numpy().tobytes() for batch in asked}) == len(asked)
    assert len({batch.draws.normal("noise", 4).numpy().tobytes() for batch in asked}) == len(asked)


@pytest.mark.parametrize(("world_size", "accumulate"), [(3, 1), (2, 4)])
def test_a_batch_that_does_not_divide_is_refused_and_no_clip_is_dropped(dataset, world_size, accumulate):
    message = f"4 clips does not divide among {world_size} processes with {accumulate} micro-batches each; choose a multiple of"
    with pytest.raises(ConfigError, match=message):
        source(dataset, Workers(0, world_size, CPU), accumulate=accumulate)


def test_finished_latents_are_reused_and_those_of_other_clips_refused(dataset, tmp_path):
    first = encode_dataset(dataset, tiny_codec(), tmp_path / "latents", CPU)
    again = encode_dataset(dataset, tiny_codec(), tmp_path / "latents", CPU)
    assert first.manifest == again.manifest
    for number, other in enumerate(({"seed": 1}, {"episodes": 4}, {"frames": 8})):
        clips = write_clips(tmp_path / f"other-{number}", **{"frames": 9, **other})
        with pytest.raises(DataError, match="latents of other clips than those of .*; delete it, or give another run folder"):
            encode_dataset(clips, tiny_codec(), tmp_path / "latents", CPU)


def test_interrupted_encoding_goes_on(dataset, tmp_path, monkeypatch):
    whole = encode_dataset(dataset, tiny_codec(), tmp_path / "whole", CPU)

    class Stop(Exception):
        pass

    def stop_after_two(self, steps: int = 1, note: str = "") -> None:
        self.done += steps
        if self.done == 2:
            raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(sources.Progress, "advance", stop_after_two)
        encode_dataset(dataset, tiny_codec(), tmp_path / "cut", CPU)
    resumed = encode_dataset(dataset, tiny_codec(), tmp_path / "cut", CPU)
    assert len(resumed.episodes) == len(whole.episodes) == 3
    for index in range(3):
        rows = [data.read(index, 0, 9, ("latents", "actions")) for data in (whole, resumed)]
        assert all(np.array_equal(rows[0][name], rows[1][name]) for name in rows[0])


def reached(forward, frame: int) -> set[int]:
    """The frames whose velocity depends on the action of `frame`."""
    conditions = conditions_of(FRAMES)
    actions = conditions.actions.clone()
    actions[:, frame] += 1
    changed = forward(conditions) - forward(replace(conditions, actions=actions))
    return {index for index in range(FRAMES) if changed[:, index].abs().max() > 0}


def conditions_of(frames: int) -> Conditions:
    actions = torch.linspace(-1, 1, 2 * frames * 3, dtype=torch.float64).view(2, frames, 1, 3)
    return action_conditions(actions, torch.ones(2, frames, dtype=torch.bool))


@torch.no_grad()
def forced(conditions: Conditions) -> torch.Tensor:
    """Teacher forcing, frame by frame, with a window longer than the clip."""
    model, clean, noisy = tiny_model(), tiny_latents(FRAMES), tiny_latents(FRAMES, seed=1)
    clip = clip_layout(model, Window(FRAMES), (1,) * FRAMES, CPU)
    return teacher_forced(model, clean, noisy, clean.new_full(clean.shape[:2], 0.5), conditions, conditions, clip)


@torch.no_grad()
def whole(conditions: Conditions) -> torch.Tensor:
    """The broken twin: a path that sees the future."""
    noisy = tiny_latents(FRAMES, seed=1)
    return bidirectional(tiny_model(), noisy, noisy.new_full(noisy.shape[:2], 0.5), conditions)


@pytest.mark.parametrize("frame", range(FRAMES))
def test_an_action_reaches_its_own_frame_and_later_ones_alone(frame):
    assert reached(forced, frame) == set(range(frame, FRAMES))
    assert reached(whole, frame) == set(range(FRAMES))


def shifted(batch: ClipBatch, by: int) -> ClipBatch:
    return replace(batch, conditions=replace(batch.conditions, actions=batch.conditions.actions.roll(by, dims=1)))


@pytest.mark.parametrize("kind", ["bidirectional", "autoregressive", "consistency", "matching", "long-matching"])
def test_shifting_the_actions_by_a_frame_changes_every_loss(kind):
    stage, clips = make_stage(kind, wide=True)
    for turn in stage.turns(1):
        batch = clips.batch(turn, 1, 0, 1)
        losses = [float(stage.loss(turn, shifted(batch, by))[0].detach()) for by in (0, 0, 1, -1)]
        assert losses[0] == losses[1] and len(set(losses)) == 3
