"""Weights of Wan's video autoencoder: both published layouts give the same tensors, and what does not fit is named."""

import re

import pytest
import torch
from torch import Tensor

from mutoscope.core.errors import CheckpointError
from mutoscope.models.foreign import read_foreign
from mutoscope.models.wan_codec_weights import fit_codec
from wan_fakes import CODEC, codec_tensors, same_bits, write_codec, write_training

pytest.importorskip("diffusers")
RESIDUAL = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6", "conv_shortcut": "shortcut"}
PLACES = (
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"(encoder|decoder)\.conv_in", r"\1.conv1"),
    (r"(encoder|decoder)\.norm_out", r"\1.head.0"),
    (r"(encoder|decoder)\.conv_out", r"\1.head.2"),
    (r"mid_block\.attentions\.0", "middle.1"),
    (r"mid_block\.resnets\.0", "middle.0"),
    (r"mid_block\.resnets\.1", "middle.2"),
    (r"encoder\.down_blocks", "encoder.downsamples"),
)


def original_name(name: str) -> str:
    """Diffusers' name -> that of Wan2.1_VAE.pth, whose layers are numbered through: three residual blocks and an upsampler per level."""
    for pattern, place in PLACES:
        name = re.sub(pattern, place, name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda found: f"upsamples.{4 * int(found[1]) + int(found[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"upsamples.{4 * int(found[1]) + 3}", name)
    parts = name.split(".")
    inside = parts[1] in ("downsamples", "upsamples") or name.split(".", 1)[1].startswith(("middle.0", "middle.2"))
    return ".".join(RESIDUAL.get(part, part) if inside else part for part in parts)


def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the original names."""
    return {original_name(name): tensor for name, tensor in tensors.items()}


def test_both_layouts_are_the_same_codec(tmp_path):
    tensors = codec_tensors()
    assert len(original(tensors)) == len(tensors) and not {"decoder.conv_in.weight", "quant_conv.bias"} & original(tensors).keys()
    folder = write_codec(tmp_path / "vae", tensors)
    file = write_training(tmp_path / "Wan2.1_VAE.pth", **original(tensors))
    assert same_bits(fit_codec(read_foreign(folder, folder="vae"), CODEC), tensors)
    assert same_bits(fit_codec(read_foreign(tmp_path, folder="vae"), CODEC), tensors), "the folder of a whole pipeline"
    assert same_bits(fit_codec(read_foreign(file), CODEC), tensors)
    assert not same_bits(fit_codec(read_foreign(file), CODEC), codec_tensors(seed=1))


def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A key lost, one added, one of another shape."""
    del tensors["decoder.conv_out.bias"]
    return tensors | {"decoder.novelty": torch.ones(1), "quant_conv.bias": torch.ones(3)}


def test_what_does_not_fit_is_named(tmp_path):
    message = r"missing decoder\.conv_out\.bias; unexpected decoder\.novelty; quant_conv\.bias is \(3,\), needed \(8,\)$"
    with pytest.raises(CheckpointError, match=message):
        fit_codec(read_foreign(write_codec(tmp_path / "vae", change(codec_tensors()))), CODEC)


def test_what_does_not_fit_an_original_file_has_the_name_that_it_has_there(tmp_path):
    message = (
        r"missing decoder\.conv_out\.bias \(diffusers' name\); unexpected decoder\.novelty; "
        r"conv1\.bias is \(3,\), needed \(8,\)$"
    )
    with pytest.raises(CheckpointError, match=message):
        fit_codec(read_foreign(write_training(tmp_path / "Wan2.1_VAE.pth", **original(change(codec_tensors())))), CODEC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_residual": True}, "is_residual is True, needed False"),
        ({"latents_mean": [0.0] * 4}, r"latents_mean is \[0.0, 0.0, 0.0, 0.0\], needed \[0.1, "),
        ({"novelty": 1}, "novelty is 1, needed 'none such'"),
    ],
)
def test_other_codecs_are_refused_by_name(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        fit_codec(read_foreign(write_codec(tmp_path / "vae", codec_tensors(), **changes)), CODEC)
