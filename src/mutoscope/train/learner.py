"""A module that learns: its optimiser, its learning rate over time, and its moving average."""

import copy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from mutoscope.core.errors import ConfigError
from mutoscope.models.checkpoint import freeze
from mutoscope.train.config import UpdateConfig

Module = TypeVar("Module", bound=nn.Module)


@dataclass
class Learner(Generic[Module]):
    """fp32 master weights, AdamW, clipping, and an exponential moving average that starts after `average_from` updates."""

    module: Module
    average: Module
    optimiser: torch.optim.Optimizer
    config: UpdateConfig
    learning_rate: float
    decay: float
    average_from: int
    updates: int = 0

    def learn(self, update: int, total_updates: int) -> float:
        """Clip, step and average, at the rate of the run's update. Returns the norm before clipping; NaN or infinity is an error."""
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.config.clip_norm)
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
        pairs = zip(self.average.parameters(), self.module.parameters(), strict=True)
        for target, source in pairs:
            target.lerp_(source, 1 - decay)
        for kept, current in zip(self.average.buffers(), self.module.buffers(), strict=True):
            kept.copy_(current)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs, as named tensors: weights, average and optimiser state."""
        tensors = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        for index, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{index}/{name}": torch.as_tensor(value) for name, value in state.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], updates: int) -> None:
        """Bring back what `tensors` gave."""
        self.module.load_state_dict(_under(tensors, "model/"))
        self.average.load_state_dict(_under(tensors, "average/"))
        state: dict[int, dict[str, Any]] = {}
        for name, value in _under(tensors, "optimiser/").items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})
        self.updates = updates


def make_learner(
    module: Module, config: UpdateConfig, *, learning_rate: float | None = None, decay: float | None = None, average_from: int = 0
) -> Learner[Module]:
    """A learner for `module`; the average starts as its copy."""
    rate = config.learning_rate if learning_rate is None else learning_rate
    decayed = [parameter for parameter in module.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in module.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=rate, betas=config.betas)
    average = freeze(copy.deepcopy(module))
    return Learner(module, average, optimiser, config, rate, config.average if decay is None else decay, average_from)


def schedule(update: int, total: int, config: UpdateConfig) -> float:
    """Linear warm-up, constant, linear cool-down over the last `cooldown` share of the updates, to 5 %."""
    warm = min(1.0, (update + 1) / max(1, config.warmup))
    tail = max(1.0, config.cooldown * total)
    return warm * min(1.0, 0.05 + 0.95 * (total - update) / tail) if config.cooldown > 0 else warm


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
