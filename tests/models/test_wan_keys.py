"""Names of Wan's weights: the map is that of diffusers' own classes and converter, complete at both published sizes."""

from collections.abc import Callable

import pytest
import torch

from fakes import recipe_transformer
from mutoscope.core.errors import CheckpointError
from mutoscope.models.transformer import TransformerConfig
from mutoscope.models.wan_config import diffusers_config
from mutoscope.models.wan_keys import BLOCK, TOP, from_diffusers, layout_of, listed, our_names, plain_name, to_diffusers
from mutoscope.models.wan_weights import parameter_shapes, sizes_of

SIZES = ["wan-1.3b", "wan-14b"]


def published_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """What diffusers' transformer of the published config holds, on the meta device."""
    pytest.importorskip("diffusers")
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel.from_config(diffusers_config(sizes_of(config)))
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def maps_as_published(config: TransformerConfig, rename: Callable[[str], str]) -> bool:
    """Every weight of ours lands on a weight of diffusers' of the same shape, all of them, and where the converter puts it."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    ours = parameter_shapes(config)
    converted = convert_wan_transformer_to_diffusers({name: name for name in ours})
    renamed = {rename(name): name for name in ours}
    return renamed == converted and {name: ours[own] for name, own in renamed.items()} == published_shapes(config)


@pytest.mark.parametrize("name", SIZES)
def test_every_key_of_the_published_sizes_is_mapped(name):
    config = recipe_transformer(name)
    assert maps_as_published(config, to_diffusers)
    assert all(from_diffusers(to_diffusers(own)) == own for own in parameter_shapes(config))


def test_every_key_broken_twins():
    """Queries for keys (their shapes are equal), and a norm under its number in the other layout."""
    config = recipe_transformer("wan-1.3b")
    exchanged = {"to_q": "to_k", "to_k": "to_q"}
    assert not maps_as_published(config, lambda name: ".".join(exchanged.get(part, part) for part in to_diffusers(name).split(".")))
    assert not maps_as_published(config, lambda name: name if ".norm3." in name else to_diffusers(name))


def test_no_two_rows_lead_to_one_name():
    for table in (TOP, BLOCK):
        assert len(set(table.values())) == len(table)


@pytest.mark.parametrize(
    "wrapped",
    [
        "model.{}",
        "module.{}",
        "_orig_mod.{}",
        "_fsdp_wrapped_module.{}",
        "model._fsdp_wrapped_module.{}",
        "module.model._orig_mod.{}",
        "generator.model.{}",
        "{}",
    ],
)
@pytest.mark.parametrize("name", ["blocks.7.self_attn.q.weight", "head.modulation", "patch_embedding.bias"])
def test_what_wrappers_put_in_front_is_taken_off(wrapped, name):
    assert plain_name(wrapped.format(name)) == name


def test_what_wrappers_put_between_is_taken_out():
    assert plain_name("model.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.ffn.0.weight") == "blocks.0.ffn.0.weight"
    assert plain_name("model") == "model", "a name is never taken off whole"


def test_whose_names_they_are():
    assert layout_of(["time_embedding.0.weight", "blocks.0.norm3.bias"]) == "original"
    assert layout_of(["condition_embedder.time_proj.bias", "blocks.0.norm2.bias"]) == "diffusers"
    with pytest.raises(CheckpointError, match=r"not the weights of a Wan transformer.* among 1 names, such as conv\.weight"):
        layout_of(["conv.weight"])


def test_unknown_names_stay_as_they_are():
    assert to_diffusers("blocks.0.gate.weight") == "blocks.0.gate.weight"
    assert our_names(["model.time_embedding.0.weight", "model.blocks.0.novelty"])["model.blocks.0.novelty"] == "blocks.0.novelty"


ORIGINAL, DIFFUSERS = "time_embedding.0.weight", "condition_embedder.time_proj.bias"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([ORIGINAL, "img_emb.proj.0.weight"], "image inputs .*img_emb.proj.0.weight.* committed as frame 0"),
        ([ORIGINAL, *(f"blocks.{n}.cross_attn.k_img.bias" for n in range(40))], r"image inputs .*blocks.\{0-39\}.cross_attn.k_img.bias"),
        ([ORIGINAL, "blocks.0.cross_attn.v_img.weight"], "image inputs"),
        ([ORIGINAL, "blocks.0.cross_attn.norm_k_img.weight"], "image inputs"),
        ([DIFFUSERS, "condition_embedder.image_embedder.norm1.weight"], "image inputs"),
        ([DIFFUSERS, "blocks.0.attn2.add_k_proj.weight"], "image inputs"),
        ([ORIGINAL, "vace_blocks.0.after_proj.bias"], "control branch of VACE"),
        (["blocks.0.self_attn.q.lora_A.weight"], "LoRA adapters .*--adapter FILE"),
        ([ORIGINAL, "model." + ORIGINAL], "one weight twice"),
    ],
)
def test_what_has_no_place_here_is_refused_by_name(names, message):
    with pytest.raises(CheckpointError, match=message):
        our_names(names)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["b", "a"], "a, b"),
        (["blocks.3.x"], "blocks.3.x"),
        ([f"blocks.{n}.norm3.bias" for n in (0, 1, 2, 5)], "blocks.{0-2,5}.norm3.bias"),
        (["blocks.x", "model.blocks.1.y", "model.blocks.0.y"], "blocks.x, model.blocks.{0-1}.y"),
    ],
)
def test_lists_name_every_key_and_blocks_once(names, text):
    assert listed(names) == text
