"""The camera of a model that is steered by one: its lens, and how far the keys move and turn it. No torch here."""

from dataclasses import dataclass

from mutoscope.core.errors import ConfigError
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.memory.ledger import described
from mutoscope.memory.policy import AnyMemory, ContentConfig, Stateful, policy_name, training_base

CAMERA_ACTIONS = ActionSpec("multi_binary", ("forward", "backward", "left", "right", "turn_left", "turn_right", "look_up", "look_down"))
"""What moves a camera, in the order of the action vector."""


@dataclass(frozen=True)
class CameraConfig:
    """A camera that actions move (models.camera).

    focal_x  focal length in picture widths, and focal_y in picture heights; the principal point is left out
    move     units of the world that a frame of "forward" (backward, left, right) goes
    turn     degrees that a frame of "turn_left" (turn_right, look_up, look_down) turns

    The defaults are those of minWM's checkpoints: its lens of 969.7 pixels at 1920x1080, 0.08 units and 3 degrees.
    """

    focal_x: float = 0.5050505
    focal_y: float = 0.89786756
    move: float = 0.08
    turn: float = 3.0

    def __post_init__(self) -> None:
        if not (self.focal_x > 0 and self.focal_y > 0):
            raise ConfigError(f"focal lengths must be above 0, got {self.focal_x} picture widths and {self.focal_y} heights")
        if not (self.move >= 0 and 0 <= self.turn < 180):
            raise ConfigError(f"a frame moves a camera by at least 0 and turns it by 0 to 180 degrees, got {self.move} and {self.turn}")


def check_camera_actions(actions: int) -> None:
    """Refuse as many actions as do not move a camera."""
    if actions != CAMERA_ACTIONS.dim:
        raise ConfigError(
            f"a model with a camera is steered by {CAMERA_ACTIONS.dim} actions that move it ({', '.join(CAMERA_ACTIONS.names)}), "
            f"and there are {actions}; take a world with these, or a recipe without a camera"
        )


def check_camera_world(camera: CameraConfig | None, world: WorldSpec) -> None:
    """Refuse clips of a world whose actions do not move this camera."""
    if camera is not None and world.actions != CAMERA_ACTIONS:
        raise ConfigError(
            f"the recipe's camera is moved by the buttons {', '.join(CAMERA_ACTIONS.names)}, in this order; "
            f"those of the world '{world.name}' are {', '.join(world.actions.names) or 'none'} ({world.actions.kind}). "
            "Take clips with these, or a recipe without a camera"
        )


def check_camera_memory(camera: CameraConfig | None, policy: AnyMemory) -> None:
    """Refuse a memory that a model with this camera cannot have; one without a camera can have all."""
    if camera is None:
        return
    if isinstance(policy, Stateful):
        raise ConfigError(
            f"the memory '{policy_name(policy)}' has a learned memory beside its frames, and a model with a camera has none; "
            f"take {described(policy.cache)}"
        )
    if isinstance(policy, ContentConfig):
        raise ConfigError(
            f"the memory '{policy_name(policy)}' chooses what it keeps by content, and a model with a camera attends twice in every layer, "
            f"by keys that no scorer compares; take {described(training_base(policy))}, or another that goes by a frame's number"
        )
