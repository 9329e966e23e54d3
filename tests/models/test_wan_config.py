"""config.json of both layouts: read strictly, refused by the name of what does not fit."""

from dataclasses import replace

import pytest
import torch

from fakes import recipe_transformer
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.shapes import LatentShape
from mutoscope.models.wan_codec_weights import expected
from mutoscope.models.wan_config import diffusers_config, read_sizes, wan_2_1
from mutoscope.models.wan_weights import sizes_of
from wan_fakes import CONFIG, DIFFUSERS_JSON, ORIGINAL_JSON

# The published files, word for word (Wan2.1-T2V-1.3B and -14B-Diffusers).
PUBLISHED_ORIGINAL = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 1536, "eps": 1e-06, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16,
    "model_type": "t2v", "num_heads": 12, "num_layers": 30, "out_dim": 16, "text_len": 512,
}  # fmt: skip
PUBLISHED_DIFFUSERS = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0", "added_kv_proj_dim": None, "attention_head_dim": 128,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "image_dim": None, "in_channels": 16,
    "num_attention_heads": 40, "num_layers": 40, "out_channels": 16, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 4096,
}  # fmt: skip


def test_the_published_files_are_the_recipes():
    assert read_sizes(PUBLISHED_ORIGINAL, "config.json") == sizes_of(recipe_transformer("wan-1.3b"))
    assert read_sizes(PUBLISHED_DIFFUSERS, "config.json") == sizes_of(recipe_transformer("wan-14b"))


def test_both_layouts_say_the_same():
    assert read_sizes(DIFFUSERS_JSON, "a") == read_sizes(ORIGINAL_JSON, "b") == sizes_of(CONFIG)
    assert read_sizes(diffusers_config(sizes_of(CONFIG)), "c") == sizes_of(CONFIG)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ORIGINAL_JSON | {"model_type": "i2v", "in_dim": 36}, "says model_type = 'i2v', .*committed as frame 0"),
        (ORIGINAL_JSON | {"in_dim": 36}, "36 channels in and 4 out.*committed as frame 0"),
        (ORIGINAL_JSON | {"camera": True}, "says camera = True"),
        (DIFFUSERS_JSON | {"image_dim": 1280, "added_kv_proj_dim": 5120}, "says added_kv_proj_dim = 5120, image_dim = 1280"),
        (DIFFUSERS_JSON | {"in_channels": 36}, "36 channels in and 4 out"),
        (DIFFUSERS_JSON | {"qk_norm": None}, "says qk_norm = None"),
        (DIFFUSERS_JSON | {"patch_size": [2, 2, 2]}, r"patches of \(2, 2, 2\)"),
        (ORIGINAL_JSON | {"patch_size": 2}, r"patches of \(2,\)"),
        (DIFFUSERS_JSON | {"_class_name": "AutoencoderKLWan"}, "is of a AutoencoderKLWan; needed: the transformer folder"),
        (DIFFUSERS_JSON | {"num_layers": "3"}, "no dimensions of a Wan transformer"),
        ({name: value for name, value in DIFFUSERS_JSON.items() if name != "ffn_dim"}, "lacks ffn_dim"),
        ({}, "lacks _class_name"),
    ],
)
def test_other_models_are_refused_by_name(config, message):
    with pytest.raises(CheckpointError, match=message):
        read_sizes(config, "config.json")


def test_sizes_of_the_codec_are_derived():
    codec = wan_2_1(480, 832)
    assert (codec.spatial_stride, codec.temporal_stride, codec.latent) == (8, 4, LatentShape(16, 60, 104))
    halved_once = replace(codec, height=30, width=50, dim_mult=(1, 2), temporal_downsample=(True,))
    assert (halved_once.temporal_stride, halved_once.latent) == (2, LatentShape(16, 15, 25))


def test_the_published_codec_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    wanted, settings = expected(wan_2_1(480, 832))
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    with torch.device("meta"):
        theirs = diffusers.AutoencoderKLWan()
    own = {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    assert settings == own and shapes == {name: tuple(value.shape) for name, value in theirs.state_dict().items()}


@pytest.mark.parametrize("changes", [{"height": 481}, {"temporal_downsample": (True,)}, {"latents_mean": (0.0,)}])
def test_codecs_that_cannot_be_are_refused(changes):
    with pytest.raises(ConfigError, match="does not divide by|4 widths have 3 halvings|need 16 numbers each"):
        replace(wan_2_1(480, 832), **changes)
