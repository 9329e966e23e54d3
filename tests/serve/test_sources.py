from dataclasses import replace

import numpy as np
import pytest

from fakes import tiny_checkpoint
from mutoscope.core.errors import CapacityError
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.gym import world_spec
from mutoscope.memory.policy import Full
from mutoscope.rollout.session import Session, SessionConfig, default_config
from mutoscope.serve.engine import PaneSet
from mutoscope.serve.scheduler import InputSlot
from mutoscope.serve.sources import LearnedSource, RealSource


def learned(chunk_frames: int = 1, config: SessionConfig | None = None) -> LearnedSource:
    """A tiny learned world with random weights."""
    checkpoint = tiny_checkpoint(chunk_frames=chunk_frames)
    return LearnedSource(Session(checkpoint, config or default_config(checkpoint.manifest)), stride=chunk_frames)


def frames_of(source: LearnedSource, held: tuple[str, ...], *, commit: bool, steps: int = 8) -> np.ndarray:
    """Pictures of a few steps under held keys."""
    slot, panes = InputSlot(), PaneSet((source,))
    panes.reset(1, 5)
    slot.put(1, held)
    frames = []
    for _ in range(steps):
        frames += [moment.pictures[0] for moment in panes.step(slot)]
        if commit:
            panes.commit()
    return np.stack(frames)


@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_a_learned_world_plays_the_same_whenever_it_is_committed(chunk_frames: int) -> None:
    now, later = (frames_of(learned(chunk_frames), ("forward",), commit=commit) for commit in (True, False))
    assert now.shape == (8 * chunk_frames, 12, 20, 3) and now.dtype == np.uint8
    assert (now == later).all()


def test_keys_reach_the_learned_world() -> None:
    assert (frames_of(learned(), ("forward",), commit=True) != frames_of(learned(), ("turn_left",), commit=True)).any()


def test_its_memory_neither_grows_nor_forgets_to_say_when_it_is_full() -> None:
    source = learned()
    before = source.memory_bytes
    frames_of(source, (), commit=True, steps=20)
    assert source.memory_bytes == before > 0
    with pytest.raises(CapacityError):
        frames_of(learned(config=SessionConfig(1, 1, Full(6))), (), commit=True, steps=20)


def test_the_real_doom_turns_under_the_same_keys() -> None:
    pytest.importorskip("vizdoom")
    environment = make_world("doom-basic", height=24, width=32)
    panes = PaneSet((RealSource(environment, world_spec(environment)),))
    pictures = {}
    for held in ((), ("turn_left",), ("turn_right",)):
        slot = InputSlot()
        slot.put(1, held)
        panes.reset(None, 3)
        for _ in range(4):
            (moment,) = panes.step(slot)
        pictures[held] = moment.pictures[0].astype(float)
    panes.close()
    still, left, right = pictures.values()
    # Turning left brings what was at the left edge towards the middle.
    shifted = {shift: np.abs(left[:, 8:24] - still[:, 8 - shift : 24 - shift]).mean() for shift in range(-8, 9)}
    assert min(shifted, key=shifted.__getitem__) > 0
    shifted = {shift: np.abs(right[:, 8:24] - still[:, 8 - shift : 24 - shift]).mean() for shift in range(-8, 9)}
    assert min(shifted, key=shifted.__getitem__) < 0


def test_nothing_stands_before_the_clips_of_a_world_that_begins_so() -> None:
    checkpoint = tiny_checkpoint()
    assert checkpoint.starts is not None
    clips, empty = checkpoint.starts.frames.numpy(), replace(checkpoint.manifest, beginning="nothing")
    config = default_config(checkpoint.manifest)
    source = LearnedSource(Session(replace(checkpoint, manifest=empty), config))
    assert (source.reset(0, 5) == source.reset(None, 5)).all() and len(source.reset(0, 5)) == 1
    assert (source.reset(1, 5) == clips[0]).all() and (source.reset(2, 5) == clips[1]).all()
    bare = LearnedSource(Session(replace(checkpoint, manifest=empty, starts=None), config))
    assert (bare.reset(2, 5) == source.reset(0, 5)).all(), "beside another world's list of starts"
    real = learned()
    assert (real.reset(0, 5) == clips[0]).all() and (real.reset(None, 5) == clips[0]).all()
