"""Blocks computed again, numbers that wait on the host, and adapters around shared weights: the results are what they were."""

from dataclasses import replace

import pytest
import torch
from training_fakes import ALONE, CPU, RUN, UPDATE, different, everything, loop_plan, make_stage, stage_config

from fakes import tiny_codec, tiny_manifest, tiny_model
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models import attention
from mutoscope.models.checkpoint import Checkpoint, freeze
from mutoscope.models.denoise import clip_layout, encode_context
from mutoscope.models.lora import adapted, adapter_of, learns_with_adapter, merged_tensors
from mutoscope.models.lora_config import LoraConfig
from mutoscope.train import build, off_load
from mutoscope.train.arrange import arrange
from mutoscope.train.batch import ClipBatch
from mutoscope.train.config import BidirectionalStage, MatchingStage
from mutoscope.train.loop import StageRun, run_loop
from mutoscope.train.parallel import Workers
from mutoscope.train.placement import PLAIN, Placement
from mutoscope.train.recompute import recompute_blocks
from mutoscope.train.stages.matching import MatchingRun

KINDS = ("autoregressive", "consistency", "matching")
TWICE = replace(UPDATE, updates=2, batch_size=2, save_every=1)
LORA = LoraConfig(2, 3.0, whole=("action_embedding",))
ADAPTED = replace(TWICE, trains=LORA)


def train(kind: str, folder, placement: Placement = PLAIN, update=TWICE) -> StageRun:
    workers = Workers(0, 1, CPU, placement)
    stage, source = make_stage(kind, update, workers=workers, wide=True)
    run_loop(stage, source, loop_plan(folder, update), workers, lambda update: None)
    return stage


def batch_of(kind: str, update=TWICE) -> tuple[StageRun, ClipBatch]:
    stage, source = make_stage(kind, update, wide=True)
    return stage, source.batch("model", 0, 0, 1)


@pytest.mark.parametrize("kind", ["autoregressive", "matching"])
def test_recomputed_blocks_change_no_bit(kind, tmp_path):
    kept, again = train(kind, tmp_path / "kept"), train(kind, tmp_path / "again", Placement(activations="recomputed"))
    assert different(everything(kept), everything(again)) == []
    assert not any("forward" in vars(block) for block in again.learners["model"].module.blocks), (
        "a copy would compute with another's weights"
    )


def kept_numbers(placement: Placement) -> int:
    """How many numbers autograd keeps of a pass of teacher forcing."""
    stage, batch = batch_of("autoregressive")
    arrange(stage, Workers(0, 1, CPU, placement), "fp32")
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
        stage.loss("model", batch)
    return sum(sizes)


def test_recomputed_blocks_keep_little():
    assert kept_numbers(Placement(activations="recomputed")) < 0.5 * kept_numbers(PLAIN)


def layers_after_backward() -> int:
    """How many layers a context holds after a backward pass through recomputed blocks."""
    stage, batch = batch_of("autoregressive")
    model = stage.learners["model"].module
    recompute_blocks(model)
    context = encode_context(model, batch.clean, batch.conditions, clip_layout(model, RUN.memory, (1,) * 7, CPU))
    sum(part.square().sum() for layer in context.layers.values() for part in layer).backward()
    return len(context.layers)


def test_a_recomputed_block_leaves_its_keys_once():
    assert layers_after_backward() == 2


def test_broken_twin_that_collects_keys_at_every_pass_is_found(monkeypatch):
    monkeypatch.setattr(attention, "keep", lambda kept, layer, value: kept.update({len(kept): value}))
    assert layers_after_backward() > 2


class FarHost:
    """A host whose memory the device cannot read: what lies there is NaN to all who compute with it. Counts the moves."""

    def __init__(self) -> None:
        self.stored: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.moves = [0, 0]

    def to_host(self, tensor: torch.Tensor) -> torch.Tensor:
        away = torch.full_like(tensor, torch.nan)
        self.stored[id(away)] = away, tensor.clone()
        self.moves[0] += 1
        return away

    def to_device(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        self.moves[1] += 1
        return self.stored[id(tensor)][1].clone() if id(tensor) in self.stored else tensor


def with_far_host(kind: str, what: str, folder, monkeypatch, fetches: bool = True) -> tuple[StageRun, FarHost]:
    """A stage trained with something on such a host; without `fetches` the broken twin, which leaves it there."""
    host = FarHost()
    monkeypatch.setattr(off_load, "to_host", host.to_host)
    monkeypatch.setattr(off_load, "to_device", host.to_device if fetches else lambda tensor, device: tensor)
    update = replace(TWICE, save_every=2)
    workers = Workers(0, 1, CPU, Placement(off_load=(what,)))
    stage, source = make_stage(kind, update, workers=workers, wide=True)
    run_loop(stage, source, loop_plan(folder, update), workers, lambda update: None)
    return stage, host


def weights(stage: StageRun) -> dict[str, torch.Tensor]:
    return {name: value for name, value in everything(stage).items() if "/optimiser/" not in name}


WAITING = [("autoregressive", "optimiser"), ("consistency", "frozen models")]


@pytest.mark.parametrize(("kind", "what"), WAITING)
def test_what_waits_on_the_host_changes_no_bit(kind, what, tmp_path, monkeypatch):
    plain = weights(train(kind, tmp_path / "plain"))
    stage, host = with_far_host(kind, what, tmp_path / "far", monkeypatch)
    assert different(plain, weights(stage)) == []
    assert min(host.moves) > 0
    momenta = [each["exp_avg"] for each in stage.learners["model"].optimiser.state.values()]
    resting = stage.teacher.parameters() if what == "frozen models" else momenta
    assert all(tensor.isnan().all() for tensor in resting), "between uses it lies on the host"


@pytest.mark.parametrize(("kind", "what"), WAITING)
def test_broken_twin_that_computes_with_what_is_on_the_host_is_found(kind, what, tmp_path, monkeypatch):
    plain = weights(train(kind, tmp_path / "plain"))
    try:
        stage, _ = with_far_host(kind, what, tmp_path / "far", monkeypatch, fetches=False)
    except ConfigError as error:
        assert "gradient norm became nan" in str(error)
    else:
        assert different(plain, weights(stage)) != []


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_and_nothing_else(kind, tmp_path):
    before, stage = make_stage(kind, ADAPTED, wide=True)[0], train(kind, tmp_path, update=ADAPTED)
    for name, learner in stage.learners.items():
        own = dict(learner.module.named_parameters())
        still = {key for key, value in before.learners[name].module.named_parameters() if torch.equal(value, own[key])}
        frozen = {key for key in own if not learns_with_adapter(key, LORA)}
        assert still - {"action_embedding.null"} == frozen, "a student is never asked what it does without actions"
        assert {key.split("/", 1)[1] for key in learner.tensors() if key.startswith("model/")} == own.keys() - frozen
    again = make_stage(kind, ADAPTED, wide=True)
    (tmp_path / "state" / "update-00000002" / "state.json").unlink()
    run_loop(*again, loop_plan(tmp_path, ADAPTED), ALONE, lambda update: None)
    assert different(everything(stage), everything(again[0])) == []


def numbers_in_memory(*models: torch.nn.Module) -> int:
    return sum({value.data_ptr(): value.numel() for model in models for value in model.parameters()}.values())


def matching_parents() -> dict[str, Checkpoint]:
    """A plain teacher, and a student that stands on it with an adapter, which its checkpoint has merged."""
    score = freeze(tiny_model(seed=1))
    student = adapted(score, LORA, 0)
    with torch.no_grad():
        for index, (name, value) in enumerate(student.named_parameters()):
            if learns_with_adapter(name, LORA):
                value.add_(0.2 * normal(tuple(value.shape), stream(2, "student", index), torch.float64))
    merged = tiny_model(seed=1)
    merged.load_state_dict(merged_tensors(student))
    models = {"consistency": (freeze(merged), adapter_of(student)), "bidirectional": (score, None)}
    return {name: Checkpoint(None, tiny_manifest(), model, tiny_codec(), None, adapter) for name, (model, adapter) in models.items()}


def matching_stage() -> MatchingRun:
    config = stage_config("matching", ADAPTED)
    assert isinstance(config, MatchingStage)
    models = build.parent_models(config, matching_parents())
    return MatchingRun.make(RUN, config, models["consistency"], models["bidirectional"])


def test_teacher_critic_and_student_are_one_model_in_memory(monkeypatch):
    together = matching_stage()
    held = [together.teacher, *(part for each in together.learners.values() for part in (each.module, each.average))]
    base, adapter = numbers_in_memory(together.teacher), sum(value.numel() for value in together.learners["model"].parameters)
    assert numbers_in_memory(*held) == base + 4 * adapter
    monkeypatch.setattr(build, "share_weights", lambda model, other: False)
    apart = matching_stage()
    assert numbers_in_memory(apart.teacher, *(each.module for each in apart.learners.values())) > 1.9 * base
    source = make_stage("matching", ADAPTED, wide=True)[1]
    for turn in ("critic", "model"):
        losses = [stage.loss(turn, source.batch(turn, 1, 0, 1, stage.clips(turn, 1)))[0].detach() for stage in (together, apart)]
        assert torch.allclose(*losses, rtol=1e-9)


def test_a_student_that_stands_on_other_weights_keeps_them():
    parents = matching_parents()
    parents["bidirectional"] = replace(parents["bidirectional"], model=freeze(tiny_model(seed=5)))
    config = stage_config("matching", ADAPTED)
    models = build.parent_models(config, parents)
    assert numbers_in_memory(*models.values()) > 1.9 * numbers_in_memory(models["bidirectional"])


def test_a_stage_from_fresh_weights_has_nothing_to_adapt():
    with pytest.raises(ConfigError, match="'teacher' starts from fresh weights"):
        BidirectionalStage("teacher", ADAPTED)
