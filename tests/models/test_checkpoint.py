"""Checkpoints: the same after saving, and refused in words when anything about them is wrong."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fakes import POLICIES, scatter_parameters, tiny_checkpoint, tiny_codec, tiny_manifest, tiny_model
from mutoscope.core.errors import CheckpointError
from mutoscope.models.checkpoint import export_checkpoint, load_checkpoint, load_codec, load_model, read_manifest, save_checkpoint
from mutoscope.rollout.session import Session, SessionConfig


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved checkpoint whose average differs from its raw weights."""
    checkpoint = tiny_checkpoint()
    raw = tiny_model(seed=1).float()
    path = tmp_path / "checkpoint"
    save_checkpoint(path, checkpoint.manifest, model=raw, average=checkpoint.model, codec=checkpoint.codec, starts=checkpoint.starts)
    return path


def equal_weights(first: nn.Module, second: nn.Module) -> bool:
    """Every tensor bit for bit."""
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_what_is_saved_is_loaded(saved):
    expected, loaded = tiny_checkpoint(), load_checkpoint(saved)
    assert loaded.manifest == expected.manifest
    assert equal_weights(loaded.model, expected.model) and equal_weights(loaded.codec, expected.codec)
    assert all(map(torch.equal, vars(loaded.starts).values(), vars(expected.starts).values()))
    assert not loaded.model.training and not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert len(loaded.hash) == 16


def test_the_average_is_what_is_loaded(saved):
    """The trap: raw weights played in place of their average."""
    loaded = load_checkpoint(saved).model.state_dict()
    average, raw = load_file(saved / "average.safetensors"), load_file(saved / "model.safetensors")
    assert all(torch.equal(loaded[name], average[name]) for name in average)
    assert not any(torch.equal(average[name], raw[name]) for name in average)


def test_the_hash_names_the_weights(saved):
    before = load_checkpoint(saved).hash
    model = load_checkpoint(saved).model
    scatter_parameters(model, 3)
    save_checkpoint(saved, tiny_manifest(), model=None, average=model, codec=tiny_codec(), starts=None)
    assert load_checkpoint(saved).hash != before
    assert load_checkpoint(saved).starts is None


def test_a_codec_alone_is_a_checkpoint_that_cannot_be_played(tmp_path):
    manifest = replace(tiny_manifest("codec"), model=None, memory=None)
    save_checkpoint(tmp_path, manifest, model=None, average=None, codec=tiny_codec(), starts=None)
    loaded, codec = load_codec(tmp_path)
    assert loaded == manifest and equal_weights(codec, tiny_codec())
    with pytest.raises(CheckpointError, match="'codec' checkpoint and holds no video model"):
        load_checkpoint(tmp_path)


def cut_off(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["average.safetensors", "codec.safetensors", "starts.safetensors"])
@pytest.mark.parametrize("damage", [cut_off, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"not weights at all")])
def test_broken_files_are_named(saved, name, damage):
    damage(saved / name)
    with pytest.raises(CheckpointError, match=f"{name} is corrupt"):
        load_checkpoint(saved)


@pytest.mark.parametrize("name", ["average.safetensors", "codec.safetensors", "manifest.json"])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} does not exist"):
        load_checkpoint(saved)


def rename_bias(tensors: dict[str, Tensor]) -> None:
    tensors["head.head.prejudice"] = tensors.pop("head.head.bias")


def transpose_ffn(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.0.ffn.0.weight"] = tensors["blocks.0.ffn.0.weight"].T.contiguous()


def plant_nan(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.self_attn.q.weight"][3, 4] = torch.nan


def lose_a_block(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith("blocks.1.")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_bias, r"missing head\.head\.bias; unexpected head\.head\.prejudice"),
        (transpose_ffn, r"blocks\.0\.ffn\.0\.weight is \(24, 32\), needed \(32, 24\)"),
        (plant_nan, r"blocks\.1\.self_attn\.q\.weight holds NaN"),
        (lose_a_block, r"missing blocks\.1\..* and 7 more"),
    ],
)
def test_weights_that_do_not_fit_are_named(saved, change: Callable, message):
    tensors = load_file(saved / "average.safetensors")
    change(tensors)
    save_file(tensors, saved / "average.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "has checkpoint format 2; this version of mutoscope reads format 1"),
        ({"colour": "red"}, "manifest has unknown keys colour"),
        ({"stage": "later"}, "manifest.stage is 'later'; allowed"),
        ({"chunk_frames": "three"}, "manifest.chunk_frames is 'three'"),
        ({"world": None}, "manifest.world is None"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(saved, changes, message):
    plain = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(plain | changes))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_manifests_that_are_no_table_or_lack_a_field_are_refused(saved):
    plain = json.loads((saved / "manifest.json").read_text())
    del plain["shift"]
    for text, message in ((json.dumps(plain), "manifest lacks shift"), ("[]", "checkpoint format None"), ('{"format', "not valid JSON")):
        (saved / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_manifest(saved)
    with pytest.raises(CheckpointError, match="is not a checkpoint folder"):
        read_manifest(saved / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("known"),
        lambda tensors: tensors.update(frames=tensors["frames"][:, :, :8].contiguous()),
        lambda tensors: tensors.update(actions=tensors["actions"][..., :2].contiguous()),
        lambda tensors: tensors.update(known=tensors["known"][:, :1].contiguous()),
        lambda tensors: tensors.update(seeds=tensors["seeds"][:1].contiguous()),
        lambda tensors: tensors.update(ways=tensors["ways"][:, :, :1].contiguous()),
        lambda tensors: tensors.update({name: tensor[:0].contiguous() for name, tensor in tensors.items()}),
    ],
    ids=["missing", "other pictures", "other actions", "too few", "seeds", "ways", "none"],
)
def test_start_clips_of_another_world_are_refused(saved, change):
    tensors = load_file(saved / "starts.safetensors")
    change(tensors)
    save_file(tensors, saved / "starts.safetensors")
    with pytest.raises(CheckpointError, match="start clips of this world are"):
        load_checkpoint(saved)


def test_a_start_clip_cannot_lie_further_than_its_way(saved):
    tensors = load_file(saved / "starts.safetensors")
    tensors["way_frames"] += 1
    save_file(tensors, saved / "starts.safetensors")
    with pytest.raises(CheckpointError, match="the ways have 0 actions"):
        load_checkpoint(saved)


def test_a_save_that_is_interrupted_leaves_no_manifest(saved, monkeypatch):
    def full_disk(path: Path, data: bytes) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("mutoscope.models.checkpoint.write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(saved, tiny_manifest(), model=None, average=tiny_model().float(), codec=tiny_codec(), starts=None)
    with pytest.raises(CheckpointError, match=r"manifest\.json does not exist"):
        load_checkpoint(saved)


def test_exports_are_half_as_large_and_play_the_same(saved, tmp_path):
    target = tmp_path / "shipped"
    export_checkpoint(saved, target)
    assert not (target / "model.safetensors").exists()
    assert {tensor.dtype for tensor in load_file(target / "average.safetensors").values()} == {torch.float16}
    assert (target / "average.safetensors").stat().st_size < 0.65 * (saved / "average.safetensors").stat().st_size
    original, shipped = load_checkpoint(saved), load_checkpoint(target)
    assert shipped.manifest == original.manifest
    for name, value in original.model.state_dict().items():
        assert torch.equal(shipped.model.state_dict()[name], value.half().float())
    frames = []
    for checkpoint in (original, shipped):
        session = Session(checkpoint, SessionConfig(2, 4, POLICIES["window"]))
        session.reset(1, 0)
        frames.append(session.step(torch.ones(3).numpy()).astype(int))
    assert abs(frames[0] - frames[1]).mean() < 3


def test_a_checkpoint_is_not_exported_onto_itself(saved):
    with pytest.raises(CheckpointError, match="onto itself"):
        export_checkpoint(saved, saved.parent / "checkpoint")
    assert load_checkpoint(saved).starts is not None


def file_of(tensor: Tensor) -> str:
    """The file in which a tensor lies, nothing for memory that is no file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, last = line.split()
        first, end = (int(edge, 16) for edge in place.split("-"))
        if first <= tensor.data_ptr() < end:
            return last if last.startswith("/") else ""
    raise AssertionError(f"{tensor.data_ptr():x} lies nowhere")


@pytest.mark.parametrize("mapped", [True, False])
def test_mapped_weights_lie_in_their_file_and_are_never_written_into_it(saved, mapped):
    loaded, file = load_model(saved, mapped=mapped)[1], saved / "average.safetensors"
    before, weights = file.read_bytes(), list(loaded.parameters())
    assert {file_of(weight) for weight in weights} == {str(file) if mapped else ""}
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in load_file(file).items())
    with torch.no_grad():
        for weight in weights:
            weight.zero_()
    assert file.read_bytes() == before
