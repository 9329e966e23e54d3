"""Weights of eight bits, by torchao, for the large matrices of a model's layers. All else stays as it is.

int8          weights alone: half the bytes of bf16, products in the model's type
int8-dynamic  weights, and each token's activations on the way: products of integers
fp8           weights alone
fp8-dynamic   weights and activations: products in eight bits, on GPUs that have them (from 8.9 on)
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mutoscope.core.errors import ConfigError, choose, optional_import
from mutoscope.models.transformer import VideoTransformer

WeightName = Literal["plain", "int8", "int8-dynamic", "fp8", "fp8-dynamic"]
CONFIGS: dict[str, str] = {
    "int8": "Int8WeightOnlyConfig",
    "int8-dynamic": "Int8DynamicActivationInt8WeightConfig",
    "fp8": "Float8WeightOnlyConfig",
    "fp8-dynamic": "Float8DynamicActivationFloat8WeightConfig",
}
"""torchao's names."""
FP8_CAPABILITY = (8, 9)


def quantise_weights(model: VideoTransformer, name: WeightName, device: torch.device | str = "cpu") -> VideoTransformer:
    """The model on a device, its layers' matrices replaced in place; "plain" leaves them.

    Layer by layer: the device holds one layer of wide matrices at a time, however large the model is.
    """
    if name == "plain":
        return model.to(device)
    device = torch.device(device)
    config = choose(CONFIGS, name, "type of weights (or 'plain')")
    if name == "fp8-dynamic" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < FP8_CAPABILITY):
        raise ConfigError(
            f"weights 'fp8-dynamic' need a GPU that multiplies eight-bit floats, and this device is '{device}'; use fp8 or int8"
        )
    quantisation: Any = optional_import("torchao.quantization", package="torchao", extra="quantise")

    def large(module: nn.Module, path: str) -> bool:
        return isinstance(module, nn.Linear) and not path.startswith("recall")

    for block in model.blocks:
        quantisation.quantize_(block.to(device), getattr(quantisation, config)(), filter_fn=large)
    for part in (part for part in model.children() if part is not model.blocks):
        part.to(device)
    return model


def held_bytes(tensor: Tensor) -> int:
    """Bytes of a parameter; a quantised one is a tensor made of others."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    names, _ = tensor.__tensor_flatten__()
    return sum(held_bytes(getattr(tensor, name)) for name in names)
