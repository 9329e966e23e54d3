"""Accumulated gradients equal one big batch, in every stage (in float64, to rounding)."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training_fakes import ALONE, CHUNKS, KINDS, RUN, UPDATE, loop_plan, make_stage

from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import RunConfig
from mutoscope.train.loop import StageRun, one_update

WHOLE = replace(UPDATE, clip_norm=1e12)
# In this update both learners of matching have their turn.
BOTH = 1


@dataclass
class Undivided:
    """The broken twin: micro-batch gradients are summed, nobody divides by their number."""

    stage: StageRun
    accumulate: int

    @property
    def learners(self):
        return self.stage.learners

    def turns(self, update: int) -> tuple[str, ...]:
        return self.stage.turns(update)

    def clips(self, turn: str, update: int) -> tuple[str, int]:
        return self.stage.clips(turn, update)

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        loss, figures = self.stage.loss(turn, batch)
        return loss * self.accumulate, figures


@dataclass
class Stale(Undivided):
    """The broken twin that keeps one micro-batch's gradient for the next: every loss leaves its gradient a second time."""

    def loss(self, turn: str, batch: ClipBatch) -> tuple[Tensor, dict[str, float]]:
        loss, figures = self.stage.loss(turn, batch)
        (loss / self.accumulate).backward(retain_graph=True)
        return loss, figures


def gradients(kind: str, accumulate: int, run: RunConfig = RUN, twin: type[Undivided] | None = None) -> dict[str, Tensor]:
    """What every parameter's gradient is at the step of update `BOTH`, and the logged losses."""
    config = replace(WHOLE, accumulate=accumulate)
    stage, source = make_stage(kind, config, run=run, wide=True)
    seen = twin(stage, accumulate) if twin else stage
    figures = one_update(seen, source, loop_plan(Path("nowhere"), config), ALONE, BOTH)
    found = {
        name: torch.tensor(value, dtype=torch.float64) for name, value in figures.items() if name.endswith(("/loss", "/gradient_norm"))
    }
    for turn in stage.turns(BOTH):
        named = stage.learners[turn].module.named_parameters()
        found |= {f"{turn}/{name}": parameter.grad.clone() for name, parameter in named if parameter.grad is not None}
    return found


def equal_to_rounding(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.allclose(first[name], second[name], rtol=1e-9, atol=1e-13) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_two_or_four_micro_batches_give_the_gradient_of_one(kind):
    whole = gradients(kind, 1)
    assert any(value.abs().max() > 0 for value in whole.values())
    assert equal_to_rounding(whole, gradients(kind, 2))
    assert equal_to_rounding(whole, gradients(kind, 4))


@pytest.mark.parametrize("kind", KINDS[2:])
def test_so_they_do_chunk_wise(kind):
    assert equal_to_rounding(gradients(kind, 1, CHUNKS), gradients(kind, 2, CHUNKS))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("twin", [Undivided, Stale])
def test_broken_twins_that_do_not_divide_or_count_twice_are_found(kind, twin):
    assert not equal_to_rounding(gradients(kind, 1), gradients(kind, 2, twin=twin))


def test_every_parameter_that_should_learn_has_a_gradient():
    for kind in KINDS:
        stage, source = make_stage(kind, WHOLE, wide=True)
        one_update(stage, source, loop_plan(Path("nowhere"), WHOLE), ALONE, BOTH)
        for turn in stage.turns(BOTH):
            idle = [name for name, parameter in stage.learners[turn].module.named_parameters() if parameter.grad is None]
            assert idle == [], f"{kind}/{turn}"
