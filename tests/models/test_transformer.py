"""One class for the tiny model and for Wan 2.1, with equal outputs where both exist."""

import dataclasses
import re

import pytest
import torch

from fakes import recipe_transformer, scatter_parameters, tiny_conditions, tiny_config, tiny_latents, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape
from mutoscope.core.streams import normal, stream
from mutoscope.memory.policy import Window
from mutoscope.models.conditions import Conditions, action_conditions
from mutoscope.models.denoise import bidirectional, clip_layout, teacher_forced
from mutoscope.models.transformer import TransformerConfig, VideoTransformer

WAN = recipe_transformer("wan-1.3b")
SMALL = [
    TransformerConfig(LatentShape(4, 4, 6), dim=24, ffn_dim=48, num_heads=2, num_layers=2, patch=2, freq_dim=32, text_dim=10),
    TransformerConfig(LatentShape(3, 5, 7), dim=42, ffn_dim=31, num_heads=3, num_layers=3, patch=1, freq_dim=18, text_dim=7),
    TransformerConfig(LatentShape(5, 9, 6), dim=80, ffn_dim=90, num_heads=4, num_layers=2, patch=3, freq_dim=64, text_dim=12),
]


def on_meta(config: TransformerConfig) -> VideoTransformer:
    """The model without memory for its weights."""
    with torch.device("meta"):
        return VideoTransformer(config)


def anatomy(model: VideoTransformer) -> dict[str, set]:
    """Key names without layer numbers, and layer types by name without layer numbers."""

    def plain(name: str) -> str:
        return re.sub(r"\bblocks\.\d+", "blocks.n", name)

    return {
        "keys": {plain(name) for name in model.state_dict()},
        "layers": {(plain(name), type(module)) for name, module in model.named_modules()},
    }


def count(model: torch.nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def expected_count(config: TransformerConfig) -> int:
    """Parameters, counted from the published structure."""
    dim, ffn, patch = config.dim, config.ffn_dim, config.latent.channels * config.patch**2
    attention = 4 * (dim * dim + dim) + 2 * dim
    block = 2 * attention + 2 * dim + (dim * ffn + ffn) + (ffn * dim + dim) + 6 * dim
    embeddings = (patch * dim + dim) + (config.freq_dim * dim + dim + dim * dim + dim) + (dim * 6 * dim + 6 * dim)
    text = config.text_dim * dim + dim + dim * dim + dim
    return config.num_layers * block + embeddings + text + (dim * patch + patch + 2 * dim)


def test_tiny_and_wan_come_from_one_class():
    tiny, wan = on_meta(SMALL[0]), on_meta(WAN)
    assert anatomy(tiny) == anatomy(wan)
    assert count(tiny) == expected_count(SMALL[0])
    assert count(wan) == expected_count(WAN) == 1_418_996_800


def test_the_large_one_is_the_published_size():
    """Of Wan2.1-T2V-14B."""
    config = recipe_transformer("wan-14b")
    assert anatomy(on_meta(config)) == anatomy(on_meta(SMALL[0]))
    assert count(on_meta(config)) == expected_count(config) == 14_288_491_584


def test_one_class_broken_twin_without_text():
    assert anatomy(on_meta(dataclasses.replace(SMALL[0], text_dim=0))) != anatomy(on_meta(WAN))


def foreign(model: VideoTransformer, device: str) -> torch.nn.Module:
    """diffusers' transformer of the same dimensions, with our weights unless on meta."""
    pytest.importorskip("diffusers")
    from diffusers import WanTransformer3DModel
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    config = model.config
    with torch.device(device):
        other = WanTransformer3DModel(
            patch_size=(1, config.patch, config.patch), num_attention_heads=config.num_heads, attention_head_dim=config.head_dim,
            in_channels=config.latent.channels, out_channels=config.latent.channels, text_dim=config.text_dim, freq_dim=config.freq_dim,
            ffn_dim=config.ffn_dim, num_layers=config.num_layers, cross_attn_norm=True,
        )  # fmt: skip
    other.load_state_dict(convert_wan_transformer_to_diffusers(dict(model.state_dict())), assign=device == "meta")
    return other.eval()


def test_wan_keys_and_shapes_are_those_of_diffusers():
    model = on_meta(WAN)
    assert count(foreign(model, "meta")) == count(model)


def text_conditions(config: TransformerConfig, frames: int) -> Conditions:
    """Two prompts of five random tokens, no actions."""
    nothing = action_conditions(torch.zeros(2, frames, config.temporal_stride, 0), torch.zeros(2, frames, dtype=torch.bool))
    return dataclasses.replace(nothing, text=normal((2, 5, config.text_dim), stream(0, "text")))


def random_clip(config: TransformerConfig, frames: int) -> torch.Tensor:
    """Two random clips."""
    return normal((2, frames, config.latent.channels, config.latent.height, config.latent.width), stream(0, "latents"))


def scattered(config: TransformerConfig) -> VideoTransformer:
    """A float32 model without a single zero weight."""
    model = VideoTransformer(config).initialise(stream(0, "model"))
    scatter_parameters(model, 0)
    return model


def their_velocity(model: VideoTransformer, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """diffusers' prediction with our weights; timesteps are 1000 sigma, one per clip or one per token."""
    with torch.no_grad():
        return foreign(model, "cpu")(latents.transpose(1, 2), timesteps, text).sample.transpose(1, 2)


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Relative error in the norm of all values."""
    return float((ours - theirs).norm() / theirs.norm())


def relative_difference(config: TransformerConfig, sigma_of_ours: float) -> float:
    """Of our whole-clip velocity (at `sigma_of_ours`) and theirs at sigma .7, on three random frames."""
    model, latents, conditions = scattered(config), random_clip(config, 3), text_conditions(config, 3)
    with torch.no_grad():
        ours = bidirectional(model, latents, torch.full((2, 3), sigma_of_ours), conditions)
    return difference(ours, their_velocity(model, latents, torch.full((2,), 700.0), conditions.text))


@pytest.mark.parametrize("config", SMALL, ids=["even", "odd", "large patches"])
def test_the_bidirectional_path_is_that_of_diffusers(config):
    assert relative_difference(config, 0.7) < 1e-4


def test_diffusers_broken_twin_at_another_sigma():
    assert relative_difference(SMALL[1], 0.69) > 1e-4


def difference_per_frame(config: TransformerConfig, order: list[int]) -> float:
    """Every frame has its own sigma: theirs as one timestep per token, ours in the order given."""
    model, latents, conditions = scattered(config), random_clip(config, 3), text_conditions(config, 3)
    sigma = torch.tensor([[0.0, 0.25, 0.9], [1.0, 0.5, 0.1]])
    with torch.no_grad():
        ours = bidirectional(model, latents, sigma[:, order], conditions)
    timesteps = (1000 * sigma).repeat_interleave(config.grid.tokens, dim=1)
    return difference(ours, their_velocity(model, latents, timesteps, conditions.text))


@pytest.mark.parametrize("config", SMALL, ids=["even", "odd", "large patches"])
def test_a_sigma_per_frame_is_a_timestep_per_token_of_diffusers(config):
    assert difference_per_frame(config, [0, 1, 2]) < 1e-4


def test_sigma_per_frame_broken_twin_in_another_order():
    assert difference_per_frame(SMALL[0], [0, 2, 1]) > 1e-4


@pytest.mark.parametrize(("height", "width"), [(2, 2), (6, 4), (8, 14)])
def test_one_set_of_weights_serves_any_resolution(height, width):
    trained = scattered(SMALL[0])
    config = dataclasses.replace(SMALL[0], latent=LatentShape(SMALL[0].latent.channels, height, width))
    model = VideoTransformer(config)
    model.load_state_dict(trained.state_dict())
    latents, conditions = random_clip(config, 2), text_conditions(config, 2)
    with torch.no_grad():
        ours = bidirectional(model, latents, torch.full((2, 2), 0.5), conditions)
    assert difference(ours, their_velocity(trained, latents, torch.full((2,), 500.0), conditions.text)) < 1e-4


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_first_chunk_of_any_length_is_a_clip_of_diffusers(frames):
    """It has no past: what a causal model makes of it is what a bidirectional one makes of a clip of these frames."""
    config = SMALL[2]
    model, latents, conditions = scattered(config), random_clip(config, 2 * frames), text_conditions(config, 2 * frames)
    clip = clip_layout(model, Window(2 * frames), (frames, frames), "cpu")
    with torch.no_grad():
        ours = teacher_forced(model, latents, latents, torch.full((2, 2 * frames), 0.3), conditions, conditions, clip)
    theirs = their_velocity(model, latents[:, :frames], torch.full((2,), 300.0), conditions.text)
    assert difference(ours[:, :frames], theirs) < 1e-4
    alone = their_velocity(model, latents[:, frames:], torch.full((2,), 300.0), conditions.text)
    assert difference(ours[:, frames:], alone) > 1e-4, "the second chunk must have read the first"


def velocity_of(model: VideoTransformer, conditions: Conditions) -> torch.Tensor:
    """Whole-clip velocity of three fixed frames."""
    with torch.no_grad():
        return bidirectional(model, tiny_latents(3), torch.full((2, 3), 0.5, dtype=torch.float64), conditions)


def test_only_differences_of_places_matter():
    model, conditions = tiny_model(), tiny_conditions(3)
    start = torch.full((2, conditions.actions.shape[-1]), 7.25, dtype=torch.float64)
    elsewhere = action_conditions(conditions.actions, conditions.known, start)
    assert torch.allclose(velocity_of(model, conditions), velocity_of(model, elsewhere), atol=1e-5)


def test_places_broken_twin_one_frame_elsewhere():
    model, conditions = tiny_model(), tiny_conditions(3)
    travel = conditions.travel.clone()
    travel[:, 1] += 7.25
    assert not torch.allclose(velocity_of(model, conditions), velocity_of(model, dataclasses.replace(conditions, travel=travel)), atol=1e-5)


def test_a_model_whose_step_is_zero_is_one_without_travel():
    travelling, plain = tiny_model(), tiny_model(tiny_config(travel=False))
    plain.load_state_dict({name: value for name, value in travelling.state_dict().items() if name != "travel.step"})
    conditions = tiny_conditions(3)
    assert not torch.allclose(velocity_of(travelling, conditions), velocity_of(plain, conditions), atol=1e-6)
    torch.nn.init.zeros_(travelling.travel.step)
    assert torch.allclose(velocity_of(travelling, conditions), velocity_of(plain, conditions), atol=1e-6)


def test_a_fresh_model_stands_still_and_learns_its_step():
    fresh = VideoTransformer(tiny_config()).initialise(stream(0, "model")).double()
    assert not fresh.travel.step.any()
    model, clip = tiny_model(), clip_layout(tiny_model(), Window(4), (1, 1, 1), "cpu")
    torch.nn.init.zeros_(model.travel.step)
    sigma, conditions = torch.full((2, 3), 0.5, dtype=torch.float64), tiny_conditions(3)
    teacher_forced(model, tiny_latents(3), tiny_latents(3, seed=1), sigma, conditions, conditions, clip).square().sum().backward()
    assert model.travel.step.grad is not None and (model.travel.step.grad != 0).all()


def test_travel_without_actions_is_refused():
    with pytest.raises(ConfigError, match="travel needs actions"):
        tiny_config(action_dim=0)


def test_a_fresh_model_predicts_nothing_and_repeats():
    models = [VideoTransformer(tiny_config()).initialise(stream(seed, "model")) for seed in (0, 0, 1)]
    conditions = tiny_conditions(2).to("cpu", torch.float32)
    assert not bidirectional(models[0], tiny_latents(2).float(), torch.ones(2, 2), conditions).any()
    weights = [torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_unknown_actions_are_one_null():
    model, latents, sigma = tiny_model(), tiny_latents(3), torch.full((2, 3), 0.5, dtype=torch.float64)
    first, second = tiny_conditions(3, seed=1), tiny_conditions(3, seed=2)
    with torch.no_grad():
        known = [bidirectional(model, latents, sigma, conditions) for conditions in (first, second)]
        null = [bidirectional(model, latents, sigma, conditions.null((3,))) for conditions in (first, second)]
        kept = bidirectional(model, latents, sigma, first.dropped(torch.tensor([True, False]), (3,)))
    assert not torch.allclose(*known) and torch.equal(*null)
    assert torch.allclose(kept[0], known[0][0], atol=1e-12) and torch.allclose(kept[1], null[0][1], atol=1e-12)


@pytest.mark.parametrize(
    ("latents", "sigma", "frames", "message"),
    [
        ((2, 3, 4, 5, 3), (2, 3), 3, "latents are"),
        ((2, 3, 4, 3, 5), (2,), 3, "one level per frame"),
        ((2, 3, 4, 3, 5), (2, 3), 2, "actions are"),
    ],
)
def test_inputs_of_another_size_are_refused(latents, sigma, frames, message):
    with pytest.raises(ConfigError, match=message):
        bidirectional(tiny_model(), torch.zeros(latents).double(), torch.zeros(sigma).double(), tiny_conditions(frames))


def test_dimensions_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match="25 does not divide into 2 heads"):
        tiny_config(dim=25)
    with pytest.raises(ConfigError, match="cannot be cut"):
        VideoTransformer(tiny_config(patch=2)).config.grid  # noqa: B018
