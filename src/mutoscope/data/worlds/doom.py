"""ViZDoom worlds: rendered in software, with the true camera pose, and without HUD, weapon, monsters or view bobbing."""

import contextlib
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError, DataError, optional_import
from mutoscope.core.streams import numpy_stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.data.worlds.picture import scale

TICS_PER_SECOND = 35
START_SECONDS = 60.0
# A player who has just been born obeys no key for some eight tics.
SPAWN_TICS = 10
SETTLE_TICS = 4
PILLAR = "TechPillar"
BUTTONS = {
    "forward": "MOVE_FORWARD",
    "backward": "MOVE_BACKWARD",
    "turn_left": "TURN_LEFT",
    "turn_right": "TURN_RIGHT",
    "left": "MOVE_LEFT",
    "right": "MOVE_RIGHT",
}
WALK = ("forward", "backward", "turn_left", "turn_right")
POSE = {"x": "CAMERA_POSITION_X", "y": "CAMERA_POSITION_Y", "z": "CAMERA_POSITION_Z", "angle": "CAMERA_ANGLE", "pitch": "CAMERA_PITCH"}
RESOLUTIONS = ((160, 120), (320, 240), (640, 480))
UNWANTED = ("hud", "weapon", "crosshair", "decals", "particles", "screen_flashes", "messages", "corpses", "effects_sprites")
# ViZDoom makes this empty folder wherever it is started, whatever it is told.
STRAY_FOLDER = Path("_vizdoom")
GAME_ARGUMENTS = "+sv_cheats 1 +movebob 0 -nomonsters"


@dataclass(frozen=True)
class Area:
    """A rectangle of the map, in map units."""

    left: float
    bottom: float
    right: float
    top: float


@dataclass(frozen=True)
class Scenario:
    """A ViZDoom scenario as a world.

    file      the scenario's name in the ViZDoom package
    buttons   the keys the player has
    start     where an episode may begin, in any direction; none: where the scenario itself puts the player
    pillars   (x, y, degrees): a player who stands there and looks that way has a pillar 48 units ahead, which bars a doorway
    remove    kinds of things that are taken out when an episode begins
    """

    file: str
    buttons: tuple[str, ...] = WALK
    start: tuple[Area, ...] = ()
    pillars: tuple[tuple[float, float, float], ...] = ()
    remove: tuple[str, ...] = ()


SCENARIOS = {
    "doom": Scenario("my_way_home", remove=("GreenArmor",)),
    "doom-wing": Scenario(
        "my_way_home",
        start=(Area(980, -12, 1100, 108), Area(980, -236, 1100, -116), Area(1012, -396, 1068, -270)),
        pillars=((1000, 48, 180),),
        remove=("GreenArmor",),
    ),
    "doom-basic": Scenario("basic", (*WALK, "left", "right"), start=(Area(-420, -164, 36, 228),)),
    "doom-cover": Scenario("take_cover", start=(Area(-416, 32, 96, 736),)),
    "doom-gathering": Scenario("health_gathering", start=(Area(40, 40, 1176, 1176),), remove=("Medikit",)),
}


class DoomWorld(gymnasium.Env[np.ndarray, np.ndarray]):
    """One scenario at a picture size and frame skip; `world` says what it is, `info["pose"]` is float32 `[5]`."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, scenario: Scenario, *, name: str, height: int, width: int, frame_skip: int) -> None:
        if frame_skip < 1:
            raise ConfigError(f"frame skip must be at least 1, got {frame_skip}")
        self.world = WorldSpec(name, height, width, TICS_PER_SECOND / frame_skip, ActionSpec("multi_binary", scenario.buttons), tuple(POSE))
        self.observation_space = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = gymnasium.spaces.MultiBinary(len(scenario.buttons))
        self.render_mode = "rgb_array"
        self._scenario, self._frame_skip = scenario, frame_skip
        self._folder = tempfile.TemporaryDirectory(prefix="mutoscope-doom-")
        self._still = [0.0] * (len(scenario.buttons) + 1)
        self._game = _start_game(scenario, Path(self._folder.name), height, width)
        self._image = np.zeros((height, width, 3), np.uint8)
        self._pose = np.zeros(len(POSE), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Begin an episode; the same seed begins the same episode."""
        super().reset(seed=seed)
        seed = int(self.np_random.integers(1 << 31)) if seed is None else seed
        self._game.set_seed(seed % (1 << 31))
        self._game.new_episode()
        self._place(numpy_stream(seed, "doom start"))
        self._look()
        return self._image, {"pose": self._pose}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Hold the buttons for `frame_skip` tics of 1/35 s; there is no reward, and episodes have no end of their own."""
        pressed = [bool(button) for button in np.asarray(action).reshape(-1)]
        self._advance([*pressed, 0.0], self._frame_skip)
        if self._game.is_episode_finished():
            return self._image, 0.0, True, False, {"pose": self._pose}
        self._look()
        return self._image, 0.0, False, False, {"pose": self._pose}

    def render(self) -> np.ndarray:
        """The current picture, uint8 RGB `[H, W, 3]`."""
        return self._image

    def close(self) -> None:
        """End the game process."""
        self._game.close()
        self._folder.cleanup()

    def _place(self, generator: np.random.Generator) -> None:
        self._command("god", *(f"remove {kind}" for kind in self._scenario.remove))
        for x, y, heading in self._scenario.pillars:
            self._stand(x, y, heading)
            self._command(f"summon {PILLAR}")
        if areas := self._scenario.start:
            area = areas[generator.choice(len(areas), p=_shares(areas))]
            x, y = generator.uniform((area.left, area.bottom), (area.right, area.top))
            self._stand(x, y, generator.uniform(0, 360))
        self._advance(self._still, SETTLE_TICS)

    def _stand(self, x: float, y: float, heading: float) -> None:
        self._command(f"warp {x:.0f} {y:.0f}")
        angle = self._game.get_state().game_variables[list(POSE).index("angle")]
        self._advance([*self._still[:-1], float(angle - heading)], 1)

    def _command(self, *commands: str) -> None:
        for command in commands:
            self._game.send_game_command(command)
        self._advance(self._still, 1)

    def _advance(self, buttons: list[float], tics: int) -> None:
        self._game.make_action(buttons, tics)

    def _look(self) -> None:
        state = self._game.get_state()
        self._image = scale(state.screen_buffer, self.world.height, self.world.width)
        self._pose = np.asarray(state.game_variables, np.float32)


def make_doom(name: str, *, height: int, width: int, frame_skip: int) -> DoomWorld:
    """The ViZDoom world `name` of SCENARIOS."""
    return DoomWorld(SCENARIOS[name], name=name, height=height, width=width, frame_skip=frame_skip)


def _start_game(scenario: Scenario, folder: Path, height: int, width: int) -> Any:
    vizdoom = optional_import("vizdoom", package="vizdoom", extra="record")
    game = vizdoom.DoomGame()
    game.load_config(str(Path(vizdoom.scenarios_path) / f"{scenario.file}.cfg"))
    game.set_doom_config_path(str(folder / "vizdoom.ini"))
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, _resolution(height, width)))
    for part in UNWANTED:
        getattr(game, f"set_render_{part}")(False)
    buttons = [*(BUTTONS[name] for name in scenario.buttons), "TURN_LEFT_RIGHT_DELTA"]
    game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
    game.set_available_game_variables([getattr(vizdoom.GameVariable, variable) for variable in POSE.values()])
    game.set_episode_timeout(0)
    game.set_episode_start_time(max(game.get_episode_start_time(), SPAWN_TICS))
    game.add_game_args(GAME_ARGUMENTS)
    stray_is_ours = not STRAY_FOLDER.exists()
    _init_within(game, START_SECONDS)
    if stray_is_ours:
        with contextlib.suppress(OSError):
            STRAY_FOLDER.rmdir()
    return game


def _shares(areas: tuple[Area, ...]) -> np.ndarray:
    sizes = np.array([(area.right - area.left) * (area.top - area.bottom) for area in areas])
    return sizes / sizes.sum()


def _resolution(height: int, width: int) -> str:
    for across, down in RESOLUTIONS:
        if width <= across and height <= down:
            return f"RES_{across}X{down}"
    raise ConfigError(f"a ViZDoom picture can have at most 640x480 pixels, asked for {width}x{height}")


def _init_within(game: Any, seconds: float) -> None:
    failures: list[Exception] = []

    def start() -> None:
        try:
            game.init()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=start, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise DataError(f"ViZDoom did not start within {seconds:.0f} s; end stray vizdoom processes and try again")
    if failures:
        raise DataError(f"ViZDoom did not start: {failures[0]}") from failures[0]
