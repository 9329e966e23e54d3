"""A tiny model with a camera, clips that move it, and the branch token by token."""

from dataclasses import replace

import torch
from torch import Tensor

from fakes import tiny_config, tiny_model
from mutoscope.core.streams import normal, stream
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig
from mutoscope.models.conditions import Conditions, action_conditions
from mutoscope.models.transformer import TransformerConfig, VideoTransformer
from streaming import Clip, random_clip

CAMERA = CameraConfig(0.7, 1.3, move=0.4, turn=20.0)


def camera_config(**changes: object) -> TransformerConfig:
    """Two heads of twelve channels; frames are two pixel frames."""
    sizes: dict = dict(action_dim=CAMERA_ACTIONS.dim, travel=False, temporal_stride=2, camera=CAMERA)
    return tiny_config(**{**sizes, **changes})


def camera_model(seed: int = 0) -> VideoTransformer:
    """A float64 model whose branch is not zero."""
    return tiny_model(camera_config(), seed)


def camera_conditions(frames: int, batch: int = 2, seed: int = 0) -> Conditions:
    """Random buttons held; those of frame 0 are not known."""
    shape = (batch, frames, 2, CAMERA_ACTIONS.dim)
    actions = (normal(shape, stream(seed, "camera actions"), torch.float64) > 0).double()
    known = torch.ones(batch, frames, dtype=torch.bool)
    known[:, 0] = False
    return with_cameras(action_conditions(actions, known), CAMERA)


def camera_clip(lengths: tuple[int, ...], seed: int = 0) -> Clip:
    """A clip of noise under these conditions."""
    return replace(random_clip(lengths, seed), conditions=camera_conditions(sum(lengths), seed=seed))


def lifted(camera: CameraConfig, pose: Tensor) -> Tensor:
    """P of one camera from world `[4, 4]`."""
    return torch.diag(torch.tensor([camera.focal_x, camera.focal_y, 1.0, 1.0], dtype=torch.float64)) @ pose


def listed_attention(queries: Tensor, keys: Tensor, values: Tensor, projections: list[Tensor]) -> Tensor:
    """The branch of one head, `[token, D]` each, query by query and group by group; `projections` is P of every token."""
    outputs = []
    for query, own in zip(queries, projections, strict=True):
        logits = torch.zeros(len(keys), dtype=torch.float64)
        for index, (key, other) in enumerate(zip(keys, projections, strict=True)):
            relative = own @ torch.linalg.inv(other)
            logits[index] = sum(part @ relative @ there for part, there in zip(query.split(4), key.split(4), strict=True))
        weights = (logits / queries.shape[1] ** 0.5).softmax(0)
        read = [
            weight * torch.cat([own @ torch.linalg.inv(other) @ part for part in value.split(4)])
            for weight, value, other in zip(weights, values, projections, strict=True)
        ]
        outputs.append(torch.stack(read).sum(0))
    return torch.stack(outputs)
