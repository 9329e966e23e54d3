"""Worlds of tiles with exact ground truth: a window over a map that is random per episode. State and true picture are always known.

scroll  a large map and four moves
ring    a panorama of tiles around the viewer and two turns: a full turn comes back to the beginning
"""

from dataclasses import dataclass

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.worlds.tiles import NUM_KINDS, TILE_PIXELS, render_tiles

MAP_TILES = 64
RING_TILES = 48
STEPS_PER_SECOND = 8.0


@dataclass(frozen=True)
class TileLayout:
    """How large the map is, in tiles, and where each action moves the window: (down, right)."""

    map_rows: int
    map_columns: int
    moves: dict[str, tuple[int, int]]


SCROLL = TileLayout(MAP_TILES, MAP_TILES, {"stand": (0, 0), "up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)})
TURNS = {"stand": (0, 0), "turn_left": (0, -1), "turn_right": (0, 1)}


def view_tiles(tile_map: np.ndarray, position: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The kinds `[rows, columns]` seen with the window's upper left tile at `position` (row, column); the map wraps around."""
    height, width = tile_map.shape
    across = (np.arange(rows) + int(position[0])) % height, (np.arange(columns) + int(position[1])) % width
    return tile_map[np.ix_(*across)]


def render_view(tile_map: np.ndarray, position: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The true picture at `position`, uint8 RGB `[8 rows, 8 columns, 3]`."""
    return render_tiles(view_tiles(tile_map, position, rows, columns))


class TileWorld(gymnasium.Env[np.ndarray, int]):
    """Each step moves the window by `frame_skip` tiles as its layout says, or not at all.

    `info` holds "tiles", the kinds in view (uint8 `[rows, columns]`), and "position", the window's upper left tile (int32 row and
    column, not wrapped around, so that it counts the moves).
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, *, height: int, width: int, frame_skip: int = 1, name: str = "scroll", layout: TileLayout = SCROLL) -> None:
        if height % TILE_PIXELS or width % TILE_PIXELS or frame_skip < 1:
            raise ConfigError(
                f"{name} needs a size in multiples of {TILE_PIXELS} and a frame skip of 1 or more, got {width}x{height}, {frame_skip}"
            )
        self.world = WorldSpec(name, height, width, STEPS_PER_SECOND / frame_skip, ActionSpec("discrete", tuple(layout.moves)))
        self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(layout.moves))
        self.render_mode = "rgb_array"
        self.layout = layout
        self.tile_map = np.zeros((layout.map_rows, layout.map_columns), np.uint8)
        self.position = np.zeros(2, np.int32)
        self._rows, self._columns, self._stride = height // TILE_PIXELS, width // TILE_PIXELS, frame_skip

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Draw a new map and begin in it; the same seed draws the same."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        generator = numpy_stream(seed, "scroll map")
        self.tile_map = generator.integers(NUM_KINDS, size=self.tile_map.shape, dtype=np.uint8)
        self.position = generator.integers(self.tile_map.shape, dtype=np.int32)
        return self.render(), self._info()

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Move the window; no reward, no end."""
        move = tuple(self.layout.moves.values())[int(action)]
        self.position = self.position + self._stride * np.array(move, np.int32)
        return self.render(), 0.0, False, False, self._info()

    def render(self) -> np.ndarray:
        """The true picture, uint8 RGB `[H, W, 3]`."""
        return render_view(self.tile_map, self.position, self._rows, self._columns)

    def _info(self) -> dict:
        return {"tiles": view_tiles(self.tile_map, self.position, self._rows, self._columns), "position": self.position.copy()}


def make_scroll(name: str, *, height: int, width: int, frame_skip: int) -> TileWorld:
    """The world `scroll` with a window of `height x width` pixels."""
    return TileWorld(height=height, width=width, frame_skip=frame_skip, name=name)


def make_ring(name: str, *, height: int, width: int, frame_skip: int) -> TileWorld:
    """The world `ring`: a panorama as high as the window, RING_TILES around."""
    layout = TileLayout(max(1, height // TILE_PIXELS), RING_TILES, TURNS)
    return TileWorld(height=height, width=width, frame_skip=frame_skip, name=name, layout=layout)
