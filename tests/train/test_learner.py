"""Optimiser steps: master weights in float32, averages, and the learning rate over time."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training_fakes import ALONE, CPU, KINDS, UPDATE, loop_plan, make_stage

from mutoscope.core.errors import ConfigError
from mutoscope.train.config import UpdateConfig
from mutoscope.train.learner import Learner, copies_share_weights, make_learner, schedule
from mutoscope.train.loop import one_update
from mutoscope.train.precision import computes_bf16, precision_context

# AdamW's first step is about this large; around a weight of 1, bfloat16 values lie 2^-8 = 0.0039 and more apart.
SMALL = 1e-4
TINY_STEPS = UpdateConfig(10, 4, SMALL, warmup=1, cooldown=0.0, weight_decay=0.0, average=0.5)


def ones_after_one_step(dtype: torch.dtype) -> torch.Tensor:
    module = nn.Linear(4, 4).to(dtype)
    nn.init.ones_(module.weight)
    learner = make_learner(module, TINY_STEPS)
    module(torch.ones(2, 4, dtype=dtype)).square().sum().backward()
    learner.learn(0, 10)
    return module.weight.detach()


def test_master_weights_move_by_less_than_bfloat16_can_tell():
    moved = ones_after_one_step(torch.float32)
    assert torch.allclose(moved, torch.full_like(moved, 1 - SMALL), atol=1e-6)


def test_broken_twin_with_bfloat16_weights_stands_still():
    assert torch.equal(ones_after_one_step(torch.bfloat16), torch.ones(4, 4, dtype=torch.bfloat16))


@pytest.mark.parametrize("kind", KINDS)
def test_under_bf16_everything_that_learns_stays_float32_and_moves(kind):
    config = replace(TINY_STEPS, batch_size=2)
    stage, source = make_stage(kind, config)
    before = {name: {key: value.clone() for key, value in learner.module.state_dict().items()} for name, learner in stage.learners.items()}
    one_update(stage, source, loop_plan(Path("nowhere"), config, "bf16"), ALONE, 1)
    for name in stage.turns(1):
        learner = stage.learners[name]
        assert {value.dtype for value in learner.tensors().values()} == {torch.float32}
        named = learner.module.named_parameters()
        still = [key for key, value in named if torch.equal(value, before[name][key]) and value.grad.abs().max() > 1e-6]
        assert still == [], f"{kind}/{name}"
        assert all(value.grad is not None for value in learner.module.parameters()), "a rollout without gradient must not switch it off"


def test_bf16_computes_in_bf16_but_follows_the_same_gradient():
    found = {}
    for precision in ("fp32", "bf16"):
        stage, source = make_stage("matching", replace(UPDATE, clip_norm=1e9))
        one_update(stage, source, loop_plan(Path("nowhere"), stage.config.update, precision), ALONE, 1)
        found[precision] = torch.cat([value.grad.flatten() for value in stage.learners["model"].module.parameters()])
    assert not torch.equal(found["fp32"], found["bf16"])
    assert torch.cosine_similarity(found["fp32"], found["bf16"], dim=0) > 0.9


CONFIGS = st.builds(
    lambda warmup, cooldown: replace(UPDATE, warmup=warmup, cooldown=cooldown), st.integers(0, 40), st.sampled_from([0.0, 0.1, 0.5, 1.0])
)


@settings(max_examples=60)
@given(CONFIGS, st.integers(1, 200))
def test_the_rate_rises_in_a_line_stays_and_falls_in_a_line(config, total):
    rates = [schedule(update, total, config) for update in range(total)]
    assert all(0 < rate <= 1 for rate in rates)
    warm, tail = max(1, config.warmup), config.cooldown * total
    for update, rate in enumerate(rates):
        if update >= warm - 1 and total - update >= tail:
            assert rate == pytest.approx(1)
        if update < warm and (total - update >= tail or not tail):
            assert rate == pytest.approx((update + 1) / warm)
        if update >= warm - 1 and 1 <= total - update < tail:
            assert rate == pytest.approx(0.05 + 0.95 * (total - update) / tail)


def test_the_rate_in_figures():
    config = replace(UPDATE, warmup=4, cooldown=0.2)
    rates = [schedule(update, 20, config) for update in range(20)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[15:] == pytest.approx([1.0, 1.0, 0.7625, 0.525, 0.2875])


def rates_of(name: str, updates: int) -> list[float]:
    """The learning rates that a learner of matching used, in its own updates, as shares of its highest."""
    config = replace(UPDATE, updates=updates, warmup=2, cooldown=0.5, batch_size=1)
    stage, source = make_stage("matching", config)
    learner, rates = stage.learners[name], []
    for update in range(updates):
        one_update(stage, source, loop_plan(Path("nowhere"), config), ALONE, update)
        if name in stage.turns(update):
            rates.append(learner.optimiser.param_groups[0]["lr"] / learner.learning_rate)
    return rates


def test_a_learner_that_learns_in_every_second_update_cools_down_too():
    config = replace(UPDATE, warmup=2, cooldown=0.5)
    assert rates_of("critic", 8) == pytest.approx([schedule(update, 8, config) for update in range(8)])
    assert rates_of("model", 8) == pytest.approx([schedule(update, 8, config) for update in (1, 3, 5, 7)])


def weights_around(learner: Learner) -> tuple[torch.Tensor, torch.Tensor]:
    return learner.module.weight.detach().clone(), learner.average.weight.detach().clone()


def learn_once(learner: Learner, update: int) -> None:
    learner.optimiser.zero_grad()
    learner.module(torch.ones(1, 3)).sum().backward()
    learner.learn(update, 10)


def test_the_average_follows_from_the_first_update_on():
    learner = make_learner(nn.Linear(3, 3), TINY_STEPS, decay=0.75)
    _, average = weights_around(learner)
    for update in range(3):
        learn_once(learner, update)
        weight, after = weights_around(learner)
        assert torch.allclose(after, 0.75 * average + 0.25 * weight, atol=1e-7) and not torch.equal(after, weight)
        average = after


def test_before_average_from_the_average_is_the_weights_themselves():
    learner = make_learner(nn.Linear(3, 3), TINY_STEPS, decay=0.75, average_from=2)
    for update in range(3):
        learn_once(learner, update)
        assert torch.equal(*weights_around(learner)) == (update < 2)


def test_clipping_bounds_the_gradient_and_the_norm_before_it_is_told():
    learner = make_learner(nn.Linear(3, 3), replace(TINY_STEPS, clip_norm=0.5))
    (100 * learner.module(torch.ones(1, 3)).sum()).backward()
    told = learner.learn(0, 10)
    assert told > 100
    assert float(torch.cat([value.grad.flatten() for value in learner.module.parameters()]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_an_infinite_gradient_is_an_error_and_moves_nothing():
    learner = make_learner(nn.Linear(3, 3), TINY_STEPS)
    before = weights_around(learner)
    (float("inf") * learner.module(torch.ones(1, 3)).sum()).backward()
    with pytest.raises(ConfigError, match="Lower the learning rate, or check the data"):
        learner.learn(0, 10)
    assert all(map(torch.equal, before, weights_around(learner)))


def test_biases_and_gains_are_not_decayed():
    learner = make_learner(nn.Linear(3, 3), TINY_STEPS)
    by_decay = {
        group["weight_decay"]: [tuple(value.shape) for value in group["params"]]
        for group in make_learner(nn.Linear(3, 3), replace(TINY_STEPS, weight_decay=0.1)).optimiser.param_groups
    }
    assert by_decay == {0.1: [(3, 3)], 0.0: [(3,)]}
    assert learner.average is not learner.module and not any(value.requires_grad for value in learner.average.parameters())


def test_auto_precision_follows_the_processor(monkeypatch):
    for capability, wide in (("avx512_bf16", True), ("amx_bf16", True), ("avx2", False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=capability: {name: True}, raising=False)
        assert computes_bf16(CPU) is wide
        with precision_context("auto", CPU):
            assert torch.is_autocast_enabled("cpu") is wide
        with precision_context("fp32", CPU):
            assert not torch.is_autocast_enabled("cpu")


def places(stage) -> list[set[int]]:
    """Where the weights of each model lie: learners' and their averages'."""
    models = [model for learner in stage.learners.values() for model in (learner.module, learner.average)]
    return [{parameter.data_ptr() for parameter in model.parameters()} for model in models]


def test_copies_share_weights_where_they_are_cut_afterwards_and_nowhere_else():
    apart = places(make_stage("matching")[0])
    assert len(set.union(*apart)) == sum(map(len, apart))
    with copies_share_weights(True):
        stage, _ = make_stage("matching")
    assert places(stage) == [places(stage)[0]] * 2 + [places(stage)[2]] * 2, "critic and student began from two models"
    assert len({id(weight) for learner in stage.learners.values() for weight in learner.module.parameters()}) == 2 * len(places(stage)[0])
    with copies_share_weights(True):
        codec, _ = make_stage("codec")
    assert len(set.union(*places(codec))) == sum(map(len, places(codec))), "codecs are not cut"
    later = places(make_stage("consistency")[0])
    assert len(set.union(*later)) == sum(map(len, later))
