"""A module that learns: its optimiser, its learning rate over time, and its moving average."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.checkpoint import freeze
from mutoscope.models.lora import adapted, config_of, learns_with_adapter, sharing_copy
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.config import UpdateConfig
from mutoscope.train.sharding import clip_gradients, own_part

Module = TypeVar("Module", bound=nn.Module)


@dataclass
class Learner(Generic[Module]):
    """fp32 master weights, AdamW, clipping, and an exponential moving average that starts after `average_from` updates.

    `learns` are the names of the parameters that do; all others are frozen, and not saved with the learner.
    """

    module: Module
    average: Module
    optimiser: torch.optim.Optimizer
    config: UpdateConfig
    learning_rate: float
    decay: float
    average_from: int
    learns: frozenset[str]
    updates: int = 0

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The module's parameters that learn, in its order."""
        return [parameter for name, parameter in self.module.named_parameters() if name in self.learns]

    def ask_for_gradients(self, asked: bool) -> None:
        """Whether autograd follows what learns."""
        for parameter in self.parameters:
            parameter.requires_grad_(asked)

    def renew_optimiser(self) -> None:
        """Before the first update, after the parameters were exchanged for others: for parts of them, or for adapters."""
        self.optimiser = make_optimiser(self.parameters, self.config, self.learning_rate)

    def learn(self, update: int, total_updates: int) -> float:
        """Clip, step and average, at the rate of the run's update. Returns the norm before clipping; NaN or infinity is an error."""
        norm = clip_gradients(self.parameters, self.config.clip_norm)
        if not torch.isfinite(norm):
            raise ConfigError(
                f"the gradient norm became {norm.item()} at update {update}; the last saved state is intact. "
                "Lower the learning rate, or check the data with 'mutoscope check'"
            )
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * schedule(update, total_updates, self.config)
        self.optimiser.step()
        self.updates += 1
        self.update_average()
        return float(norm)

    @torch.no_grad()
    def update_average(self) -> None:
        """average <- decay average + (1 - decay) weights; a plain copy before `average_from`."""
        decay = self.decay if self.updates > self.average_from else 0.0
        pairs = zip(self.average.named_parameters(), self.module.named_parameters(), strict=True)
        for (name, target), (_, source) in pairs:
            if name in self.learns:
                own_part(target).lerp_(own_part(source), 1 - decay)
        for kept, current in zip(self.average.buffers(), self.module.buffers(), strict=True):
            kept.copy_(current)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as named tensors: weights, average and optimiser state."""
        tensors = {f"model/{name}": value for name, value in self._kept(self.module).items()}
        tensors |= {f"average/{name}": value for name, value in self._kept(self.average).items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
        return tensors

    def places(self) -> dict[str, Tensor]:
        """What `tensors` gives once all parameters have learnt, as places for a saved state to be read into."""
        places = self.tensors()
        for index, parameter in enumerate(each for group in self.optimiser.param_groups for each in group["params"]):
            places[f"optimiser/{index}/step"] = torch.zeros(())
            places |= {f"optimiser/{index}/{name}": torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")}
        return places

    def restore(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Bring back what `tensors` gave."""
        for module, prefix in ((self.module, "model/"), (self.average, "average/")):
            saved = _under(tensors, prefix)
            if other := sorted(saved.keys() ^ self._kept(module).keys()):
                raise CheckpointError(f"the saved state is of another model: {len(other)} names differ, such as {other[0]}")
            module.load_state_dict(saved, strict=False)
        state: dict[int, dict[str, Any]] = {}
        for name, value in _under(tensors, "optimiser/").items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.updates = updates

    def _kept(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's tensors, but for its frozen weights."""
        frozen = {name for name, _ in module.named_parameters()} - self.learns
        return {name: value for name, value in module.state_dict().items() if name not in frozen}


def make_learner(
    module: Module, config: UpdateConfig, *, learning_rate: float | None = None, decay: float | None = None, average_from: int = 0
) -> Learner[Module]:
    """A learner for `module`; the average starts as its copy, and shares what does not learn. `adapters_on` says what does."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    lora = config_of(module)
    learns = frozenset(name for name, _ in module.named_parameters() if lora is None or learns_with_adapter(name, lora))
    frozen = [parameter for name, parameter in module.named_parameters() if name not in learns]
    average = freeze(weights_copy(module, {id(parameter): parameter for parameter in frozen}))
    optimiser = make_optimiser([parameter for name, parameter in module.named_parameters() if name in learns], config, rate)
    return Learner(module, average, optimiser, config, rate, config.average if decay is None else decay, average_from, learns)


def learning_copy(model: VideoTransformer, config: UpdateConfig, seed: int) -> VideoTransformer:
    """A copy of a model that a stage starts from: of all its weights, or with adapters of its own around the same ones."""
    return weights_copy(model, {}) if config.trains == "all weights" else adapters_on(model, config, seed)


_SHARING = ContextVar("copies share their weights", default=False)


@contextmanager
def copies_share_weights(sharing: bool) -> Iterator[None]:
    """Within it, and if `sharing`, a copy of a video model has weights of its own that lie where the original's do.

    For a stage whose models are cut over processes before anybody writes into them (train.arrange): cutting copies a process's part, and
    what is whole is in host memory once, however many models began from it.
    """
    token = _SHARING.set(sharing)
    try:
        yield
    finally:
        _SHARING.reset(token)


def weights_copy(module: Module, kept: dict[int, nn.Parameter]) -> Module:
    """A copy of a module, but for the parameters `kept` by their id."""
    if _SHARING.get() and isinstance(module, VideoTransformer):
        own = {id(weight): nn.Parameter(weight.detach(), weight.requires_grad) for weight in module.parameters()}
        return copy.deepcopy(module, {**own, **kept})
    return copy.deepcopy(module, dict(kept))


def adapters_on(model: VideoTransformer, config: UpdateConfig, seed: int) -> VideoTransformer:
    """The model itself where all weights learn; else it with adapters that learn, which go on from those that it has."""
    lora = config.trains
    if isinstance(lora, str):
        return model
    has = config_of(model)
    if has not in (None, lora):
        raise ConfigError(f"the model has other adapters than this stage trains ({has}, not {lora}); merge them first")
    result = adapted(model, lora, seed) if has is None else sharing_copy(model, lambda name: learns_with_adapter(name, lora))
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(learns_with_adapter(name, lora))
    return result


def make_optimiser(parameters: list[nn.Parameter], config: UpdateConfig, rate: float) -> torch.optim.Optimizer:
    """AdamW; biases, gains and other vectors do not decay."""
    decayed = [parameter for parameter in parameters if parameter.ndim >= 2]
    others = [parameter for parameter in parameters if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=rate, betas=config.betas)


def schedule(update: int, total: int, config: UpdateConfig) -> float:
    """Linear warm-up, constant, linear cool-down over the last `cooldown` share of the updates, to 5 %."""
    warm = min(1.0, (update + 1) / max(1, config.warmup))
    tail = max(1.0, config.cooldown * total)
    return warm * min(1.0, 0.05 + 0.95 * (total - update) / tail) if config.cooldown > 0 else warm


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
