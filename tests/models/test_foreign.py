"""Weight files of others: every layout is read, and what is broken, unsafe or incomplete is named and not read."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from mutoscope.core.errors import CheckpointError
from mutoscope.models.foreign import read_foreign
from wan_fakes import prefixed, same_bits, wan_tensors, write_diffusers, write_original, write_training

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([float("nan"), -0.0, 1e-42]), "b": torch.ones(2).bfloat16()}


def test_shards_are_one_model(tmp_path):
    whole = read_foreign(write_diffusers(tmp_path / "whole", wan_tensors()))
    shards = read_foreign(write_diffusers(tmp_path / "shards", wan_tensors(), shards=3))
    assert same_bits(whole.tensors, shards.tensors) and len(shards.tensors) == len(wan_tensors())
    assert whole.config == shards.config and shards.config["num_layers"] == 3 and shards.part == ""


def test_a_pipeline_folder_is_entered(tmp_path):
    write_diffusers(tmp_path / "pipeline" / "transformer", wan_tensors())
    assert read_foreign(tmp_path / "pipeline").source == tmp_path / "pipeline" / "transformer"


def test_a_file_alone_has_no_config(tmp_path):
    folder = write_original(tmp_path / "wan", wan_tensors())
    alone = read_foreign(folder / "diffusion_pytorch_model.safetensors")
    assert alone.config is None and same_bits(alone.tensors, read_foreign(folder).tensors) and same_bits(alone.tensors, wan_tensors())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_torch_files_keep_every_bit(tmp_path, zipped):
    torch.save(OrderedDict(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same_bits(read_foreign(tmp_path / "a.pth").tensors, TENSORS)


def test_the_average_is_taken_first_and_any_part_when_asked(tmp_path):
    parts = {name: prefixed(TENSORS, f"{name}.") for name in ("generator", "critic", "generator_ema", "model")}
    path = write_training(tmp_path / "a.pt", **parts, step=600)
    first = read_foreign(path)
    assert first.part == "generator_ema" and same_bits(first.tensors, parts["generator_ema"])
    for part in ("generator", "model"):
        asked = read_foreign(path, part)
        assert asked.part == part and same_bits(asked.tensors, parts[part])
    assert read_foreign(write_training(tmp_path / "b.pt", critic=parts["critic"], generator=parts["generator"])).part == "generator"
    assert read_foreign(write_training(tmp_path / "c.pt", model=parts["model"])).part == "model"


@pytest.mark.parametrize(
    ("parts", "part", "message"),
    [
        ({"generator": TENSORS}, "generator_ema", "no part 'generator_ema'; it has: generator"),
        ({"a": TENSORS["a.weight"]}, "generator", "has: none, it is one model"),
        ({"critic": TENSORS, "step": 3}, "", "holds what is no tensor: critic, step; known entries .* generator_ema, generator, model"),
        ({"generator": {**TENSORS, "_extra_state": None}}, "", r"\(generator\) holds what is no tensor: _extra_state"),
    ],
)
def test_parts_that_are_not_there_are_named(tmp_path, parts, part, message):
    with pytest.raises(CheckpointError, match=message):
        read_foreign(write_training(tmp_path / "a.pt", **parts), part)


class Harmful:
    """A pickle that makes a file when it is loaded, if anyone lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, zipped):
    torch.save({"model": TENSORS, "hook": Harmful(tmp_path / "was here")}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="more than tensors and plain values|no file of torch.save"):
        read_foreign(tmp_path / "a.pt")
    assert not (tmp_path / "was here").exists()
    function, arguments = Harmful(tmp_path / "was here").__reduce__()
    function(*arguments)
    assert (tmp_path / "was here").exists(), "what the file would have run does leave a trace"


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [halved, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"not weights at all")])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_broken_files_are_named(tmp_path, name, damage):
    path = tmp_path / name
    if name.endswith("pt"):
        write_training(path, generator=wan_tensors())
    else:
        write_original(tmp_path / "wan", wan_tensors()).joinpath("diffusion_pytorch_model.safetensors").rename(path)
    damage(path)
    with pytest.raises(CheckpointError, match=f"{name} is corrupt.*download it again"):
        read_foreign(path)


def test_a_torch_file_of_something_else_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds a list; needed: a dictionary of tensors"):
        read_foreign(tmp_path / "a.pt")


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_a_shard(folder: Path) -> None:
    (folder / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()


def without_weights(folder: Path) -> None:
    for path in folder.glob("*safetensors*"):
        path.unlink()


def with_shards_exchanged(folder: Path) -> None:
    first, second = (folder / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2))
    first.rename(folder / "third"), second.rename(first), (folder / "third").rename(second)


def with_index(places: object):
    return lambda folder: (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_config, "has no config.json; download the folder whole, or give its weight file alone"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is no table of dimensions"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not valid JSON"),
        (without_a_shard, "00002-of-00002.safetensors does not exist; its folder is not whole: copy or download it again"),
        (without_weights, "holds none of diffusion_pytorch_model.safetensors.index.json, diffusion_pytorch_model.safetensors, model"),
        (with_shards_exchanged, "00001-of-00002.safetensors is not the shard of its index: missing .*; extra "),
        (with_index({}), "has no weight_map"),
        (with_index({"a": "../elsewhere.safetensors"}), "does not lie beside it"),
    ],
)
def test_folders_that_are_not_whole_are_refused(tmp_path, change, message):
    folder = write_diffusers(tmp_path / "wan", wan_tensors(), shards=2)
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        read_foreign(folder)


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        ("nowhere", "", "does not exist; give a folder"),
        ("a.txt", "", "ends in '.txt'; weights are read from .safetensors, .pt"),
        ("a.safetensors", "model", "only training checkpoints .* have parts"),
        (".", "model", "only training checkpoints .* have parts"),
    ],
)
def test_other_places_are_refused(tmp_path, name, part, message):
    (tmp_path / "a.txt").touch(), (tmp_path / "a.safetensors").touch()
    with pytest.raises(CheckpointError, match=message):
        read_foreign(tmp_path / name, part)
