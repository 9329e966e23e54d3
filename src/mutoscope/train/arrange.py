"""A stage laid out as its launch says, from outside: no stage and no model knows about it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mutoscope.models.checkpoint import freeze
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.learner import Learner
from mutoscope.train.parallel import Workers
from mutoscope.train.sharding import is_sharded, process_mesh, shard_model, whole_tensors


class Arrangeable(Protocol):
    """What a stage is here: some models that learn, and others in fields of its own."""

    @property
    def learners(self) -> Mapping[str, Learner[Any]]:
        """Who learns, by name."""
        ...


@dataclass(frozen=True)
class Arranged:
    """The models of sharded learners without their weights, to be filled when they are put together again."""

    forms: dict[str, VideoTransformer]


def arrange(stage: Arrangeable, workers: Workers, precision: str) -> Arranged:
    """Lay a stage out before its first update. Every process must call it."""
    if workers.placement.weights == "replicated":
        return Arranged({})
    forms = {name: form_of(learner.module) for name, learner in stage.learners.items() if isinstance(learner.module, VideoTransformer)}
    mesh = process_mesh(workers.device, workers.world_size)
    for model in models_of(stage):
        shard_model(model, mesh, precision, workers.device)
    for name in forms:
        stage.learners[name].renew_optimiser()
    return Arranged(forms)


def models_of(stage: Arrangeable) -> Iterator[VideoTransformer]:
    """All video models that a stage holds: its learners', their averages, and the frozen ones among its fields."""
    held = [module for learner in stage.learners.values() for module in (learner.module, learner.average)]
    held += frozen_models(stage)
    return (model for model in held if isinstance(model, VideoTransformer))


def frozen_models(stage: Arrangeable) -> list[VideoTransformer]:
    """Those among a stage's fields: its teachers."""
    return [value for value in vars(stage).values() if isinstance(value, VideoTransformer)]


def put_together(stage: Arrangeable, arranged: Arranged, workers: Workers) -> None:
    """Learners' models and averages whole again, in the host memory of the leading process. Every process must call it."""
    for name, form in arranged.forms.items():
        learner = stage.learners[name]
        for part in ("module", "average"):
            assert is_sharded(getattr(learner, part))
            tensors = whole_tensors(getattr(learner, part), workers.leads)
            if workers.leads:
                setattr(learner, part, filled(form, tensors))


def form_of(model: VideoTransformer) -> VideoTransformer:
    """A model of the same make whose tensors have no memory."""
    empty: dict[int, Tensor] = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    empty |= {id(weight): nn.Parameter(torch.empty_like(weight, device="meta")) for weight in model.parameters()}
    return copy.deepcopy(model, empty)


def filled(form: VideoTransformer, tensors: dict[str, Tensor]) -> VideoTransformer:
    """A model of that form with these tensors."""
    model = copy.deepcopy(form)
    model.load_state_dict(tensors, assign=True)
    return freeze(model)
