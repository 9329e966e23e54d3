"""What groups of processes do for test_sharding.py: `sharded_worker.py FOLDER` leaves there what they found."""

import json
import shutil
import sys
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from forked import together
from safetensors.torch import save_file
from training_fakes import RUN, TOLD, UPDATE, different, loop_plan, make_stage

from fakes import tiny_conditions, tiny_latents
from mutoscope.models.denoise import bidirectional
from mutoscope.models.lora_config import LoraConfig
from mutoscope.train import learner as learners
from mutoscope.train import monitor, sharding, shared_clips
from mutoscope.train.arrange import arrange
from mutoscope.train.config import UpdateConfig
from mutoscope.train.loop import StageRun, run_loop
from mutoscope.train.parallel import Workers, start_workers
from mutoscope.train.placement import Placement
from mutoscope.train.sharding import own_part, whole, whole_tensors
from mutoscope.train.state import load_state

SHARDED = Placement("sharded")
LOADED = "long-matching"
# Stages of a run without prompts, and of one with them.
KINDS = {
    "autoregressive": ("autoregressive", RUN),
    "told autoregressive": ("autoregressive", TOLD),
    "told consistency": ("consistency", TOLD),
    "told matching": ("matching", TOLD),
    LOADED: ("long-matching", RUN),
}
TWICE = replace(UPDATE, updates=2, save_every=1, batch_size=2, clip_norm=0.05)
NARROW = replace(TWICE, clip_norm=1e9, save_every=2)
ADAPTED = replace(TWICE, trains=LoraConfig(2, 3.0, whole=("action_embedding",)))
# How two processes share the work, which stage they train, and what of it learns.
LAUNCHES = {
    "shared clips": (Placement(clip_processes=2), "autoregressive", TWICE),
    "told, shared clips": (Placement("sharded", clip_processes=2), "told autoregressive", TWICE),
    "all at once": (Placement("sharded", "recomputed", ("optimiser", "frozen models"), 2), LOADED, ADAPTED),
}
SOON = timedelta(seconds=5)


def played(stage: StageRun) -> dict[str, torch.Tensor]:
    """Weights and averages of all learners."""
    parts = [(f"{name}/{part}", getattr(each, part)) for name, each in stage.learners.items() for part in ("module", "average")]
    return {f"{name}/{key}": value.clone() for name, module in parts for key, value in module.state_dict().items()}


def everything_whole(stage: StageRun) -> dict[str, torch.Tensor]:
    """All that a sharded stage is made of, put together."""
    return {f"{name}/{key}": whole(value).clone() for name, item in stage.learners.items() for key, value in item.tensors().items()}


def look(stage: StageRun, update: int) -> None:
    """What a stage's samples do: its average plays, as sessions do it, in inference mode, with the prompt read once."""
    model, conditions = stage.learners["model"].average, tiny_conditions(2)
    with torch.inference_mode():
        if width := model.config.text_dim:
            text = model.read_text(torch.ones(2, 3, width, dtype=torch.float64))
            conditions = conditions.told(text, text)
        bidirectional(model, tiny_latents(2), torch.full((2, 2), 0.5, dtype=torch.float64), conditions)


def train(kind: str, folder: Path, workers: Workers, update: UpdateConfig = TWICE) -> StageRun:
    """A stage in float64, trained or resumed to its last update."""
    with learners.copies_share_weights(workers.placement.weights == "sharded"):
        named, run = KINDS[kind]
        stage, source = make_stage(named, update, run=run, workers=workers, wide=True)
    run_loop(stage, source, loop_plan(folder / kind, update), workers, partial(look, stage))
    return stage


def leave(folder: Path, name: str, stage: StageRun, workers: Workers) -> None:
    if workers.leads:
        save_file(played(stage), folder / f"{name}.safetensors")


def train_all(folder: Path) -> None:
    """Two updates in parts; the second once more from the state before it; and the broken twins."""
    workers = start_workers("cpu", SHARDED)
    for kind in KINDS:
        stage = train(kind, folder / "two", workers)
        leave(folder, kind, stage, workers)
    if workers.leads:
        shutil.copytree(folder / "two" / kind / "state" / "update-00000001", folder / "again" / kind / "state" / "update-00000001")
    workers.wait()
    again = train(kind, folder / "again", workers)
    if workers.leads:
        (folder / "again.json").write_text(json.dumps(different(played(stage), played(again))))
    narrow = make_stage("matching", NARROW, run=TOLD, workers=workers)
    run_loop(*narrow, loop_plan(folder / "narrow", NARROW, "bf16"), workers, lambda update: None)
    learners.clip_gradients = clip_own_part
    leave(folder, "clipped by parts", train("autoregressive", folder / "clipped", workers), workers)


def share_all(folder: Path) -> None:
    """The same clips for both processes, each with some of their frames; and the broken twin."""
    for name, (placement, kind, update) in LAUNCHES.items():
        workers = start_workers("cpu", placement)
        leave(folder, name, train(kind, folder / name, workers, update), workers)
    shared_clips._Gather.backward = staticmethod(lambda ctx, gradient: (gradient.split(list(ctx.shares))[ctx.group.rank], None, None))
    train("autoregressive", folder / "not added up", start_workers("cpu", Placement(clip_processes=2)))


def clip_own_part(parameters: list[torch.nn.Parameter], most: float) -> torch.Tensor:
    """The broken twin of clipping: every process by the norm of its own part."""
    return torch.nn.utils.clip_grad_norm_([_holding(own_part(parameter.grad)) for parameter in parameters], most)


def _holding(gradient: torch.Tensor) -> torch.nn.Parameter:
    holder = torch.nn.Parameter(torch.zeros_like(gradient))
    holder.grad = gradient
    return holder


def load_all(folder: Path) -> None:
    """The newest state, by as many processes as there are; and one process's part of the average."""
    workers = start_workers("cpu", SHARDED)
    stage, _ = make_stage(LOADED, TWICE, workers=workers, wide=True)
    arrange(stage, workers, "fp32")
    load_state(folder / "two" / LOADED / "state", stage.learners, "this")
    found = everything_whole(stage)
    if workers.leads:
        save_file(found, folder / "four.safetensors")
    gathered = whole_tensors(stage.learners["model"].average, workers.leads)
    sharding.whole = own_part
    alone = whole_tensors(stage.learners["model"].average, workers.leads)
    if workers.leads:
        save_file(gathered, folder / "average.safetensors")
        save_file({name: value.contiguous() for name, value in alone.items()}, folder / "average of one shard.safetensors")


def forget_the_context(folder: Path) -> None:
    """The broken twin of `gather_for_context`: nobody gathers a block whose keys alone are read."""
    sharding.gather_for_context = lambda block: None
    train("autoregressive", folder / "forgetful", start_workers("cpu", SHARDED))


def skip_a_collective(folder: Path) -> None:
    """The broken twin of sampling on all ranks: the leading one asks for a pass of a sharded model alone."""
    workers = start_workers("cpu", SHARDED)
    stage, source = make_stage("autoregressive", TWICE, workers=workers, wide=True)
    run_loop(stage, source, loop_plan(folder / "alone", TWICE), workers, lambda update: look(stage, update) if workers.leads else None)


def fails(processes: int, work: partial[None]) -> bool:
    """Whether every process fails."""
    try:
        together(processes, work, SOON)
    except SystemExit as error:
        return str(error).endswith(f"failed on ranks {list(range(processes))}")
    return False


def main() -> None:
    """All of it."""
    folder = Path(sys.argv[1])
    monitor._tensorboard = lambda folder: None
    together(2, partial(train_all, folder))
    together(2, partial(share_all, folder))
    together(4, partial(load_all, folder))
    found = {work.__name__: fails(2, partial(work, folder)) for work in (forget_the_context, skip_a_collective)}
    (folder / "failed.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
