"""A stage laid out as its launch says, from outside: no stage and no model knows about it."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from mutoscope.models.checkpoint import freeze
from mutoscope.models.transformer import VideoTransformer
from mutoscope.train.learner import Learner
from mutoscope.train.off_load import off_load_frozen, off_load_state
from mutoscope.train.parallel import Workers
from mutoscope.train.placement import OffLoaded
from mutoscope.train.recompute import keep_again, recompute_blocks
from mutoscope.train.sharding import is_sharded, part_home, process_mesh, shard_model, whole_tensors
from mutoscope.train.shared_clips import ClipGroup, share_clips


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
    placement = workers.placement
    if placement.clip_processes > 1:
        group = clip_group(workers)
        for model in models_of(stage):
            share_clips(model, group)
    forms = shard(stage, workers, precision) if placement.weights == "sharded" else {}
    if not forms:
        off_load(stage, workers)
    for learner in stage.learners.values():
        if placement.activations == "recomputed" and isinstance(learner.module, VideoTransformer):
            recompute_blocks(learner.module)
    return Arranged(forms)


def shard(stage: Arrangeable, workers: Workers, precision: str) -> dict[str, VideoTransformer]:
    """Cut all video models of a stage over the processes; returns the forms of those that learn."""
    placement, device = workers.placement, workers.device
    forms = {name: form_of(learner.module) for name, learner in stage.learners.items() if isinstance(learner.module, VideoTransformer)}
    mesh, frozen = process_mesh(device, workers.world_size), frozen_models(stage)
    for model in models_of(stage):
        kind: OffLoaded = "frozen models" if any(model is each for each in frozen) else "optimiser"
        shard_model(model, mesh, precision, device, part_home(device, kind in placement.off_load))
    for name in forms:
        stage.learners[name].renew_optimiser()
    return forms


def off_load(stage: Arrangeable, workers: Workers) -> None:
    """Let what the launch names wait on the host while it is not used."""
    placement = workers.placement
    if "optimiser" in placement.off_load:
        for learner in stage.learners.values():
            off_load_state(learner.optimiser, workers.device)
    if "frozen models" in placement.off_load:
        in_use = {id(weight) for learner in stage.learners.values() for weight in learner.module.parameters()}
        for model in frozen_models(stage):
            off_load_frozen(model, workers.device, in_use)


def clip_group(workers: Workers) -> ClipGroup:
    """This process and those beside it that share its clips."""
    size = workers.placement.clip_processes
    mesh = init_device_mesh(workers.device.type, (workers.readers, size), mesh_dim_names=("reader", "frames"))
    return ClipGroup(mesh["frames"].get_group(), size, workers.rank % size)


def models_of(stage: Arrangeable) -> Iterator[VideoTransformer]:
    """All video models that a stage holds: its learners', their averages, and the frozen ones among its fields."""
    held = [module for learner in stage.learners.values() for module in (learner.module, learner.average)]
    held += frozen_models(stage)
    return (model for model in held if isinstance(model, VideoTransformer))


def frozen_models(stage: Arrangeable) -> list[VideoTransformer]:
    """Those among a stage's fields: its teachers."""
    return [value for value in vars(stage).values() if isinstance(value, VideoTransformer)]


def put_together(stage: Arrangeable, arranged: Arranged, workers: Workers) -> None:
    """Blocks as they were; and learners' models whole again, in the leading process's host memory. Every process must call it."""
    for model in models_of(stage):
        keep_again(model)
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
