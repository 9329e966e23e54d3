"""Adapters of others: in every layout the merged weights are those of the adapted model, and what does not fit is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes import scatter_parameters, tiny_codec, tiny_manifest
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.core.files import read_json, write_json
from mutoscope.core.streams import stream
from mutoscope.models.checkpoint import freeze, save_checkpoint
from mutoscope.models.lora import adapted, merged_tensors
from mutoscope.models.lora_config import LoraConfig
from mutoscope.models.lora_files import export_adapter
from mutoscope.models.lora_in import FILES, HEAD, merged, read_adapter
from mutoscope.models.transformer import VideoTransformer
from mutoscope.models.wan_keys import from_diffusers
from wan_fakes import CONFIG

RANK, ALPHA = 2, 5.0
LAYOUTS = ("diffusers", "diffusers with alpha", "peft", "peft with alpha", "peft's file alone", "original", "flat", "torch file")
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Tensors, Tensors, Path]:
    """Weights of a tiny Wan, those with an adapter in them, and the adapter's folder as we export it."""
    folder = tmp_path_factory.mktemp("adapter")
    base = VideoTransformer(CONFIG).initialise(stream(0, "tiny wan"))
    scatter_parameters(base, 4)
    model = freeze(adapted(base, LoraConfig(RANK, ALPHA), 0))
    scatter_parameters(model, 5)
    own = {name: value.clone() for name, value in model.state_dict().items() if ".lora_" not in name}
    save_checkpoint(folder / "adapted", tiny_manifest(model=CONFIG), model=None, average=model, codec=tiny_codec(), starts=None)
    export_adapter(folder / "adapted", folder / "adapter")
    return own, merged_tensors(model), folder / "adapter"


def factors(folder: Path) -> Tensors:
    """`blocks.0.self_attn.q` + `.lora_A` or `.lora_B`, alpha being the rank."""
    found = load_file(folder / "pytorch_lora_weights.safetensors")
    parts = {name.removeprefix("transformer.").removesuffix(".weight").rpartition(".")[::2]: value for name, value in found.items()}
    return {f"{from_diffusers(f'{layer}.weight').removesuffix('.weight')}.{end}": value for (layer, end), value in parts.items()}


def written(layout: str, folder: Path, target: Path) -> Path:
    """The adapter in a layout; where alpha stands beside the factors, B is divided by what it stands for."""
    if layout == "diffusers":
        return folder
    if layout == "peft":
        return folder / "peft"
    if layout == "diffusers with alpha":
        halved = {name: value / 2 if ".lora_B." in name else value for name, value in load_file(folder / FILES[0]).items()}
        save_file(
            halved, target.with_suffix(".safetensors"), {HEAD: json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 2 * RANK})}
        )
        return target.with_suffix(".safetensors")
    if layout in ("peft with alpha", "peft's file alone"):
        target.mkdir()
        halved = {
            name: value / 2 if ".lora_B." in name else value
            for name, value in load_file(folder / "peft" / "adapter_model.safetensors").items()
        }
        save_file(halved, target / "adapter_model.safetensors")
        write_json(
            target / "adapter_config.json", {**read_json(folder / "peft" / "adapter_config.json", CheckpointError), "lora_alpha": 2 * RANK}
        )
        return target / FILES[1] if layout == "peft's file alone" else target
    tensors = {}
    for name, value in factors(folder).items():
        layer, end = name.rsplit(".", 1)
        key = f"lora_unet_{layer.replace('.', '_')}" if layout == "flat" else f"diffusion_model.{layer}"
        tensors[f"{key}.lora_{'down' if end == 'lora_A' else 'up'}.weight"] = value if end == "lora_A" else value / 4
        tensors[f"{key}.alpha"] = torch.tensor(4.0 * RANK)
    file = target.with_suffix(".pt" if layout == "torch file" else ".safetensors")
    torch.save(tensors, file) if layout == "torch file" else save_file(tensors, file)
    return file


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_adapted_weights(layout, made, tmp_path):
    own, expected, folder = made
    path = written(layout, folder, tmp_path / "adapter")
    found = merged(own, read_adapter(path, 1.0))
    assert found.keys() == expected.keys()
    changed = [name for name in found if not torch.equal(found[name], own[name])]
    assert len(changed) == len(factors(folder)) // 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


def test_half_as_strong_is_half_way_and_types_stay(made):
    own, expected, folder = made
    half = merged(own, read_adapter(folder, 0.5))
    name = "blocks.0.self_attn.q.weight"
    torch.testing.assert_close(half[name], (own[name] + expected[name]) / 2, rtol=1e-5, atol=1e-6)
    narrow = merged({name: value.bfloat16() for name, value in own.items()}, read_adapter(folder, 1.0))
    assert {value.dtype for value in narrow.values()} == {torch.bfloat16}
    assert not torch.equal(narrow[name], own[name].bfloat16())


def broken(folder: Path, target: Path, **changes: torch.Tensor | None) -> Path:
    tensors = load_file(folder / "pytorch_lora_weights.safetensors") | {name: value for name, value in changes.items() if value is not None}
    save_file({name: value for name, value in tensors.items() if name not in changes or changes[name] is not None}, target)
    return target


def test_alphas_of_their_own_are_refused(made, tmp_path):
    _, _, folder = made
    path = written("peft with alpha", folder, tmp_path / "adapter")
    config = read_json(path / "adapter_config.json", CheckpointError)
    write_json(path / "adapter_config.json", {**config, "alpha_pattern": {"blocks.0.attn1.to_q": 3}})
    with pytest.raises(CheckpointError, match="an alpha of their own"):
        read_adapter(path, 1.0)
    (path / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        read_adapter(path / FILES[1], 1.0)
    save_file(factors(folder), tmp_path / "head.safetensors", {HEAD: "[]"})
    with pytest.raises(CheckpointError, match="is no table"):
        read_adapter(tmp_path / "head.safetensors", 1.0)


FIRST = "transformer.blocks.0.attn1.to_q.lora_A.weight"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({FIRST: None}, "blocks.0.self_attn.q.weight lacks the factor down"),
        ({FIRST: torch.zeros(RANK, 3)}, r"its factors \(\d+, 2\) and \(2, 3\)"),
        ({FIRST: torch.full((RANK, CONFIG.dim), float("nan"))}, "blocks.0.self_attn.q.weight are not finite"),
        ({"transformer.blocks.9.attn1.to_q.lora_A.weight": torch.zeros(1)}, "blocks.9.attn1.to_q.lora_A.weight belongs to none"),
        ({"transformer.blocks.0.attn1.to_q.diff_b": torch.zeros(1)}, "to_q.diff_b belongs to none of its layers; factors end in"),
        ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(1)}, "holds the factors of blocks.0.self_attn.q.weight twice"),
    ],
)
def test_what_does_not_fit_is_named(changes, words, made, tmp_path):
    own, _, folder = made
    with pytest.raises(CheckpointError, match=words):
        merged(own, read_adapter(broken(folder, tmp_path / "broken.safetensors", **changes), 1.0))


def test_strengths_and_folders_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="between -10 and 10, got 11"):
        read_adapter(tmp_path, 11.0)
    with pytest.raises(CheckpointError, match="holds none of pytorch_lora_weights.safetensors"):
        read_adapter(tmp_path, 1.0)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_adapter(tmp_path / "none.safetensors", 1.0)
