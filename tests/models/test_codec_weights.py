"""Published layouts of codec weights load exactly; what does not fit is named."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("diffusers")

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.files import read_json
from mutoscope.core.streams import normal, stream
from mutoscope.models.codec_weights import load_tiny_codec, load_wan_codec, original_wan_codec, read_wan_config
from mutoscope.models.tiny_codec import TinyCodec, TinyCodecConfig
from mutoscope.models.wan_codec import WanCodec
from mutoscope.models.wan_config import WanCodecConfig
from wan import LATE, PUBLISHED_SHAPE, tiny_wan

TINY = TinyCodecConfig(16, 24, latent_channels=4, patch=1, encoder_width=6, widths=(8, 6, 4, 4), pools=(2, 2, 1), grows=(1, 2, 2))


def foreign_config(config: WanCodecConfig, **changes: Any) -> dict[str, Any]:
    """What diffusers writes as `config.json`."""
    return {
        "_class_name": "AutoencoderKLWan", "_diffusers_version": "0.33.0.dev0", "attn_scales": [], "base_dim": config.base_dim,
        "dim_mult": list(config.dim_mult), "dropout": 0.0, "latents_mean": list(config.latents_mean),
        "latents_std": list(config.latents_std), "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample), "z_dim": config.z_dim, **changes,
    }  # fmt: skip


def write_folder(folder: Path, codec: WanCodec, tensors: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    """A diffusers folder of a VAE."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(foreign_config(codec.config, **changes)))
    save_file(dict(codec.vae.state_dict()) if tensors is None else tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules hold the same weights under the same names."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def original_names(codec: WanCodec) -> dict[str, Tensor]:
    """A VAE's weights under the names of the original Wan repository: layers numbered through, residual branches as sequences."""
    branch = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}
    simple = [
        (r"^quant_conv\.", "conv1."),
        (r"^post_quant_conv\.", "conv2."),
        (r"\.conv_in\.", ".conv1."),
        (r"\.norm_out\.", ".head.0."),
        (r"\.conv_out\.", ".head.2."),
        (r"\.mid_block\.attentions\.0\.", ".middle.1."),
        (r"encoder\.down_blocks\.", "encoder.downsamples."),
    ]
    told = {}
    for name, tensor in codec.vae.state_dict().items():
        for pattern, plain in simple:
            name = re.sub(pattern, plain, name)
        name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda found: f".middle.{2 * int(found[1])}.", name)
        name = re.sub(
            r"decoder\.up_blocks\.(\d)\.resnets\.(\d)\.", lambda found: f"decoder.upsamples.{4 * int(found[1]) + int(found[2])}.", name
        )
        name = re.sub(r"decoder\.up_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"decoder.upsamples.{4 * int(found[1]) + 3}.", name)
        if re.search(r"(middle|samples)\.\d+\.", name):
            name = re.sub(r"\.(norm1|conv1|norm2|conv2|conv_shortcut)\.", lambda found: f".{branch[found[1]]}.", name)
        told[name] = tensor
    return told


@pytest.mark.parametrize("inside", ["vae", ""])
def test_a_diffusers_folder_loads_exactly(tmp_path, inside):
    codec = tiny_wan(PUBLISHED_SHAPE)
    write_folder(tmp_path / inside, codec)
    loaded = load_wan_codec(tmp_path, 32, 48)
    assert same(loaded.vae, codec.vae) and loaded.config == codec.resized(32, 48).config
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_the_original_layout_loads_exactly(tmp_path):
    codec, path = tiny_wan(PUBLISHED_SHAPE), tmp_path / "Wan2.1_VAE.pth"
    named = original_names(codec)
    assert {"conv1.weight", "encoder.conv1.bias", "decoder.upsamples.4.shortcut.weight", "decoder.upsamples.3.time_conv.weight"} <= set(
        named
    )
    assert {"encoder.downsamples.0.residual.0.gamma", "decoder.middle.2.residual.6.bias", "decoder.head.2.weight"} <= set(named)
    torch.save(named, path)
    loaded = original_wan_codec(path, PUBLISHED_SHAPE)
    latents = normal((1, 2, 4, 2, 3), stream(0, "latents"))
    assert same(loaded.vae, codec.vae) and torch.equal(loaded.decode(latents), codec.decode(latents))
    with pytest.raises(CheckpointError, match=r"conv_in.weight is \(.*\), needed \(.*\)"):
        load_wan_codec(path, 480, 832)
    with pytest.raises(ConfigError, match="the original layout has 4 widths and 2 blocks per stage, not 3 and 2"):
        original_wan_codec(path, LATE)


def test_keys_that_do_not_fit_are_named(tmp_path):
    codec = tiny_wan(PUBLISHED_SHAPE)
    tensors = dict(codec.vae.state_dict())
    tensors["decoder.more.weight"] = tensors.pop("decoder.conv_in.bias")
    tensors["quant_conv.bias"] = tensors["quant_conv.bias"][:3].clone()
    tensors["encoder.conv_in.bias"] = torch.full_like(tensors["encoder.conv_in.bias"], torch.nan)
    with pytest.raises(CheckpointError) as refused:
        load_wan_codec(write_folder(tmp_path, codec, tensors), 16, 24)
    for words in (
        "missing decoder.conv_in.bias", "unexpected decoder.more.weight", "quant_conv.bias is (3,), needed (8,)",
        "encoder.conv_in.bias holds NaN",
    ):  # fmt: skip
        assert words in str(refused.value)


def test_keys_that_are_too_many_to_be_listed_are_counted(tmp_path):
    codec = tiny_wan(PUBLISHED_SHAPE)
    tensors = {name: tensor for name, tensor in codec.vae.state_dict().items() if not name.startswith("decoder.")}
    missing = len(codec.vae.state_dict()) - len(tensors)
    with pytest.raises(
        CheckpointError, match=rf"does not fit the codec: (missing decoder\.\S+; ){{7}}missing decoder\.\S+ and {missing - 8} more$"
    ):
        load_wan_codec(write_folder(tmp_path, codec, tensors), 16, 24)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"_class_name": "AutoencoderKL"}, "describes a 'AutoencoderKL'"),
        ({"is_residual": True}, "is_residual = True; this codec is the VAE of Wan 2.1"),
        ({"patch_size": 2, "scale_factor_spatial": 16}, "patch_size = 2, scale_factor_spatial = 16"),
        ({"brand_new": 1}, "brand_new = 1"),
    ],
)
def test_vaes_of_another_kind_are_refused_by_name(tmp_path, changes, words):
    (tmp_path / "config.json").write_text(json.dumps(foreign_config(PUBLISHED_SHAPE, **changes)))
    with pytest.raises(CheckpointError, match=re.escape(words)):
        read_wan_config(read_json(tmp_path / "config.json"), tmp_path / "config.json", 16, 24)


def test_configs_as_diffusers_writes_them_are_read_and_cut_ones_refused(tmp_path):
    path, written = tmp_path / "config.json", dict(tiny_wan(PUBLISHED_SHAPE).vae.config)
    path.write_text(json.dumps({"_class_name": "AutoencoderKLWan", **{k: v for k, v in written.items() if not k.startswith("_")}}))
    assert read_wan_config(read_json(path), path, 16, 24) == PUBLISHED_SHAPE
    told = foreign_config(PUBLISHED_SHAPE)
    del told["z_dim"], told["dim_mult"]
    path.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="does not say z_dim, dim_mult"):
        read_wan_config(read_json(path), path, 16, 24)


class Harmful:
    """What unpickling must not make."""


def test_files_that_are_not_weights_are_refused(tmp_path):
    for name, value in (("code.pth", Harmful()), ("nested.pth", {"model": {"weight": torch.zeros(1)}})):
        torch.save(value, tmp_path / name)
        with pytest.raises(CheckpointError, match="would run what is in it|holds what is no tensor|is no table|missing"):
            load_wan_codec(tmp_path / name, 16, 24)
    with pytest.raises(CheckpointError, match=r"absent\.pth does not exist"):
        load_wan_codec(tmp_path / "absent.pth", 16, 24)


@pytest.mark.parametrize("name", ["taew.pth", "taew.safetensors"])
def test_tiny_autoencoders_load_and_a_wide_grow_keeps_its_last_frame(tmp_path, name):
    codec, path = TinyCodec(TINY), tmp_path / name
    tensors = {key: normal(tuple(value.shape), stream(0, key)) for key, value in codec.state_dict().items()}
    kept = tensors["decoder.7.conv.weight"]
    wide = tensors | {"decoder.7.conv.weight": torch.cat([torch.ones_like(kept), kept])}
    save_file(wide, path) if path.suffix == ".safetensors" else torch.save(wide, path)
    loaded = load_tiny_codec(path, TINY)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in tensors.items())
    del wide["encoder.17.bias"]
    torch.save(wide, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"cut\.pth does not fit the codec: missing encoder\.17\.bias"):
        load_tiny_codec(tmp_path / "cut.pth", TINY)
