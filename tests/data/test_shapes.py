"""The world of shapes: caption and seed determine every picture, and every picture says what it shows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.world import NO_ACTIONS
from mutoscope.data.captions import captions
from mutoscope.data.clips import open_dataset
from mutoscope.data.recorder import RecordOptions, record
from mutoscope.data.worlds import WORLDS, make_world, world_prompts
from mutoscope.data.worlds.shape_world import PAUSE_FRAMES, PERIOD, SHOWN_FRAMES, ShapeWorld
from mutoscope.data.worlds.shapes import (
    CAPTIONS,
    CELL,
    COLOURS,
    DIRECTIONS,
    EVERYTHING,
    MASKS,
    NOTHING,
    PLACES,
    SEEN,
    SHAPES,
    STEP,
    UNSEEN,
    UNSEEN_PAIRS,
    Shown,
    Told,
    blank,
    detect,
    draw,
    told_by,
)

SIZE = 24


def played(world: ShapeWorld, frames: int, seed: int, caption: str) -> np.ndarray:
    """The first frames of an episode, uint8 `[frames, H, W, 3]`."""
    first, info = world.reset(seed=seed, options={"caption": caption})
    assert info["caption"] == caption
    return np.stack([first, *(world.step(np.zeros(0))[0] for _ in range(frames - 1))])


def is_what_was_told(shown: Shown, told: Told, frames: int) -> bool:
    """Whether an episode's pauses, colours, shapes and steps are those of the world under this caption."""
    there = np.arange(frames) % PERIOD >= PAUSE_FRAMES
    if not np.array_equal(shown.there, there):
        return False
    steps = np.stack([np.diff(shown.row), np.diff(shown.column)], axis=1)[there[1:] & there[:-1]]
    kinds = (shown.shape[there] == SHAPES.index(told.shape)).all() and (shown.colour[there] == list(COLOURS).index(told.colour)).all()
    return bool(kinds and ((steps - DIRECTIONS[told.direction]) % PLACES == 0).all())


def test_words_make_all_combinations_and_some_are_held_out():
    assert len(set(CAPTIONS)) == len(EVERYTHING) == len(SHAPES) * len(COLOURS) * len(DIRECTIONS) == 96
    assert {*SEEN, *UNSEEN} == set(EVERYTHING) and not {*SEEN} & {*UNSEEN} and len(UNSEEN) == 16
    assert {(told.shape, told.colour) for told in UNSEEN} == set(UNSEEN_PAIRS)
    for attribute in ("shape", "colour", "direction"):
        assert {getattr(told, attribute) for told in SEEN} == {getattr(told, attribute) for told in EVERYTHING}, (
            "every word is shown by some"
        )
    assert (
        all(told_by(told.caption) == told for told in EVERYTHING) and world_prompts("shapes") == CAPTIONS and world_prompts("scroll") == ()
    )
    with pytest.raises(DataError, match="'red dogs move left' says nothing"):
        told_by("red dogs move left")


def test_no_shape_is_another_one_or_itself_in_another_place():
    moved = [np.roll(mask, (STEP * row, STEP * column), axis=(0, 1)) for mask in MASKS for row in range(PLACES) for column in range(PLACES)]
    assert MASKS.shape[1:] == (CELL, CELL) and len(moved) == len(SHAPES) * PLACES**2
    differences = [(first != second).sum() for index, first in enumerate(moved) for second in moved[:index]]
    assert min(differences) >= 8


def test_every_picture_is_detected_and_still_is_under_noise():
    generator = np.random.default_rng(0)
    kinds = [(told, (int(generator.integers(PLACES)), int(generator.integers(PLACES)))) for told in EVERYTHING]
    pictures = np.stack([draw(told, place, SIZE, SIZE) for told, place in kinds])
    wanted = np.array([(SHAPES.index(told.shape), list(COLOURS).index(told.colour), *place) for told, place in kinds]).T
    for noise in (0, 30):
        seen = np.clip(pictures + generator.normal(0, noise, pictures.shape), 0, 255).astype(np.uint8)
        found = detect(seen)
        assert np.array_equal(np.stack([found.shape, found.colour, found.row, found.column]), wanted)
        assert not np.array_equal(detect(np.roll(seen, STEP, axis=2)).column, wanted[3]), "the broken twin stands elsewhere"
        assert not np.array_equal(detect(seen[..., ::-1]).colour, wanted[1]), "the broken twin has other colours"
    nothing = detect(blank(SIZE, SIZE))
    assert not nothing.there and nothing.colour == nothing.row == nothing.column == NOTHING


@pytest.mark.parametrize("told", [SEEN[0], SEEN[33], UNSEEN[-1]])
def test_an_episode_shows_what_its_caption_says(told: Told):
    world, frames = ShapeWorld(height=SIZE, width=SIZE), 3 * PERIOD
    clip = played(world, frames, 7, told.caption)
    shown = detect(clip)
    assert is_what_was_told(shown, told, frames)
    others = {"left": "up", "right": "left", "up": "down", "down": "right"}
    assert not is_what_was_told(shown, replace(told, direction=others[told.direction]), frames)
    assert not is_what_was_told(detect(clip[::-1].copy()), told, frames), "the broken twin runs backwards"
    assert np.array_equal(clip, played(world, frames, 7, told.caption)) and not np.array_equal(clip, played(world, frames, 8, told.caption))
    firsts = [(int(shown.row[k]), int(shown.column[k])) for k in range(PAUSE_FRAMES, frames, PERIOD)]
    assert len(set(firsts)) > 1, "it appears somewhere else"


def test_what_is_told_in_mid_episode_appears_next_and_changes_nothing_before():
    world = ShapeWorld(height=SIZE, width=SIZE)
    world.reset(seed=3, options={"caption": SEEN[0].caption})
    for _ in range(PAUSE_FRAMES + 1):
        world.step(np.zeros(0))
    world.tell(UNSEEN[-1].caption)
    pictures = np.stack([world.step(np.zeros(0))[0] for _ in range(PERIOD + SHOWN_FRAMES - 2)])
    shown = detect(pictures)
    now, after = shown.of(slice(0, 2)), shown.of(slice(2 + PAUSE_FRAMES, None))
    assert (now.shape == SHAPES.index(SEEN[0].shape)).all() and (after.shape == SHAPES.index(UNSEEN[-1].shape)).all()
    assert (after.colour == list(COLOURS).index(UNSEEN[-1].colour)).all() and not shown.there[2 : 2 + PAUSE_FRAMES].any()


def test_recorded_episodes_carry_captions_of_what_may_be_seen(tmp_path: Path):
    options = RecordOptions("shapes", episodes=12, frames_per_episode=PERIOD + 1, height=24, width=24, frame_skip=1)
    record(lambda: make_world("shapes", height=24, width=24, frame_skip=1), tmp_path / "set", options)
    dataset = open_dataset(tmp_path / "set")
    assert dataset.world.actions == NO_ACTIONS and "shapes" in WORLDS and len(captions(dataset)) > 4
    for episode in dataset.episodes:
        told = told_by(episode.caption)
        arrays = dataset.read(episode.index, 0, PERIOD + 1, ("frames", "actions"))
        assert told in SEEN and arrays["actions"].shape == (PERIOD + 1, 0)
        assert is_what_was_told(detect(arrays["frames"]), told, PERIOD + 1)


def test_sizes_that_are_not_made_of_cells_are_refused():
    for height, width, skip in ((30, 32, 1), (32, 0, 1), (32, 32, 2)):
        with pytest.raises((ConfigError, DataError)):
            ShapeWorld(height=height, width=width, frame_skip=skip)
