"""Random draws belong to a sample: cutting the batch into micro-batches or ranks changes none of them."""

import pytest
import torch
from training_fakes import CPU

from mutoscope.core.streams import stream
from mutoscope.train.batch import Draws


class OneStream(Draws):
    """The broken twin: all samples of a micro-batch from one generator."""

    def normal(self, purpose: str, *shape: int) -> torch.Tensor:
        return torch.randn(len(self.samples), *shape, generator=stream(self.seed, purpose, self.step))


class PerSampleShared(Draws):
    """The broken twin: the draw that all ranks must share depends on who asks."""

    def shared(self, purpose: str, high: int) -> int:
        return int(torch.randint(high, (), generator=stream(self.seed, purpose, self.step, self.samples[0])))


def draws(*samples: int, step: int = 3, kind: type[Draws] = Draws) -> Draws:
    return kind(7, step, samples, CPU)


def is_cut_without_trace(kind: type[Draws], method: str) -> bool:
    """The draws of samples 0..5 at once are those of 0..1, 2..4 and 5."""

    def ask(*samples: int) -> torch.Tensor:
        asked = draws(*samples, kind=kind)
        return {
            "normal": lambda: asked.normal("a", 4),
            "uniform": lambda: asked.uniform("a", 4),
            "integer": lambda: asked.integer("a", 99, 4),
        }[method]()

    return torch.equal(ask(0, 1, 2, 3, 4, 5), torch.cat([ask(0, 1), ask(2, 3, 4), ask(5)]))


@pytest.mark.parametrize("method", ["normal", "uniform", "integer"])
def test_a_sample_draws_the_same_wherever_the_batch_is_cut(method):
    assert is_cut_without_trace(Draws, method)


def test_broken_twin_with_one_stream_per_micro_batch_is_found():
    assert not is_cut_without_trace(OneStream, "normal")


def shared_is_shared(kind: type[Draws]) -> bool:
    return all(
        len({draws(*samples, step=step, kind=kind).shared("exit step", 4) for samples in ((0, 1), (2, 3), (7,))}) == 1 for step in range(8)
    )


def test_a_shared_draw_is_equal_for_all_micro_batches_and_ranks():
    assert shared_is_shared(Draws)
    assert not shared_is_shared(PerSampleShared)


def test_purposes_steps_samples_and_seeds_draw_differently():
    values = [draws(0).normal("a", 8), draws(0).normal("b", 8), draws(1).normal("a", 8), draws(0, step=4).normal("a", 8)]
    values.append(Draws(8, 3, (0,), CPU).normal("a", 8))
    assert len({tuple(value.flatten().tolist()) for value in values}) == len(values)


def test_asking_again_or_for_something_else_in_between_changes_nothing():
    asked = draws(0, 1)
    first = asked.normal("a", 3)
    asked.uniform("b", 5), asked.shared("c", 9)
    assert torch.equal(first, asked.normal("a", 3))


def test_the_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(0)
    before, first = torch.get_rng_state(), draws(0).normal("a", 3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, draws(0).normal("a", 3))


def test_shapes_and_ranges():
    asked = draws(0, 1, 2)
    assert asked.normal("a", 4, 5).shape == (3, 4, 5)
    assert asked.uniform("dropout").shape == (3,)
    uniform, integer = asked.uniform("a", 500), asked.integer("a", 5, 500)
    assert uniform.min() >= 0 and uniform.max() < 1 and abs(uniform.mean() - 0.5) < 0.05
    assert set(integer.flatten().tolist()) == set(range(5))
