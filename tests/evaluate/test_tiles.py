"""Exact scores on `scroll`: the truth scores one, a shifted, late or frozen picture does not."""

import numpy as np
import pytest
from evaluate_fakes import scroll_episode

from mutoscope.core.errors import DataError
from mutoscope.data.worlds.tiles import TILE_PIXELS, classify_tiles, render_tiles
from mutoscope.evaluate.metrics.scroll import chance, forgetful_tiles, measured_moves, position_error, tile_scores

CONTEXT, LENGTH = 4, 20
EPISODE = scroll_episode(1, CONTEXT + LENGTH)
TRUE = EPISODE["frames"][CONTEXT:]


def tiles(frames: np.ndarray, memory_frames: int = 16) -> dict[str, np.ndarray]:
    shown = classify_tiles(frames)
    return tile_scores(shown, EPISODE["tiles"], EPISODE["position"], context=CONTEXT, memory_frames=memory_frames)


def place_error(frames: np.ndarray) -> np.ndarray:
    return position_error(
        np.concatenate([EPISODE["frames"][CONTEXT - 1 : CONTEXT], frames]), EPISODE["position"][CONTEXT - 1 :], TILE_PIXELS
    )


def test_the_truth_scores_one_in_every_group_and_no_position_error():
    for shares in tiles(TRUE).values():
        assert np.nanmin(shares) == 1
    assert np.all(place_error(TRUE) == 0)


def test_a_world_one_frame_late_is_caught():
    late = EPISODE["frames"][CONTEXT - 1 : -1]
    assert np.nanmean(tiles(late)["window"]) < 0.8
    assert place_error(late).mean() > 0.3


def test_copy_last_drifts_away_as_the_window_moves_on():
    frozen = np.repeat(EPISODE["frames"][CONTEXT - 1 : CONTEXT], LENGTH, axis=0)
    moved = EPISODE["position"][CONTEXT:] - EPISODE["position"][CONTEXT - 1]
    assert np.allclose(place_error(frozen), np.linalg.norm(moved, axis=1))


def honest_dream() -> np.ndarray:
    """Moves rightly, invents every tile that it has not seen, and remembers what it invented."""
    generator, known, frames = np.random.default_rng(0), {}, []
    for frame, (top, left) in enumerate(EPISODE["position"]):
        shown = np.zeros((4, 4), np.uint8)
        for row in range(4):
            for column in range(4):
                fresh = EPISODE["tiles"][frame, row, column] if frame < CONTEXT else generator.integers(8)
                shown[row, column] = known.setdefault((top + row, left + column), fresh)
        frames.append(render_tiles(shown))
    return np.stack(frames)[CONTEXT:]


def test_a_dream_that_keeps_what_it_invents_is_right_about_all_that_was_seen():
    found = tiles(honest_dream(), memory_frames=100)
    assert np.nanmin(found["window"]) == 1
    assert np.nanmin(found["kept"]) == 1
    assert np.nanmean(found["new"]) < 0.6, "nobody can know a tile before it was seen"
    assert np.all(place_error(honest_dream()) == 0)


def test_a_dream_that_forgets_is_caught():
    dream = honest_dream()
    forgotten = np.random.default_rng(1).integers(0, 8, size=(LENGTH, 4, 4), dtype=np.uint8)
    mixed = np.where((np.arange(LENGTH) < 8)[:, None, None, None], dream, render_tiles(forgotten))
    shares = tiles(mixed, memory_frames=100)["window"]
    assert np.nanmin(shares[:8]) == 1
    assert np.nanmean(shares[8:]) < 0.5


def test_what_has_left_memory_is_new_again():
    """Out of view for three frames: remembered by a memory of five frames (the new one included), not by one of three."""
    position = np.array([[0, 0], [0, 9], [0, 9], [0, 9], [0, 0]])
    true = np.zeros((5, 1, 1), np.uint8)
    shown = np.array([1, 1, 1, 1], np.uint8).reshape(4, 1, 1)
    long, short = (tile_scores(shown, true, position, context=1, memory_frames=frames) for frames in (5, 3))
    assert long["seen"][3] == 0
    assert np.isnan(long["new"][3])
    assert np.isnan(short["seen"][3])
    assert short["new"][3] == 0


def test_moves_are_measured_to_the_pixel():
    wide = render_tiles(np.random.default_rng(2).integers(0, 8, size=(8, 8)))
    frames = np.stack([wide[8:40, 8:40], wide[13:45, 8:40], wide[13:45, 5:37]])
    assert measured_moves(frames, (12, 12)).tolist() == [[5, 0], [0, -3]]


def test_a_picture_of_one_row_of_tiles_moves_sideways():
    """The reach is that of each axis: what is one tile high can still be seen to move by a whole tile."""
    true = np.random.default_rng(3).integers(0, 8, size=(1, 12))
    position = np.array([[0, 0], [0, 1], [0, 2], [0, 1]])
    frames = np.stack([render_tiles(true[:, column : column + 4]) for _, column in position])
    assert position_error(frames, position, 8).tolist() == [0, 0, 0]
    assert position_error(frames[[0, 0, 0, 0]], position, 8).tolist() == [1, 2, 1]


def test_chance_is_what_guessing_at_the_true_frequencies_gives():
    assert chance(np.arange(8)) == pytest.approx(1 / 8)
    assert chance(np.array([0, 0, 0, 1])) == pytest.approx(10 / 16)


def test_frames_and_truth_must_belong_together():
    with pytest.raises(DataError, match="need 23 true ones"):
        tile_scores(classify_tiles(TRUE[:-1]), EPISODE["tiles"], EPISODE["position"], context=CONTEXT, memory_frames=8)


def test_a_world_that_forgets_is_right_until_a_tile_comes_back():
    columns = np.array([0, 1, 2, 1, 0])  # two to the right and back; view of 2 x 2 tiles
    position = np.stack([np.zeros(5, int), columns], axis=1)
    row = np.arange(4)
    true = np.stack([np.stack([row, row + 4])[:, place : place + 2] for place in columns])
    shown = forgetful_tiles(true, position, 1, np.random.default_rng(0))
    assert shown.shape == (4, 2, 2)
    for frame in range(1, 4):  # what was in view before has moved with the window
        overlap = (slice(None), slice(0, 1)) if columns[frame + 1] > columns[frame] else (slice(None), slice(1, 2))
        kept = (slice(None), slice(1, 2)) if columns[frame + 1] > columns[frame] else (slice(None), slice(0, 1))
        assert np.array_equal(shown[frame][overlap], shown[frame - 1][kept])
    scores = tile_scores(shown, true, position, context=1, memory_frames=100)
    assert scores["window"][0] == 1 and scores["window"][3] < 1, "the first column was forgotten when it left the view"
    remembered = tile_scores(true[1:], true, position, context=1, memory_frames=100)
    assert np.nanmin(remembered["window"]) == 1
