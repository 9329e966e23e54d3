"""Low-rank adapters (LoRA, arXiv 2106.09685) around the plain linear layers of a transformer, from outside.

A copy of a model with adapters shares all other weights with it: a teacher, its critic and a student may be one model in memory.
Our names: `blocks.0.self_attn.q.lora_A.weight` beside `blocks.0.self_attn.q.weight`, so that a model's weights keep theirs.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.streams import stream
from mutoscope.models.fitting import misfits, shortened
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.transformer import VideoTransformer

FACTORS = ("lora_A", "lora_B")


class LoraLinear(nn.Module):
    """x W^T + b + scale (x A^T) B^T around the weights of a linear layer, which stay where they are."""

    def __init__(self, layer: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.weight, self.bias, self.config = layer.weight, layer.bias, config
        device, dtype = layer.weight.device, layer.weight.dtype
        self.lora_A = nn.Linear(layer.in_features, config.rank, bias=False, device=device, dtype=dtype)
        self.lora_B = nn.Linear(config.rank, layer.out_features, bias=False, device=device, dtype=dtype)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., in]` -> `[..., out]`."""
        return linear(x, self.weight, self.bias) + self.config.scale * self.lora_B(self.lora_A(x))

    def difference(self) -> Tensor:
        """scale B A `[out, in]`: what merging adds to W."""
        return self.config.scale * (self.lora_B.weight @ self.lora_A.weight)


@dataclass(frozen=True)
class Adapter:
    """An adapter apart from its model: its config, and by our names its factors and the tensors that learnt whole."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]


def sharing_copy(model: VideoTransformer, own: Callable[[str], bool] = lambda name: False) -> VideoTransformer:
    """A copy of a model that shares the memory of all its tensors but those whose names are its `own`."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for name, tensor in tensors if not own(name)})


def adapted(model: VideoTransformer, config: LoraConfig, seed: int) -> VideoTransformer:
    """A copy with fresh adapters, which change nothing yet; it shares the model's weights but for the modules that learn whole."""
    result = sharing_copy(model, lambda name: in_modules(name, config.whole))
    chosen = [(name, layer) for name, layer in result.named_modules() if isinstance(layer, nn.Linear) and name.endswith(config.targets)]
    missing = [name for name in config.whole if not any(in_modules(each, (name,)) for each, _ in result.named_parameters())]
    if not chosen or missing:
        kinds = sorted({name.split(".", 1)[1] for name, layer in result.blocks.named_modules() if isinstance(layer, nn.Linear)})
        raise ConfigError(
            f"the model has none of {', '.join(missing or config.targets)}; the linear layers of its blocks are {', '.join(kinds)}, "
            f"and its modules {', '.join(name for name, _ in result.named_children())}"
        )
    for name, layer in chosen:
        parent, _, last = name.rpartition(".")
        replaced = LoraLinear(layer, config)
        nn.init.uniform_(
            replaced.lora_A.weight, -(layer.in_features**-0.5), layer.in_features**-0.5, generator=stream(seed, f"adapter/{name}")
        )
        setattr(result.get_submodule(parent), last, replaced)
    return result


def in_modules(name: str, modules: tuple[str, ...]) -> bool:
    """Whether a tensor's name is that of one of the modules, or lies within one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def lora_layers(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """The adapted layers with their names; none in a model without adapters."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLinear))


def config_of(model: nn.Module) -> LoraConfig | None:
    """The adapters that a model has, if it has any."""
    return next((layer.config for _, layer in lora_layers(model)), None)


def learns_with_adapter(name: str, config: LoraConfig) -> bool:
    """Whether a tensor of an adapted model belongs to its adapter."""
    return name.rpartition(".")[0].endswith(FACTORS) or in_modules(name, config.whole)


def adapter_of(model: nn.Module) -> Adapter | None:
    """A model's adapter, None where it has none."""
    config = config_of(model)
    if config is None:
        return None
    return Adapter(config, {name: value for name, value in model.state_dict().items() if learns_with_adapter(name, config)})


def merged_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors by the names of one without adapters, adapters merged: W + scale B A. Others are as they are."""
    state = model.state_dict()
    for name, layer in lora_layers(model):
        state[f"{name}.weight"] = layer.weight.detach() + layer.difference().detach()
        for factor in FACTORS:
            del state[f"{name}.{factor}.weight"]
    return state


@torch.no_grad()
def taken_apart(merged: VideoTransformer, adapter: Adapter) -> VideoTransformer:
    """The adapted model of which `merged` is the merged one: its weights W are what is left without scale B A, to rounding.

    The modules that learnt whole stay in the adapter's part. `merged` keeps its own weights.
    """
    base = copy.deepcopy(merged)
    result = adapted(base, adapter.config, seed=0)
    wanted = {name: value for name, value in result.state_dict().items() if learns_with_adapter(name, adapter.config)}
    if problems := misfits(wanted, adapter.tensors):
        raise CheckpointError(f"the adapter does not fit its model: {shortened(problems)}")
    result.load_state_dict(dict(adapter.tensors), strict=False)
    for _, layer in lora_layers(result):
        layer.weight -= layer.difference()
    return result


def share_weights(model: VideoTransformer, other: VideoTransformer, tolerance: float = 1e-5) -> bool:
    """Let an adapted model read another's weights in place of its own if both are the same to rounding; says whether they are.

    `tolerance` is relative to each tensor's largest number. Adapters and what learnt whole stay the model's own.
    """
    config = config_of(model)
    own = {name: value for name, value in model.named_parameters() if config is None or not learns_with_adapter(name, config)}
    theirs = dict(other.named_parameters())
    if not own.keys() <= theirs.keys():
        return False
    for name, value in own.items():
        if value.shape != theirs[name].shape or not _near(value, theirs[name], tolerance):
            return False
    for name in own:
        module, _, last = name.rpartition(".")
        setattr(model.get_submodule(module), last, theirs[name])
    return True


def _near(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return bool((first - second).abs().max() <= tolerance * second.abs().max())
