"""Camera control by projective positions (PRoPE, arXiv 2507.10496): every layer attends once more, and there a token stands by its camera.

    P = lift(K) V            V: camera from world (x right, y down, z forward), K = diag(focal_x, focal_y, 1)
    q <- P^T q, k <- P^-1 k, v <- P^-1 v, out <- P softmax(q k / sqrt(head_dim)) v      in groups of four neighbouring channels

What a query makes of a key depends on P_q P_k^-1 alone: a common change of the world's frame changes nothing. These are the queries, keys
and values of self-attention before their rotation, and what was read goes through a projection of its own (`prope_o`) beside attention's.
To a mode of attention (models.attention) the camera attention of layer l is layer ~l, which no rotary position turns; so a memory keeps it
like any other. Poses are float64 until they are applied.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig, check_camera_actions
from mutoscope.models.conditions import Conditions

GROUP = 4  # channels that one matrix takes together
AXES = (("right", "left"), ("forward", "backward"), ("turn_right", "turn_left"), ("look_up", "look_down"))


@dataclass(frozen=True)
class Views:
    """What the cameras of frames do to tokens, `[batch, frame, 4, 4]` each: P^T to queries, P^-1 to keys and values, P to what was read."""

    asking: Tensor
    told: Tensor
    read: Tensor


def views_of(cameras: Tensor, camera: CameraConfig, dtype: torch.dtype) -> Views:
    """From poses, camera from world `[batch, frame, 4, 4]`; computed in their type, then rounded to float32 (float64 where x is)."""
    across, down, depth = cameras.split((1, 1, 2), dim=-2)
    projection = torch.cat([camera.focal_x * across, camera.focal_y * down, depth], dim=-2)
    across, down, depth = inverse_pose(cameras).split((1, 1, 2), dim=-1)
    inverse = torch.cat([across / camera.focal_x, down / camera.focal_y, depth], dim=-1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    asking, told, read = (matrix.to(wide) for matrix in (projection.mT, inverse, projection))
    return Views(asking, told, read)


def apply_view(matrices: Tensor, x: Tensor) -> Tensor:
    """Each frame's matrix `[B, F, 4, 4]` to every group of four channels of its tokens, `[B, F * tokens, dim]` -> the same.

    In the matrices' type: cameras that stand far from each other cancel, which autocast's bfloat16 would not bear.
    """
    device = x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        groups = x.to(matrices.dtype).reshape(matrices.shape[0] * matrices.shape[1], -1, GROUP)
        return (groups @ matrices.flatten(0, 1).mT).view(x.shape).to(x.dtype)


def still_cameras(rows: int, device: torch.device | str = "cpu") -> Tensor:
    """Where a world begins: the identity, camera from world, float64 `[row, 4, 4]`."""
    return torch.eye(4, dtype=torch.float64, device=device).repeat(rows, 1, 1)


def with_cameras(conditions: Conditions, camera: CameraConfig | None, start: Tensor | None = None) -> Conditions:
    """The conditions with where the camera stands at the end of every frame; a model without a camera takes them as they are.

    `start` `[batch, 4, 4]`: camera from world before the first frame, by default where a world begins.
    """
    if camera is None:
        return conditions
    check_camera_actions(conditions.actions.shape[-1])
    begun = still_cameras(len(conditions.actions), conditions.actions.device) if start is None else start
    return replace(conditions, cameras=integrate(conditions.actions, conditions.known, camera, begun))


def integrate(actions: Tensor, known: Tensor, camera: CameraConfig, start: Tensor) -> Tensor:
    """Poses at the ends of frames, camera from world, float64 `[batch, frame, 4, 4]`.

    actions `[batch, frame, stride, 8]` of pixel frames, each of which makes 1 / stride of a frame's motion; a frame whose actions are
    not known stands still. A motion turns the camera about its own axes (yaw, then pitch), then moves it along them.
    """
    stride = actions.shape[2]
    held = (actions.double() * known[..., None, None]).flatten(1, 2)
    steps, moves = inverse_motions(held / stride, camera), held.ne(0).any(-1)
    pose, poses = start.double(), []
    for step, moved in zip(steps.unbind(1), moves.unbind(1), strict=True):
        pose = torch.where(moved[:, None, None], orthonormal(step @ pose), pose)
        poses.append(pose)
    return torch.stack(poses[stride - 1 :: stride], dim=1)


def inverse_motions(held: Tensor, camera: CameraConfig) -> Tensor:
    """What actions `[.., 8]`, in frames of them, do to a pose: the inverse of the motion in the camera's frame, float64 `[.., 4, 4]`."""
    names = CAMERA_ACTIONS.names
    right, forward, yaw, pitch = (held[..., names.index(plus)] - held[..., names.index(minus)] for plus, minus in AXES)
    turn = about_y(math.radians(camera.turn) * yaw) @ about_x(math.radians(camera.turn) * pitch)
    way = camera.move * torch.stack([right, torch.zeros_like(right), forward], dim=-1)
    motion = torch.zeros(*held.shape[:-1], 4, 4, dtype=torch.float64, device=held.device)
    motion[..., :3, :3], motion[..., :3, 3], motion[..., 3, 3] = turn.mT, -way, 1.0
    return motion


def about_y(angles: Tensor) -> Tensor:
    """Rotations that turn forward to the right, `[..]` radians -> `[.., 3, 3]`."""
    cosine, sine, nothing, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    return torch.stack([cosine, nothing, sine, nothing, one, nothing, -sine, nothing, cosine], dim=-1).unflatten(-1, (3, 3))


def about_x(angles: Tensor) -> Tensor:
    """Rotations that turn forward up, `[..]` radians -> `[.., 3, 3]`."""
    cosine, sine, nothing, one = angles.cos(), angles.sin(), torch.zeros_like(angles), torch.ones_like(angles)
    return torch.stack([one, nothing, nothing, nothing, cosine, -sine, nothing, sine, cosine], dim=-1).unflatten(-1, (3, 3))


def orthonormal(poses: Tensor) -> Tensor:
    """Poses whose rotation has drifted by rounding, brought back: one Newton step R (3 - R^T R) / 2 to the nearest rotation."""
    turn = poses[..., :3, :3]
    three = 3 * torch.eye(3, dtype=poses.dtype, device=poses.device)
    result = poses.clone()
    result[..., :3, :3] = turn @ (three - turn.mT @ turn) / 2
    return result


def inverse_pose(poses: Tensor) -> Tensor:
    """The inverse of rigid motions `[.., 4, 4]`: rotation transposed, translation turned back."""
    turned = poses[..., :3, :3].mT
    result = torch.zeros_like(poses)
    result[..., :3, :3], result[..., :3, 3], result[..., 3, 3] = turned, -(turned * poses[..., None, :3, 3]).sum(-1), 1.0
    return result
