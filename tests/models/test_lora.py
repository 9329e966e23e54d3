"""Adapters: merged equals applied, nothing but they learns, and one set of weights is in memory once."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fakes import tiny_codec, tiny_conditions, tiny_config, tiny_latents, tiny_manifest, tiny_model
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.streams import normal, stream
from mutoscope.models.checkpoint import freeze, load_checkpoint, save_checkpoint
from mutoscope.models.denoise import bidirectional
from mutoscope.models.lora import (
    Adapter,
    LoraLinear,
    adapted,
    adapter_of,
    learns_with_adapter,
    lora_layers,
    merged_tensors,
    share_weights,
    sharing_copy,
    taken_apart,
)
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.transformer import VideoTransformer

TEXT = tiny_config(text_dim=6)
CONFIGS = {
    "all": LoraConfig(2, 3.0),
    "attention": LoraConfig(3, 3.0, ("self_attn.q", "cross_attn.v")),
    "whole modules": LoraConfig(1, 2.0, ("ffn.2",), ("action_embedding", "head.modulation")),
}


def velocity(model: VideoTransformer) -> Tensor:
    conditions = replace(tiny_conditions(3), text=normal((2, 4, 6), stream(0, "text"), torch.float64))
    return bidirectional(model, tiny_latents(3), torch.full((2, 3), 0.5, dtype=torch.float64), conditions)


def moved(config: LoraConfig, seed: int = 0) -> VideoTransformer:
    """An adapted model whose adapter is not at its start, where B is zero."""
    model = adapted(freeze(tiny_model(TEXT)), config, seed)
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if learns_with_adapter(name, config):
                parameter.add_(0.3 * normal(tuple(parameter.shape), stream(seed, "moved", index), torch.float64))
    return freeze(model)


def plain(tensors: dict[str, Tensor]) -> VideoTransformer:
    model = tiny_model(TEXT, seed=9)
    model.load_state_dict(tensors)
    return freeze(model)


@pytest.mark.parametrize("name", CONFIGS)
def test_merged_equals_applied(name):
    model = moved(CONFIGS[name])
    assert torch.allclose(velocity(plain(merged_tensors(model))), velocity(model), rtol=1e-12, atol=1e-12)


def test_broken_twin_that_forgets_the_scale_when_merging_is_found(monkeypatch):
    model = moved(CONFIGS["all"])
    monkeypatch.setattr(LoraLinear, "difference", lambda layer: layer.lora_B.weight @ layer.lora_A.weight)
    assert not torch.allclose(velocity(plain(merged_tensors(model))), velocity(model), rtol=1e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_fresh_adapter_changes_no_bit_and_shares_every_weight(name):
    base = freeze(tiny_model(TEXT))
    model = adapted(base, CONFIGS[name], seed=0)
    assert torch.equal(velocity(model), velocity(base))
    shared = {each.data_ptr() for each in base.parameters()}
    own = {key for key, value in model.named_parameters() if value.data_ptr() not in shared}
    assert own == {key for key, _ in model.named_parameters() if learns_with_adapter(key, CONFIGS[name])}
    assert not any(isinstance(layer, LoraLinear) for layer in base.modules())


def test_adapters_are_on_the_named_layers_alone_and_begin_by_the_seed():
    model = moved(CONFIGS["attention"])
    assert [name for name, _ in lora_layers(model)] == [f"blocks.{n}.{part}" for n in (0, 1) for part in ("self_attn.q", "cross_attn.v")]
    first, again, other = (adapted(tiny_model(TEXT), CONFIGS["all"], seed).blocks[0].self_attn.q.lora_A.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_merged_is_taken_apart_again(name):
    model = moved(CONFIGS[name])
    merged, adapter = plain(merged_tensors(model)), adapter_of(model)
    apart = taken_apart(merged, adapter)
    assert torch.allclose(velocity(apart), velocity(model), rtol=1e-12, atol=1e-12)
    assert torch.equal(velocity(merged), velocity(plain(merged_tensors(model)))), "the merged one keeps its weights"


def test_models_that_stand_on_the_same_weights_share_them():
    teacher, model = freeze(tiny_model(TEXT)), moved(CONFIGS["whole modules"])
    apart = taken_apart(plain(merged_tensors(model)), adapter_of(model))
    before = velocity(apart)
    assert share_weights(apart, teacher)
    assert torch.allclose(velocity(apart), before, rtol=1e-12, atol=1e-12)
    owned = {value.data_ptr() for value in teacher.parameters()}
    own = [name for name, value in apart.named_parameters() if value.data_ptr() not in owned]
    assert own and all(learns_with_adapter(name, CONFIGS["whole modules"]) for name in own)


def test_models_that_stand_on_others_do_not():
    model, other = moved(CONFIGS["all"]), freeze(tiny_model(TEXT, seed=5))
    before = velocity(model)
    assert not share_weights(model, other)
    assert torch.equal(velocity(model), before)


def test_a_sharing_copy_keeps_its_own_adapter():
    model = moved(CONFIGS["all"])
    copy = sharing_copy(model, lambda name: learns_with_adapter(name, CONFIGS["all"]))
    with torch.no_grad():
        copy.blocks[0].self_attn.q.lora_B.weight.zero_()
    assert not torch.equal(velocity(copy), velocity(model))
    assert copy.blocks[0].self_attn.q.weight.data_ptr() == model.blocks[0].self_attn.q.weight.data_ptr()


def test_a_checkpoint_has_the_adapter_merged_and_beside_it(tmp_path):
    model = freeze(moved(CONFIGS["whole modules"]).float())
    manifest = tiny_manifest(model=TEXT)
    save_checkpoint(tmp_path, manifest, model=model, average=model, codec=tiny_codec(), starts=None)
    loaded = load_checkpoint(tmp_path)
    assert loaded.manifest.adapters == ("lora rank=1 alpha=2 targets=ffn.2 whole=action_embedding,head.modulation",)
    assert all(torch.equal(value, loaded.model.state_dict()[name]) for name, value in merged_tensors(model).items())
    assert loaded.adapter.config == CONFIGS["whole modules"]
    assert all(torch.equal(value, loaded.adapter.tensors[name]) for name, value in adapter_of(model).tensors.items())
    save_checkpoint(tmp_path, manifest, model=None, average=tiny_model(TEXT).float(), codec=tiny_codec(), starts=None)
    again = load_checkpoint(tmp_path)
    assert again.adapter is None and again.manifest.adapters == ()


def test_what_cannot_be_adapted_is_named():
    model = tiny_model(TEXT)
    with pytest.raises(ConfigError, match="none of self_attn.w; the linear layers of its blocks are .*self_attn.q"):
        adapted(model, LoraConfig(2, 2.0, ("self_attn.w",)), 0)
    with pytest.raises(ConfigError, match="none of camera; .* its modules .*action_embedding"):
        adapted(model, LoraConfig(2, 2.0, whole=("camera",)), 0)
    with pytest.raises(ConfigError, match="rank of at least 1"):
        LoraConfig(0, 1.0)
    with pytest.raises(ConfigError, match="targets"):
        LoraConfig(1, 1.0, ())
    with pytest.raises(CheckpointError, match="does not fit its model: missing blocks.0.cross_attn.k.lora_A.weight"):
        taken_apart(freeze(model), Adapter(CONFIGS["all"], {}))
