"""Weights of Wan 2.1's video autoencoder, under the names of diffusers' AutoencoderKLWan and checked against that class."""

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from mutoscope.core.errors import CheckpointError, optional_import
from mutoscope.models.fitting import misfits
from mutoscope.models.foreign import ForeignWeights
from mutoscope.models.wan_codec import wan_codec
from mutoscope.models.wan_config import WanCodecConfig

Value = TypeVar("Value")
ORIGINAL = "decoder.middle.0.residual.0.gamma"  # a name that the original file has and diffusers' does not


def fit_codec(weights: ForeignWeights, config: WanCodecConfig) -> dict[str, Tensor]:
    """The tensors of a `vae` folder of diffusers or of Wan2.1_VAE.pth; what does not fit is named in the error, as in the file.

    What an original file lacks has the name that diffusers gives it: there is no way back.
    """
    wanted, settings = expected(config)
    if weights.config is not None:
        compare_settings(weights.config, settings, str(weights.source / "config.json"))
    original = ORIGINAL in weights.tensors
    tensors = from_original(weights.tensors) if original else weights.tensors
    named = from_original({name: name for name in weights.tensors}) if original else {name: name for name in wanted | tensors}
    told = {name: named.get(name, f"{name} (diffusers' name)") for name in wanted | tensors}
    if problems := misfits(*({told[name]: tensor for name, tensor in each.items()} for each in (wanted, tensors))):
        raise CheckpointError(f"{weights.source} does not fit Wan's video autoencoder: {'; '.join(problems)}")
    return tensors


def expected(config: WanCodecConfig) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every weight, on the meta device, and all settings of diffusers' class at this structure."""
    model = wan_codec(config).vae
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in model.config.items() if not key.startswith("_")}
    return model.state_dict(), settings


def from_original(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """Original names -> diffusers', by diffusers' own converter; what stands under them is not looked at."""
    names = optional_import("diffusers.loaders.single_file_utils", package="diffusers", extra="wan")
    return names.convert_wan_vae_to_diffusers(dict(tensors))


def compare_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Every setting of a config.json is the one that is needed, or the error names it."""
    read = {key: value for key, value in found.items() if not key.startswith("_")}
    differing = [key for key, value in read.items() if key not in wanted or wanted[key] != value]
    if differing:
        each = ", ".join(f"{key} is {read[key]!r}, needed {wanted.get(key, 'none such')!r}" for key in differing)
        raise CheckpointError(f"{where} is of another codec than the recipe's: {each}")
