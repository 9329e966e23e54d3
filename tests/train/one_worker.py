"""One process of a data-parallel run, started as torchrun starts it: `one_worker.py FOLDER [unaveraged]`."""

import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from training_fakes import KINDS, UPDATE, everything, loop_plan, make_stage

from mutoscope.train import monitor
from mutoscope.train.loop import run_loop
from mutoscope.train.parallel import Workers, start_workers

TWIN = "bidirectional"


def train_kind(kind: str, folder: Path, workers: Workers, accumulate: int) -> None:
    """Train a stage in float64 and leave all of this rank's tensors in `folder/kind-RANK.safetensors`."""
    update = replace(UPDATE, updates=3, save_every=2, accumulate=accumulate)
    stage, source = make_stage(kind, update, workers=workers, wide=True)
    run_loop(stage, source, loop_plan(folder / kind, update), workers, lambda update: None)
    save_file(everything(stage), folder / f"{kind}-{workers.rank}.safetensors")


def main() -> None:
    """Every stage; with "unaveraged" the broken twin, whose ranks keep their gradients to themselves."""
    folder, workers = Path(sys.argv[1]), start_workers("cpu")
    monitor._tensorboard = lambda folder: None
    for kind in KINDS:
        train_kind(kind, folder, workers, accumulate=2)
    Workers.average_gradients = lambda self, module: None  # type: ignore[method-assign]
    train_kind(TWIN, folder / "unaveraged", workers, accumulate=1)


if __name__ == "__main__":
    main()
