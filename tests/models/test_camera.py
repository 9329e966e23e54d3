"""Cameras: poses by hand, rigid for ever, and attention that knows nothing but where cameras stand to each other."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cameras import CAMERA, camera_conditions, camera_config, camera_model, lifted, listed_attention
from fakes import tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.core.world import ActionSpec, WorldSpec
from mutoscope.memory.kinds import LinearState
from mutoscope.models.attention import WholeClip
from mutoscope.models.camera import apply_view, integrate, inverse_pose, orthonormal, still_cameras, views_of, with_cameras
from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig, check_camera_actions, check_camera_world
from mutoscope.models.conditions import Conditions, action_conditions, join
from mutoscope.models.denoise import bidirectional
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_config import wan_2_1
from mutoscope.recipes import recipe
from mutoscope.train.build import transformer_config

STEPS = CameraConfig(move=2.0, turn=90.0)


def held(*frames: str, stride: int = 1) -> Tensor:
    """Frames of held buttons, "forward+turn_left", as actions `[1, frame, stride, 8]`."""
    rows = torch.stack([torch.from_numpy(CAMERA_ACTIONS.vector(names)) for names in frames])
    return rows[None, :, None].expand(1, -1, stride, -1)


def poses(*frames: str, camera: CameraConfig = STEPS, stride: int = 1, start: Tensor | None = None) -> Tensor:
    """Camera from world after each frame, `[frame, 4, 4]`."""
    known = torch.ones(1, len(frames), dtype=torch.bool)
    return integrate(held(*frames, stride=stride), known, camera, still_cameras(1) if start is None else start)[0]


def places(*frames: str) -> list[tuple[float, ...]]:
    """Where the camera stands in the world after each frame."""
    return [tuple(round(value, 9) + 0.0 for value in inverse_pose(pose)[:3, 3].tolist()) for pose in poses(*frames)]


def test_poses_by_hand():
    """x is right, y down, z forward; a turn comes before the move of its frame, and moves follow the view."""
    assert places("forward", "forward", "backward") == [(0, 0, 2), (0, 0, 4), (0, 0, 2)]
    assert places("right", "left", "left") == [(2, 0, 0), (0, 0, 0), (-2, 0, 0)]
    assert places("forward", "turn_right", "forward") == [(0, 0, 2), (0, 0, 2), (2, 0, 2)]
    assert places("turn_left", "forward", "right") == [(0, 0, 0), (-2, 0, 0), (-2, 0, 2)]
    assert places("look_up", "forward")[1] == (0, -2, 0) and places("look_down", "forward")[1] == (0, 2, 0)
    assert places("forward+turn_right") == [(2, 0, 0)] and places("forward+backward+look_up+look_down") == [(0, 0, 0)]


def test_a_turn_shows_what_was_on_that_side():
    """A point on the right of the first view stands straight ahead after a turn to the right: camera from world, not the other way."""
    (turned,) = poses("turn_right")
    assert torch.allclose(turned @ torch.tensor([1.0, 0, 0, 1]).double(), torch.tensor([0.0, 0, 1, 1]).double(), atol=1e-12)


def test_a_frame_of_pixel_frames_moves_as_far_as_one():
    for names in ("forward", "turn_left", "look_up", "right"):
        assert torch.allclose(poses(names, stride=4), poses(names), atol=1e-12)
    assert torch.equal(integrate(held("forward", "left", stride=2)[:, :1], torch.ones(1, 1).bool(), STEPS, still_cameras(1)),
                       poses("forward", stride=2)[None])  # fmt: skip


def test_frames_without_known_actions_stand_still():
    actions, known = held("forward", "turn_left", "right"), torch.tensor([[False, True, False]])
    made = integrate(actions, known, STEPS, still_cameras(1))[0]
    assert torch.equal(made[0], torch.eye(4).double()) and torch.equal(made[2], made[1]) and not torch.equal(made[1], made[0])


def test_a_clip_in_parts_is_the_whole():
    told = camera_conditions(9)
    start = with_cameras(told.frames(0, 4), CAMERA)
    assert start.cameras is not None and told.cameras is not None
    rest = with_cameras(told.frames(4, 9), CAMERA, start.cameras[:, -1])
    assert rest.cameras is not None and torch.equal(torch.cat([start.cameras, rest.cameras], dim=1), told.cameras)


def drift(*, brought_back: bool, steps: int = 3000) -> float:
    """How far a rotation is from a rigid one after many small turns that were each off by a little."""
    turn = poses("look_up", "turn_left", camera=CameraConfig(turn=7.0))[-1]
    pose = torch.eye(4).double()
    for _ in range(steps):
        pose = turn @ pose * torch.tensor([1 + 1e-9, 1, 1, 1], dtype=torch.float64)
        pose = orthonormal(pose) if brought_back else pose
    return float((pose[:3, :3].mT @ pose[:3, :3] - torch.eye(3)).abs().max())


def test_long_sessions_stay_rigid():
    assert drift(brought_back=True) < 1e-8 < 1e-6 < drift(brought_back=False)
    told = with_cameras(action_conditions((normal((1, 2000, 1, 8), stream(0, "long")) > 0).double(), torch.ones(1, 2000).bool()), CAMERA)
    assert told.cameras is not None
    turns = told.cameras[0, :, :3, :3]
    assert float((turns.mT @ turns - torch.eye(3)).abs().max()) < 1e-14 and torch.allclose(torch.linalg.det(turns), torch.ones(()).double())


def test_an_identity_changes_nothing_at_all():
    views = views_of(still_cameras(3)[None], CameraConfig(1.0, 1.0), torch.float32)
    x = normal((1, 3 * 5, 24), stream(0, "x"))
    for matrix in (views.asking, views.told, views.read):
        assert torch.equal(apply_view(matrix, x), x)
        assert apply_view(matrix, x.bfloat16()).dtype == torch.bfloat16


def test_autocast_leaves_what_cameras_do_alone():
    told, x = camera_conditions(4), normal((2, 4 * 3, 24), stream(6, "x"))
    assert told.cameras is not None
    asking = views_of(told.cameras, CAMERA, torch.float32).asking
    with torch.autocast("cpu", torch.bfloat16):
        narrow = apply_view(asking, x)
    assert torch.equal(apply_view(asking, x), narrow)


def test_views_are_the_projection_its_transpose_and_its_inverse():
    told = camera_conditions(4)
    assert told.cameras is not None
    views = views_of(told.cameras, CAMERA, torch.float64)
    wanted = torch.stack([lifted(CAMERA, pose) for pose in told.cameras.flatten(0, 1)]).view_as(told.cameras)
    assert torch.allclose(views.read, wanted, atol=1e-12) and torch.equal(views.asking, views.read.mT)
    assert torch.allclose(views.told @ views.read, torch.eye(4).double().expand_as(wanted), atol=1e-12)


def branch(model: VideoTransformer, conditions: Conditions, x: Tensor) -> Tensor:
    """What the first layer's tokens `[B, N, dim]` read by their cameras, before its projection."""
    assert conditions.cameras is not None and model.config.camera is not None
    views, own = views_of(conditions.cameras, model.config.camera, x.dtype), model.blocks[0].self_attn
    whole = WholeClip(torch.zeros(0))
    seen = own.self_attention(x, 0, lambda layer, *parts: whole(layer, *parts) if layer < 0 else parts[0], (), views)[1]
    return apply_view(views.read, seen.transpose(1, 2).flatten(2))


def test_the_branch_is_what_the_formula_says_token_by_token():
    model, told, tokens = camera_model(), camera_conditions(3, batch=1), 2
    own, x = model.blocks[0].self_attn, normal((1, 3 * tokens, 24), stream(1, "x"), torch.float64)
    made = branch(model, told, x)[0].unflatten(-1, (2, 12))
    queries, keys, values = (part[0].unflatten(-1, (2, 12)) for part in (own.norm_q(own.q(x)), own.norm_k(own.k(x)), own.v(x)))
    assert told.cameras is not None
    projections = [lifted(CAMERA, pose) for pose in told.cameras[0] for _ in range(tokens)]
    for head in range(2):
        wanted = listed_attention(queries[:, head], keys[:, head], values[:, head], projections)
        assert torch.allclose(made[:, head], wanted, atol=1e-9)


def far_off(units: float, dtype: torch.dtype) -> float:
    """Relative error of what cameras read when the world began so many units behind them."""
    told = with_cameras(camera_conditions(4, batch=1), CameraConfig())
    assert told.cameras is not None
    queries, keys, values = normal((3, 1, 4 * 8, 64), stream(2, "far"), torch.float64)

    def read(cameras: Tensor, dtype: torch.dtype) -> Tensor:
        views = views_of(cameras, CameraConfig(), dtype)
        pairs = zip((views.asking, views.told, views.told), (queries, keys, values), strict=True)
        parts = [apply_view(matrix, x.to(dtype))[:, None] for matrix, x in pairs]
        return apply_view(views.read, WholeClip(torch.zeros(0))(-1, *parts)[:, 0]).double()

    behind = still_cameras(1)[0]
    behind[2, 3] = -units
    right = read(told.cameras, torch.float64)
    return float((read(told.cameras @ behind, dtype) - right).norm() / right.norm())


def test_far_from_where_the_world_began_half_precision_rounds():
    """The limit that docs/wan.md names: 40 units are 500 frames straight ahead."""
    assert far_off(40, torch.float64) < 1e-12 and far_off(40, torch.float32) < 5e-5
    assert far_off(0, torch.bfloat16) < 0.02 < far_off(40, torch.bfloat16) < 0.2


def moved_world(conditions: Conditions, change: Tensor) -> Conditions:
    """The same cameras in a world whose frame was changed, `[4, 4]`."""
    assert conditions.cameras is not None
    return replace(conditions, cameras=conditions.cameras @ change)


def test_a_change_of_the_worlds_frame_changes_nothing():
    """For rigid changes; the twin that moves one camera alone differs."""
    model, told, latents, sigma = camera_model(), camera_conditions(4), tiny_latents(4), torch.full((2, 4), 0.5).double()
    change = poses("forward+turn_left", "look_up", "right", camera=CameraConfig(move=1.5, turn=33.0))[-1]
    with torch.no_grad():
        plain = bidirectional(model, latents, sigma, told)
        assert torch.allclose(bidirectional(model, latents, sigma, moved_world(told, change)), plain, atol=1e-9)
        assert told.cameras is not None
        one = replace(told, cameras=torch.cat([told.cameras[:, :1] @ change, told.cameras[:, 1:]], dim=1))
        assert not torch.allclose(bidirectional(model, latents, sigma, one), plain, atol=1e-4)


def test_a_fresh_branch_changes_nothing_bit_for_bit():
    """Against the model without it, whose actions are not told either; an opened branch does change."""
    fresh = VideoTransformer(camera_config()).initialise(stream(3, "fresh"))
    plain = VideoTransformer(replace(fresh.config, camera=None, action_dim=0)).initialise(stream(3, "fresh"))
    torch.nn.init.normal_(fresh.head.head.weight, generator=stream(4, "head"))
    plain.head.load_state_dict(fresh.head.state_dict())
    assert {name for name in fresh.state_dict() if name not in plain.state_dict()} == {
        f"blocks.{layer}.self_attn.prope_o.{part}" for layer in range(2) for part in ("weight", "bias")
    }
    told, latents, sigma = camera_conditions(4), tiny_latents(4).float(), torch.full((2, 4), 0.5)
    made = bidirectional(fresh, latents, sigma, told.to("cpu", torch.float32))
    assert torch.equal(made, bidirectional(plain, latents, sigma, told.to("cpu", torch.float32)))
    torch.nn.init.normal_(fresh.blocks[1].self_attn.prope_o.weight, generator=stream(5, "open"))
    assert not torch.allclose(made, bidirectional(fresh, latents, sigma, told.to("cpu", torch.float32)), atol=1e-4)


def test_conditions_carry_cameras_everywhere():
    told = camera_conditions(5)
    assert told.cameras is not None and told.cameras.dtype == torch.float64
    part = told.frames(1, 4).rows(slice(1, 2)).to("cpu", torch.float32)
    assert part.cameras is not None and torch.equal(part.cameras, told.cameras[1:, 1:4])
    both = join([told.rows(slice(0, 1)), told.rows(slice(1, 2))])
    assert both.cameras is not None and torch.equal(both.cameras, told.cameras)
    for same in (told.null((5,)), told.dropped(torch.tensor([True, False]), (5,)), told.as_first()):
        assert same.cameras is told.cameras
    with pytest.raises(ConfigError, match="some of these frames have cameras and others have none"):
        join([told, replace(told, cameras=None)])


def test_a_model_with_a_camera_must_be_given_one():
    latents, sigma, told = tiny_latents(3), torch.ones(2, 3).double(), camera_conditions(3)
    with pytest.raises(ConfigError, match=r"cameras are none; this model is steered by \(2, 3, 4, 4\)"):
        bidirectional(camera_model(), latents, sigma, replace(told, cameras=None))
    assert with_cameras(told, None) is told


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: camera_config(travel=True), "keys that travel or a learned memory would count the same motion again"),
        (lambda: camera_config(recall=LinearState()), "leave out travel and recall, or the camera"),
        (lambda: camera_config(action_dim=3), r"steered by 8 actions that move it \(forward, .* and there are 3"),
        (lambda: camera_config(dim=20), "groups of four channels, and heads of 10"),
        (lambda: CameraConfig(focal_x=0), "focal lengths must be above 0"),
        (lambda: CameraConfig(turn=180), "turns it by 0 to 180 degrees, got 0.08 and 180"),
        (lambda: check_camera_actions(0), "and there are 0; take a world with these, or a recipe without a camera"),
        (lambda: transformer_config(recipe("wan-1.3b-camera").model, wan_2_1(480, 832), 0, None), "steered by 8 actions"),
        (
            lambda: check_camera_world(CameraConfig(), WorldSpec("doom", 4, 4, 1, ActionSpec("discrete", ("stand", "forward")))),
            r"of the world 'doom' are stand, forward \(discrete\). Take clips with these",
        ),
    ],
)
def test_cameras_that_cannot_be_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_other_models_and_their_configs_stay_as_they_were():
    assert tiny_config().camera is None and tiny_config().attentions == 2 and camera_config().attentions == 4
    assert not hasattr(camera_model(), "action_embedding") and hasattr(tiny_model(), "action_embedding")
    assert math.isclose(recipe("wan-1.3b-camera").model.camera.focal_x * 1920, 969.7, rel_tol=1e-4)
