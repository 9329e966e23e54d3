"""Recall in worlds with a camera: see a real view, turn or walk away, come back by the opposite keys. Is it still there?

An episode is a script of keys that is played in the real world first, which gives the true frames and the true camera. After a lead of
real turns, which fills the sinks of any memory with another view, the player stands and looks; from then on the dream is alone. The ways:

turn    once around, to the nearest step that the keys allow, with a pause half way
look    up to half a turn away and back
leave   straight on, as far as no wall bars the way back, and back by the opposite key

Whether an episode came back, and from how far, is read from the true camera. Those that did not, or did not get away, are refused and
counted.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import gymnasium
import numpy as np

from mutoscope.core.errors import ConfigError, DataError, choose
from mutoscope.core.streams import derive_seed, numpy_stream
from mutoscope.core.world import WorldSpec
from mutoscope.data.worlds.keys import FULL_TURN, POSE_ANGLES, POSE_PLACE, STAND, TURNS, WALKS

MOST_FRAMES_OF_A_TURN = 400
LONGEST_CORRECTION = 8
Keys = tuple[str, ...]
REACHES = 8
"""Into so many steps the longest way out is divided; the longest that comes back is taken."""
CAME_NOT_BACK, GOT_NOT_AWAY, ENDED = "did not come back", "did not get away", "ended by itself"


@dataclass(frozen=True)
class RevisitTask:
    """One way of `away` frames from the last real frame to the return, after `lead` real turns and `look` real frames of standing.

    `settle`: frames of standing at the end of `leave`, for worlds in which one slides on when the key is let go.
    """

    way: str
    away: int
    lead: int = 16
    look: int = 4
    settle: int = 16

    def __post_init__(self) -> None:
        choose(WAYS, self.way, "way of leaving and coming back")
        if self.lead < 0 or self.look < 1 or self.settle < 0:
            raise ConfigError(f"a revisit needs a look of at least 1 frame, lead and settle of at least 0, got {self}")

    @property
    def context(self) -> int:
        """Real frames: the first, the lead, and the look."""
        return 1 + self.lead + self.look


@dataclass(frozen=True)
class Bounds:
    """Which episodes count: those that end at most `units` (of the map) and `degrees` from where they began to be alone.

    Ways that leave the place must have been `far_units` away. After `tries` refusals in a row the search is given up.
    """

    units: float = 8.0
    degrees: float = 2.0
    far_units: float = 128.0
    tries: int = 100


@dataclass(frozen=True)
class Compass:
    """A key that turns the viewer, the one that undoes it, and the degrees `[n]` turned after holding the first for 1, 2, .. n frames."""

    turn: str
    back: str
    degrees: np.ndarray

    def nearest(self, target: float) -> int:
        """Frames of holding, at least 1, that come nearest to so many degrees."""
        return int(np.abs(self.degrees - target).argmin()) + 1


@dataclass(frozen=True)
class RevisitClips:
    """What is true: frames uint8 `[episode, T, H, W, 3]`, actions `[episode, T, A]`, pose `[episode, T, P]`; `context` real frames.

    `units` and `degrees` float `[episode, 1 + away]`: how far the camera was from the place of the view, from the last real frame to the
    return. `refused` counts the episodes that were not taken, by reason.
    """

    frames: np.ndarray
    actions: np.ndarray
    pose: np.ndarray
    units: np.ndarray
    degrees: np.ndarray
    context: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Way:
    """The scripts of a way, shortest reach first, of which the last that comes back is taken; and how far it must have led to count."""

    scripts: Callable[[RevisitTask, Compass], tuple[Keys, ...]]
    far_units: Callable[[Bounds], float]


def closest_turn(degrees: np.ndarray, target: float) -> tuple[int, int]:
    """Frames to hold a turning key, and to hold it a second time after letting go, that together come nearest to `target` degrees.

    `degrees` `[n]` as in a Compass. Keys may turn slowly at first, so that a short second press reaches what a long one misses. Among
    equally near ones that with the shortest second press is taken, such as none.
    """
    after = np.concatenate([[0.0], degrees])
    corrections = after[: LONGEST_CORRECTION + 1]
    misses = np.abs(after[1:, None] + corrections[None] - target)
    again, hold = np.argwhere(np.isclose(misses.T, misses.min()))[0]
    return int(hold) + 1, int(again)


def around(task: RevisitTask, compass: Compass) -> tuple[Keys, ...]:
    """Half a turn, a pause of whatever is left, the other half, and a short press where that comes nearer to the full turn."""
    half = compass.nearest(FULL_TURN / 2)
    rest, again = closest_turn(compass.degrees, FULL_TURN - compass.degrees[half - 1])
    correction = (STAND,) + (compass.turn,) * again if again else ()
    waiting = task.away - half - rest - len(correction)
    if waiting < 1:
        raise ConfigError(f"a full turn with a pause takes {task.away - waiting + 1} frames here, got {task.away}")
    return ((compass.turn,) * half + (STAND,) * waiting + (compass.turn,) * rest + correction,)


def aside(task: RevisitTask, compass: Compass) -> tuple[Keys, ...]:
    """Away until half a turn or half the time is over, a pause of at least a frame, and back with as many presses."""
    reach = min((task.away - 1) // 2, compass.nearest(FULL_TURN / 2))
    if reach < 1:
        raise ConfigError(f"to look away and back takes 3 frames, got {task.away}")
    return ((compass.turn,) * reach + (STAND,) * (task.away - 2 * reach) + (compass.back,) * reach,)


def out(task: RevisitTask, compass: Compass) -> tuple[Keys, ...]:
    """Straight on, a pause of at least a frame, as many steps back, and standing until nothing moves any more."""
    ((away, back),) = WALKS
    most = (task.away - 1 - task.settle) // 2
    if most < 1:
        raise ConfigError(f"to walk away, back and stand for {task.settle} frames takes {task.settle + 3} frames, got {task.away}")
    reaches = sorted({-(-most * part // REACHES) for part in range(1, REACHES + 1)})
    pauses = [task.away - task.settle - 2 * reach for reach in reaches]
    still = (STAND,) * task.settle
    return tuple((away,) * reach + (STAND,) * pause + (back,) * reach + still for reach, pause in zip(reaches, pauses, strict=True))


WAYS = {
    "look": Way(aside, lambda bounds: 0.0),
    "turn": Way(around, lambda bounds: 0.0),
    "leave": Way(out, lambda bounds: bounds.far_units),
}


def scripts(task: RevisitTask, compass: Compass) -> tuple[Keys, ...]:
    """The keys of an episode after its first frame: lead, look, and the way, shortest reach first."""
    real = (compass.turn,) * task.lead + (STAND,) * task.look
    return tuple(real + keys for keys in WAYS[task.way].scripts(task, compass))


def check_keys(world: WorldSpec) -> None:
    """A ConfigError unless the world has a camera whose pose is known, and keys that turn it, walk, and undo each other."""
    needed = {key for pair in (*TURNS, *WALKS) for key in pair}
    missing = [name for name in ("x", "y", "angle") if name not in world.pose_names]
    missing += sorted(needed - set(world.actions.names))
    if missing:
        raise ConfigError(f"to leave a view and come back the world {world.name} needs {', '.join(missing)} among its keys and its pose")


def read_compass(env: gymnasium.Env, keys: tuple[str, str], seed: int) -> Compass:
    """Hold a turning key in the real world until it has turned once around."""
    world = env.unwrapped.world
    column, action = world.pose_names.index("angle"), world.actions.decode(world.actions.vector(keys[0]))
    _, info = env.reset(seed=seed)
    angles, turned = [float(info["pose"][column])], np.zeros(1)
    while turned[-1] <= FULL_TURN:
        if len(angles) > MOST_FRAMES_OF_A_TURN:
            raise ConfigError(f"{MOST_FRAMES_OF_A_TURN} frames of {keys[0]} turn by {turned[-1]:.0f} degrees; a full turn is out of reach")
        angles.append(float(env.step(action)[-1]["pose"][column]))
        turned = np.abs(np.cumsum(wrapped(np.diff(angles))))
    return Compass(*keys, turned)


def wrapped(degrees: np.ndarray) -> np.ndarray:
    """Differences of angles in degrees -> the same within [-180, 180)."""
    return (degrees + FULL_TURN / 2) % FULL_TURN - FULL_TURN / 2


def departure(pose: np.ndarray, home: np.ndarray, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """How far poses `[T, P]` lie from `home` `[P]`: distance in map units `[T]`, and the largest difference of angles in degrees `[T]`."""
    difference = pose.astype(np.float64) - home.astype(np.float64)
    place = [names.index(name) for name in POSE_PLACE if name in names]
    angles = [names.index(name) for name in POSE_ANGLES if name in names]
    return np.linalg.norm(difference[:, place], axis=1), np.abs(wrapped(difference[:, angles])).max(axis=1)


def refusal(units: np.ndarray, degrees: np.ndarray, far_units: float, bounds: Bounds) -> str:
    """Why an episode that departed so far, `[T]` each from the last real frame on, does not count; empty where it does."""
    if units[-1] > bounds.units or degrees[-1] > bounds.degrees:
        return CAME_NOT_BACK
    return GOT_NOT_AWAY if units.max() < far_units else ""


def play_truth(
    env: gymnasium.Env,
    task: RevisitTask,
    episodes: int,
    seed: int,
    bounds: Bounds,
    progress: Callable[[int], None] = lambda episodes: None,
) -> RevisitClips:
    """The first `episodes` true episodes that came back; each turns to a side of its own. A DataError where too few do."""
    world = env.unwrapped.world
    check_keys(world)
    ((right, left),) = TURNS
    sides = [scripts(task, read_compass(env, keys, seed)) for keys in ((right, left), (left, right))]
    rows: list[tuple[np.ndarray, ...]] = []
    refused: Counter[str] = Counter()
    candidate = in_a_row = 0
    while len(rows) < episodes:
        side = int(numpy_stream(seed, "revisit side", candidate).integers(2))
        row, reason = _farthest(env, sides[side], derive_seed(seed, "revisit", candidate) % (1 << 31), task, bounds)
        candidate, in_a_row = candidate + 1, in_a_row + 1 if reason else 0
        refused.update([reason] if reason else [])
        if in_a_row >= bounds.tries:
            raise DataError(f"{len(rows)} of {episodes} episodes found; then {in_a_row} refusals in a row ({_told(refused)})")
        if not reason:
            rows.append(row)
            progress(1)
    frames, actions, pose, units, degrees = (np.stack(column) for column in zip(*rows, strict=True))
    return RevisitClips(frames, actions, pose, units, degrees, task.context, dict(refused))


def _farthest(
    env: gymnasium.Env, choices: tuple[Keys, ...], seed: int, task: RevisitTask, bounds: Bounds
) -> tuple[tuple[np.ndarray, ...], str]:
    """`_episode` of the last script that counts, as far as they come back: beyond that stands a wall."""
    found: tuple[np.ndarray, ...] = ()
    reason = ""
    for keys in choices:
        row, reason = _episode(env, keys, seed, task, bounds)
        found = found if reason else row
        if reason not in ("", GOT_NOT_AWAY):
            break
    return found, "" if found else reason


def _episode(env: gymnasium.Env, keys: Keys, seed: int, task: RevisitTask, bounds: Bounds) -> tuple[tuple[np.ndarray, ...], str]:
    """Frames, actions, pose, units and degrees of one episode (as in RevisitClips), and why it does not count (or nothing)."""
    world = env.unwrapped.world
    vectors = np.stack([np.zeros(world.actions.dim), *(world.actions.vector(key) for key in keys)]).astype(np.float32)
    frame, info = env.reset(seed=seed)
    frames, poses = [frame], [info["pose"]]
    for vector in vectors[1:]:
        frame, _, terminated, truncated, info = env.step(world.actions.decode(vector))
        if terminated or truncated:
            return (), ENDED
        frames.append(frame)
        poses.append(info["pose"])
    pose = np.stack(poses)
    units, degrees = departure(pose[task.context - 1 :], pose[task.context - 1], world.pose_names)
    return (np.stack(frames), vectors, pose, units, degrees), refusal(units, degrees, WAYS[task.way].far_units(bounds), bounds)


def _told(refused: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(refused.items())) or "none"
