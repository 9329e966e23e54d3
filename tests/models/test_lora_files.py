"""Adapter files as diffusers and peft read them: the adapted model there gives what ours gives."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fakes import scatter_parameters, tiny_codec, tiny_config, tiny_manifest, tiny_model
from mutoscope.core.errors import CheckpointError
from mutoscope.core.streams import normal, stream
from mutoscope.models.checkpoint import freeze, save_checkpoint
from mutoscope.models.conditions import Conditions
from mutoscope.models.denoise import bidirectional
from mutoscope.models.lora import adapted, adapter_of, lora_layers
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.lora_files import export_adapter, wan_factors
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_weights import export_wan
from wan_fakes import CONFIG

LORA = LoraConfig(2, 5.0)
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
SHAPE = (1, 2, CONFIG.latent.channels, CONFIG.latent.height, CONFIG.latent.width)


def scattered(model: VideoTransformer) -> VideoTransformer:
    scatter_parameters(model, 4)
    return freeze(model)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[VideoTransformer, Path]:
    """An adapted tiny Wan, and a folder with its base for diffusers and its adapter."""
    folder = tmp_path_factory.mktemp("lora")
    base = scattered(VideoTransformer(CONFIG).initialise(stream(0, "tiny wan")))
    model = scattered(adapted(base, LORA, 0))
    for name, part in (("base", base), ("adapted", model)):
        save_checkpoint(folder / name, tiny_manifest(model=CONFIG), model=None, average=part, codec=tiny_codec(), starts=None)
    export_wan(folder / "base", folder / "transformer", weights="average", shard_bytes=2**30)
    assert export_adapter(folder / "adapted", folder / "adapter") == len(list(lora_layers(model)))
    return model, folder


def inputs() -> tuple[torch.Tensor, Conditions]:
    text = normal((1, 3, CONFIG.text_dim), stream(1, "text"))
    nothing = Conditions(
        torch.zeros(1, 2, 4, 0), torch.zeros(1, 2, dtype=torch.bool), torch.zeros(1, 2, 0, dtype=torch.float64), text, text
    )
    return normal(SHAPE, stream(1, "latents")), nothing


def error(model: VideoTransformer, theirs: torch.nn.Module) -> float:
    """Relative difference of the velocities of a clip."""
    latents, conditions = inputs()
    with torch.no_grad():
        ours = bidirectional(model, latents, torch.full(SHAPE[:2], 0.7), conditions)
        other = theirs(latents.transpose(1, 2), torch.tensor([700.0]), conditions.text, return_dict=False)[0].transpose(1, 2)
    return float((ours - other).norm() / other.norm())


def foreign(folder: Path) -> torch.nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer", local_files_only=True)


def test_diffusers_loads_it(written):
    pytest.importorskip("peft")
    model, folder = written
    theirs = foreign(folder)
    assert error(model, theirs) > 1e-2, "without the adapter it must be another model"
    theirs.load_lora_adapter(folder / "adapter", prefix="transformer", weight_name=DIFFUSERS_FILE)
    assert error(model, theirs) < 1e-4


def test_peft_loads_it(written):
    peft = pytest.importorskip("peft")
    model, folder = written
    theirs = peft.PeftModel.from_pretrained(foreign(folder), folder / "adapter" / "peft")
    assert error(model, theirs) < 1e-4


def test_broken_twin_that_leaves_the_scale_out_is_found(written, tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    model, folder = written
    monkeypatch.setattr(LoraConfig, "scale", property(lambda config: 1.0))
    export_adapter(folder / "adapted", tmp_path / "adapter")
    monkeypatch.undo()
    theirs = peft.PeftModel.from_pretrained(foreign(folder), tmp_path / "adapter" / "peft")
    assert error(model, theirs) > 1e-3


def test_the_files_have_the_names_of_wan_adapters(written):
    from safetensors.torch import load_file

    _, folder = written
    assert sorted(path.name for path in (folder / "adapter").iterdir()) == ["peft", DIFFUSERS_FILE]
    names = load_file(folder / "adapter" / DIFFUSERS_FILE).keys()
    assert {"transformer.blocks.0.attn1.to_q.lora_A.weight", "transformer.blocks.2.ffn.net.0.proj.lora_B.weight"} <= names
    assert json.loads((folder / "adapter" / "peft" / "adapter_config.json").read_text())["target_modules"][0] == "blocks.0.attn1.to_k"


def test_what_has_no_place_in_the_files_is_named(written, tmp_path):
    with pytest.raises(CheckpointError, match="has no adapter"):
        export_adapter(written[1] / "base", tmp_path / "none")
    config = replace(LORA, whole=("action_embedding",))
    with pytest.raises(CheckpointError, match="action_embedding learnt whole"):
        wan_factors(adapter_of(adapted(tiny_model(tiny_config(text_dim=4)), config, 0)))
    assert not (tmp_path / "none").exists()
