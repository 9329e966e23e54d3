"""minWM's camera-controlled checkpoints: in and out bit for bit, each key in its place, and never as another model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope.commands.import_ import imported_manifest
from mutoscope.core.errors import CheckpointError
from mutoscope.core.streams import stream
from mutoscope.models.camera_config import CAMERA_ACTIONS, CameraConfig
from mutoscope.models.checkpoint import load_model, read_manifest
from mutoscope.models.foreign import read_foreign, read_safetensors
from mutoscope.models.lora import Adapter
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.lora_files import export_adapter
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_config import original_config, read_sizes
from mutoscope.models.wan_keys import our_names
from mutoscope.models.wan_weights import export_wan, fit, import_wan, parameter_shapes, sizes_of
from mutoscope.recipes import recipe
from mutoscope.train.build import transformer_config
from wan_fakes import (
    CONFIG,
    RUN,
    SEEN,
    SEEN_RUN,
    prefixed,
    same_bits,
    sharded_names,
    wan_tensors,
    write_diffusers,
    write_original,
    write_training,
)

MANIFEST = imported_manifest(SEEN_RUN, SEEN_RUN.stage("matching-4"), 16.0)
BRANCH = "blocks.{}.self_attn.prope_o.{}"


def seen_tensors(seed: int = 0) -> dict[str, Tensor]:
    """The weights of the tiny Wan with its branch, in three types."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    return {name: tensor.to(types[index % 3]) for index, (name, tensor) in enumerate(wan_tensors(seed, config=SEEN).items())}


def minwm(path: Path, tensors: dict[str, Tensor]) -> Path:
    """As minWM writes them: an entry `model` beside a step counter."""
    return write_training(path, model=prefixed(tensors, "model._fsdp_wrapped_module."), step=10_000)


def test_the_branch_adds_a_weight_and_a_bias_to_every_block_and_nothing_else():
    own = transformer_config(recipe("wan-1.3b-camera").model, recipe("wan-1.3b-camera").codec, CAMERA_ACTIONS.dim, None)
    plain = parameter_shapes(transformer_config(recipe("wan-1.3b").model, recipe("wan-1.3b").codec, 0, None))
    added = {name: shape for name, shape in parameter_shapes(own).items() if name not in plain}
    assert added == {
        BRANCH.format(block, part): shape for block in range(30) for part, shape in (("weight", (1536, 1536)), ("bias", (1536,)))
    }
    assert plain.items() <= parameter_shapes(own).items()
    assert set(our_names(prefixed(dict.fromkeys(SEEN_NAMES), "model.")).values()) == SEEN_NAMES


SEEN_NAMES = set(parameter_shapes(SEEN))


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_it_comes_in_and_goes_out_bit_for_bit(shard_bytes, tmp_path):
    tensors = seen_tensors()
    import_wan(read_foreign(minwm(tmp_path / "model.pt", tensors)), MANIFEST, tmp_path / "checkpoint")
    assert same_bits(read_safetensors(tmp_path / "checkpoint" / "average.safetensors"), tensors)
    manifest = read_manifest(tmp_path / "checkpoint")
    assert manifest.model == SEEN and manifest.world.actions == CAMERA_ACTIONS and manifest.conditions == ("camera", "text")
    shards = export_wan(tmp_path / "checkpoint", tmp_path / "out", weights="average", shard_bytes=shard_bytes)
    assert (len(shards) > 2) == (shard_bytes < 10**9)
    out = read_foreign(tmp_path / "out")
    assert same_bits(out.tensors, tensors), "under the original names"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["_class_name"] == "WanModel"
    import_wan(out, MANIFEST, tmp_path / "again")
    assert (tmp_path / "again" / "average.safetensors").read_bytes() == (tmp_path / "checkpoint" / "average.safetensors").read_bytes()


def test_other_wrappings_and_the_loaded_model(tmp_path):
    tensors = wan_tensors(2, config=SEEN)
    path = write_training(tmp_path / "ema.pt", generator_ema=sharded_names(tensors))
    import_wan(read_foreign(path), MANIFEST, tmp_path / "checkpoint")
    _, model = load_model(tmp_path / "checkpoint")
    assert same_bits(dict(model.state_dict()), tensors) and model.config.camera == CameraConfig(move=0.5, turn=25.0)


def test_the_original_config_is_read_as_it_was_written():
    assert read_sizes(original_config(sizes_of(SEEN)), "config.json") == sizes_of(SEEN) == sizes_of(CONFIG)


def spoil(tensors: dict[str, Tensor]) -> None:
    del tensors[BRANCH.format(1, "bias")]
    tensors[BRANCH.format(2, "weight")] = tensors[BRANCH.format(2, "weight")][:, :5].clone()
    tensors["blocks.0.self_attn.prope_q.weight"] = torch.ones(1)


def test_keys_that_do_not_fit_are_all_named_and_nothing_is_written(tmp_path):
    tensors = wan_tensors(config=SEEN)
    spoil(tensors)
    words = (
        r"missing model\._fsdp_wrapped_module\.blocks\.1\.self_attn\.prope_o\.bias; "
        r"unmatched model\._fsdp_wrapped_module\.blocks\.0\.self_attn\.prope_q\.weight; "
        r"model\._fsdp_wrapped_module\.blocks\.2\.self_attn\.prope_o\.weight is \(24, 5\), needed \(24, 24\)$"
    )
    with pytest.raises(CheckpointError, match=words):
        import_wan(read_foreign(minwm(tmp_path / "model.pt", tensors)), MANIFEST, tmp_path / "out" / "checkpoint")
    assert not (tmp_path / "out").exists()


def test_a_branch_needs_a_recipe_with_a_camera_and_the_other_way_round(tmp_path):
    words = r"camera branch of minWM's checkpoints \(model\..*blocks\.\{0-2\}\.self_attn\.prope_o\.bias.*import it as wan-1.3b-camera"
    with pytest.raises(CheckpointError, match=words):
        fit(read_foreign(minwm(tmp_path / "model.pt", wan_tensors(config=SEEN))), CONFIG)
    for place in (write_original(tmp_path / "original", wan_tensors()), write_diffusers(tmp_path / "diffusers", wan_tensors())):
        with pytest.raises(CheckpointError, match=r"has no camera branch \(blocks\.\*\.self_attn\.prope_o\.\*\).* such as wan-1.3b"):
            fit(read_foreign(place), SEEN)


def test_adapters_of_a_camera_model_are_no_files_for_others(tmp_path, monkeypatch):
    import_wan(read_foreign(minwm(tmp_path / "model.pt", wan_tensors(config=SEEN))), MANIFEST, tmp_path / "checkpoint")
    monkeypatch.setattr("mutoscope.models.lora_files.load_adapter", lambda path: Adapter(LoraConfig(2, 2.0), {}))
    with pytest.raises(CheckpointError, match="has a camera branch, which no model has that diffusers or peft"):
        export_adapter(tmp_path / "checkpoint", tmp_path / "out")


def test_manifests_of_before_say_no_camera(tmp_path):
    """A manifest without the field is one without a camera, and hashes of recipes do not know of it."""
    manifest = imported_manifest(RUN, RUN.stage("bidirectional"), 16.0)
    import_wan(read_foreign(write_original(tmp_path / "wan", wan_tensors())), manifest, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "manifest.json"
    plain = json.loads(file.read_text())
    del plain["model"]["camera"]
    file.write_text(json.dumps(plain))
    assert read_manifest(tmp_path / "checkpoint").model == CONFIG


def test_a_fresh_branch_is_zero():
    model = VideoTransformer(replace(SEEN, num_layers=1)).initialise(stream(0, "fresh"))
    assert all(not bool(value.any()) for name, value in model.state_dict().items() if "prope_o" in name)
