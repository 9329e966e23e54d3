import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from mutoscope.core.errors import ConfigError, DataError
from mutoscope.data.worlds import make_world
from mutoscope.data.worlds.tile_worlds import MAP_TILES, RING_TILES, TileWorld, make_ring, render_view, view_tiles
from mutoscope.data.worlds.tiles import NUM_KINDS, TEMPLATES, classify_tiles, render_tiles


@given(st.lists(st.integers(0, 4), max_size=30), st.integers(0, 1000))
def test_the_picture_is_always_the_true_view(moves: list[int], seed: int) -> None:
    world = TileWorld(height=16, width=24)
    picture, info = world.reset(seed=seed)
    for move in moves:
        picture, _, _, _, info = world.step(move)
    assert np.array_equal(picture, render_view(world.tile_map, info["position"], 2, 3))
    assert np.array_equal(classify_tiles(picture), info["tiles"])


@given(st.integers(1, 4))
def test_a_move_shifts_the_view_by_one_tile(action: int) -> None:
    world = TileWorld(height=32, width=32)
    before, _ = world.reset(seed=5)
    after = world.step(action)[0]
    down, right = {1: (-8, 0), 2: (8, 0), 3: (0, -8), 4: (0, 8)}[action]
    kept = before[max(0, down) : 32 + min(0, down), max(0, right) : 32 + min(0, right)]
    seen = after[max(0, -down) : 32 + min(0, -down), max(0, -right) : 32 + min(0, -right)]
    assert np.array_equal(kept, seen)


def test_standing_changes_nothing_and_there_and_back_is_the_same_place() -> None:
    world = TileWorld(height=32, width=32)
    start = world.reset(seed=1)[0]
    assert np.array_equal(world.step(0)[0], start)
    assert not np.array_equal(world.step(4)[0], start)
    assert np.array_equal(world.step(3)[0], start)


def test_the_map_wraps_around_but_the_position_counts_on() -> None:
    world = TileWorld(height=16, width=16)
    start, first = world.reset(seed=1)
    for _ in range(MAP_TILES):
        picture, _, _, _, last = world.step(4)
    assert np.array_equal(picture, start) and last["position"][1] - first["position"][1] == MAP_TILES


def test_episodes_have_their_own_maps() -> None:
    world = TileWorld(height=32, width=32)
    first, second, again = (world.reset(seed=seed)[0] for seed in (1, 2, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, second)


def test_tiles_survive_noise_and_a_batch_is_classified_at_once() -> None:
    generator = np.random.default_rng(0)
    tiles = generator.integers(NUM_KINDS, size=(3, 5, 4, 4)).astype(np.uint8)
    noisy = np.clip(render_tiles(tiles) + generator.normal(0, 50, (3, 5, 32, 32, 3)), 0, 255).astype(np.uint8)
    assert np.array_equal(classify_tiles(noisy), tiles)


def test_broken_twin_wrong_tiles_are_noticed() -> None:
    tiles = np.arange(16).reshape(4, 4) % NUM_KINDS
    assert (classify_tiles(render_tiles((tiles + 1) % NUM_KINDS)) != tiles).all()


def test_kinds_differ_clearly() -> None:
    flat = TEMPLATES.reshape(NUM_KINDS, -1).astype(float)
    distance = np.sqrt(((flat[:, None] - flat[None]) ** 2).mean(axis=-1))
    assert distance[~np.eye(NUM_KINDS, dtype=bool)].min() > 40


def test_it_passes_gymnasiums_own_checker() -> None:
    check_env(make_world("scroll", height=32, width=32, frame_skip=1), skip_render_check=True)


def test_sizes_that_are_not_whole_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        TileWorld(height=30, width=32)
    with pytest.raises(DataError, match="whole tiles"):
        classify_tiles(np.zeros((30, 32, 3), np.uint8))


def test_view_tiles_wraps() -> None:
    tile_map = np.arange(12).reshape(3, 4)
    assert view_tiles(tile_map, np.array([2, 3]), 2, 2).tolist() == [[11, 8], [3, 0]]


def test_a_full_turn_of_the_ring_comes_back_to_the_beginning() -> None:
    ring = make_ring("ring", height=32, width=24, frame_skip=1)
    start, _ = ring.reset(seed=3)
    seen = [ring.step(2)[0] for _ in range(RING_TILES)]
    assert np.array_equal(seen[-1], start)
    assert len({picture.tobytes() for picture in seen}) == RING_TILES
    assert np.array_equal(ring.step(1)[0], seen[-2])


def test_every_row_of_the_ring_is_always_in_view() -> None:
    ring = make_ring("ring", height=32, width=24, frame_skip=1)
    _, info = ring.reset(seed=3)
    assert sorted(info["tiles"].sum(axis=1)) == sorted(np.roll(ring.tile_map, -info["position"], axis=(0, 1))[:, :3].sum(axis=1))


def test_the_ring_is_made_by_name_and_passes_gymnasiums_own_checker() -> None:
    ring = make_world("ring", height=32, width=32, frame_skip=1)
    check_env(ring, skip_render_check=True)
    assert ring.world.actions.names == ("stand", "turn_left", "turn_right")
