"""Wan weights in and out: every published layout gives the same model, and what comes out is bit for bit what went in."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fakes import tiny_config
from mutoscope.commands.import_ import imported_manifest
from mutoscope.core.errors import CheckpointError, MutoscopeError
from mutoscope.core.files import hash_file
from mutoscope.memory.kinds import LinearState
from mutoscope.models import wan_weights
from mutoscope.models.checkpoint import load_checkpoint, load_model, read_manifest
from mutoscope.models.foreign import read_foreign, read_safetensors
from mutoscope.models.wan_keys import to_diffusers
from mutoscope.models.wan_weights import export_wan, fit, import_wan, plan_shards, sizes_of
from wan_fakes import (
    CONFIG,
    RUN,
    prefixed,
    same_bits,
    sharded_names,
    wan_tensors,
    write_diffusers,
    write_original,
    write_training,
)

MANIFEST = imported_manifest(RUN, RUN.stage("bidirectional"), 16.0)


def awkward(seed: int = 0) -> dict[str, Tensor]:
    """Weights whose bits are easily lost: three types, not-a-number, minus zero, the smallest number."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    tensors = {name: tensor.to(types[index % 3]) for index, (name, tensor) in enumerate(wan_tensors(seed).items())}
    tensors["patch_embedding.bias"] = torch.tensor([float("nan"), -0.0, 1e-45, float("inf"), *range(20)])
    return tensors


LAYOUTS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "diffusers, one file": lambda path, tensors: write_diffusers(path / "transformer", tensors),
    "diffusers, shards": lambda path, tensors: write_diffusers(path / "transformer", tensors, shards=3),
    "diffusers, pipeline": lambda path, tensors: write_diffusers(path / "pipeline" / "transformer", tensors).parent,
    "original folder": lambda path, tensors: write_original(path / "wan", tensors),
    "original folder, shards": lambda path, tensors: write_original(path / "wan", tensors, shards=6),
    "original file": lambda path, tensors: write_original(path / "wan", tensors) / "diffusion_pytorch_model.safetensors",
    "original pth": lambda path, tensors: write_training(path / "wan.pth", **tensors),
    "Self Forcing": lambda path, tensors: write_training(
        path / "self_forcing_dmd.pt",
        generator=prefixed(wan_tensors(5), "model."),
        generator_ema=prefixed(tensors, "model."),
        critic=prefixed(wan_tensors(6), "model."),
    ),
    "Causal Forcing": lambda path, tensors: write_training(path / "causal_forcing.pt", generator_ema=sharded_names(tensors)),
    "generator alone": lambda path, tensors: write_training(path / "ode_init.pt", generator=prefixed(tensors, "model.")),
    "minWM": lambda path, tensors: write_training(path / "model.pt", model=prefixed(tensors, "_orig_mod."), step=10_000),
    "data-parallel": lambda path, tensors: write_training(path / "ddp.pt", model=prefixed(tensors, "module.")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_comes_in_and_goes_out_bit_for_bit(layout, tmp_path):
    tensors = awkward()
    import_wan(read_foreign(LAYOUTS[layout](tmp_path, tensors)), MANIFEST, tmp_path / "checkpoint")
    assert same_bits(read_safetensors(tmp_path / "checkpoint" / "average.safetensors"), tensors)
    manifest = read_manifest(tmp_path / "checkpoint")
    weights = hash_file(tmp_path / "checkpoint" / "average.safetensors")
    assert manifest == replace(MANIFEST, recipe_hash=f"imported:{weights[:16]}") and manifest.imported and not MANIFEST.imported
    shards = export_wan(tmp_path / "checkpoint", tmp_path / "out", weights="average", shard_bytes=20_000)
    assert len(shards) > 2
    out = read_foreign(tmp_path / "out")
    assert same_bits(fit(out, CONFIG), tensors)
    import_wan(out, MANIFEST, tmp_path / "again")
    assert (tmp_path / "again" / "average.safetensors").read_bytes() == (tmp_path / "checkpoint" / "average.safetensors").read_bytes()


def test_bit_for_bit_broken_twin_through_another_type():
    tensors = awkward()
    assert same_bits(tensors, awkward())
    assert not same_bits(tensors, {name: tensor.float() for name, tensor in tensors.items()})
    assert not same_bits(tensors, {name: tensor.nan_to_num() for name, tensor in tensors.items()})
    assert not same_bits(tensors, awkward(seed=1))


def test_the_imported_model_computes_with_these_weights(tmp_path):
    import_wan(
        read_foreign(write_diffusers(tmp_path / "wan", wan_tensors(dtype=torch.bfloat16), shards=2)), MANIFEST, tmp_path / "checkpoint"
    )
    manifest, model = load_model(tmp_path / "checkpoint")
    assert manifest.model == CONFIG and not model.training
    wanted = wan_tensors(dtype=torch.bfloat16)
    assert all(torch.equal(value, wanted[name].float()) for name, value in model.state_dict().items())
    with pytest.raises(CheckpointError, match="was imported without its codec"):
        load_checkpoint(tmp_path / "checkpoint")


def test_an_export_loads_with_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    import_wan(read_foreign(write_original(tmp_path / "wan", wan_tensors())), MANIFEST, tmp_path / "checkpoint")
    for shard_bytes in (10**9, 30_000):
        target = tmp_path / str(shard_bytes)
        export_wan(tmp_path / "checkpoint", target, weights="average", shard_bytes=shard_bytes)
        theirs = diffusers.WanTransformer3DModel.from_pretrained(target, local_files_only=True)
        loaded = {name: value.detach() for name, value in theirs.state_dict().items()}
        assert same_bits(loaded, read_foreign(write_diffusers(target / "wanted", wan_tensors())).tensors)
        assert theirs.config.num_attention_heads == CONFIG.num_heads


def change_names(tensors: dict[str, Tensor]) -> None:
    tensors["head.novelty"] = tensors.pop("head.head.bias")
    for number in range(3):
        tensors[f"blocks.{number}.gate"] = torch.ones(1)


def change_shapes(tensors: dict[str, Tensor]) -> None:
    tensors["blocks.1.ffn.0.weight"] = tensors["blocks.1.ffn.0.weight"].T.contiguous()
    tensors["head.head.bias"] = tensors["head.head.bias"][:3].clone()


def lose_blocks(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith(("blocks.1.", "blocks.2."))]:
        del tensors[name]


CHANGES = {
    "names": (change_names, "missing {head.head.bias}; unmatched {blocks.#.gate}, {head.novelty}"),
    "shapes": (
        change_shapes,
        "{blocks.1.ffn.0.weight} is (24, 40), needed (40, 24); {head.head.bias} is (3,), needed (16,)",
    ),
    "types": (
        lambda tensors: tensors.update({"head.modulation": torch.ones(1, 2, 24).int()}),
        "{head.modulation} is of type torch.int32, needed a floating-point one",
    ),
}
DIFFUSERS = {
    "head.head.bias": "proj_out.bias",
    "head.modulation": "scale_shift_table",
    "blocks.1.ffn.0.weight": "blocks.1.ffn.net.0.proj.weight",
}
FSDP = "model._orig_mod._fsdp_wrapped_module."
IN_BLOCK = "_fsdp_wrapped_module._checkpoint_wrapped_module."
FILES: dict[str, tuple[Callable[[Path, dict[str, Tensor]], Path], Callable[[str], str]]] = {
    "diffusers": (lambda path, tensors: write_diffusers(path / "wan", tensors), lambda name: DIFFUSERS.get(name, name)),
    "diffusers, shards": (lambda path, tensors: write_diffusers(path / "wan", tensors, shards=2), lambda name: DIFFUSERS.get(name, name)),
    "original": (lambda path, tensors: write_original(path / "wan", tensors), str),
    "a prefix": (lambda path, tensors: write_training(path / "a.pt", generator=prefixed(tensors, "model.")), lambda name: f"model.{name}"),
    "wrappers": (
        lambda path, tensors: write_training(path / "a.pt", generator_ema=sharded_names(tensors)),
        lambda name: FSDP + re.sub(r"^(blocks\.[^.]+\.)", rf"\1{IN_BLOCK}", name),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("layout", FILES)
def test_keys_that_do_not_fit_are_all_named_as_the_file_has_them_and_nothing_is_written(layout, change, tmp_path):
    (write, name), (spoil, wanted) = FILES[layout], CHANGES[change]
    tensors = wan_tensors()
    spoil(tensors)
    path = write(tmp_path, tensors)
    with pytest.raises(CheckpointError) as caught:
        import_wan(read_foreign(path), MANIFEST, tmp_path / "out" / "checkpoint")
    told = re.sub(r"\{(.+?)\}", lambda found: name(found[1]), wanted).replace("#", "{0-2}")
    assert str(caught.value) == f"{path} does not fit this model: {told}"
    assert not (tmp_path / "out").exists()


def test_blocks_that_are_missing_are_named_with_all_of_their_weights(tmp_path):
    tensors = wan_tensors()
    lose_blocks(tensors)
    told = {}
    for layout in ("original", "a prefix", "diffusers"):
        (tmp_path / layout).mkdir()
        with pytest.raises(CheckpointError) as caught:
            fit(read_foreign(FILES[layout][0](tmp_path / layout, tensors)), CONFIG)
        told[layout] = str(caught.value).split("does not fit this model: missing ")[1].split(", ")
        assert len(told[layout]) == sum(key.startswith("blocks.0.") for key in tensors)
    assert told["original"] == sorted("blocks.{1-2}." + key.split(".", 2)[2] for key in wan_tensors() if key.startswith("blocks.0."))
    assert told["a prefix"] == [f"model.{key}" for key in told["original"]]
    assert told["diffusers"] == sorted(
        "blocks.{1-2}." + to_diffusers(key).split(".", 2)[2] for key in tensors if key.startswith("blocks.0.")
    )


def test_a_folder_of_another_size_says_which_dimensions_differ(tmp_path):
    folder = write_original(tmp_path / "wan", wan_tensors())
    config = json.loads((folder / "config.json").read_text()) | {"num_heads": 4, "num_layers": 5}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="another size than the recipe: num_heads is 4, needed 2, num_layers is 5, needed 3"):
        fit(read_foreign(folder), CONFIG)


@pytest.mark.parametrize(("error", "said"), [(OSError("no space left"), "nothing was changed"), (KeyboardInterrupt("stop"), "stop")])
def test_what_is_interrupted_leaves_nothing(error, said, tmp_path, monkeypatch):
    weights = read_foreign(write_original(tmp_path / "wan", wan_tensors()))
    import_wan(weights, MANIFEST, tmp_path / "checkpoint")
    written = []

    def full_disk(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half")
        written.append(path)
        if len(written) > 1:
            raise error

    monkeypatch.setattr(wan_weights, "save_file", full_disk)
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises((MutoscopeError, KeyboardInterrupt), match=said):
            export_wan(tmp_path / "checkpoint", tmp_path / "out", weights="average", shard_bytes=20_000)
    assert len(written) == 3 and sorted(tmp_path.iterdir()) == before


def test_a_folder_that_is_in_use_is_left_alone(tmp_path):
    weights = read_foreign(write_original(tmp_path / "wan", wan_tensors()))
    (tmp_path / "out").mkdir()
    import_wan(weights, MANIFEST, tmp_path / "out")
    with pytest.raises(MutoscopeError, match="exists and is not empty; give another folder"):
        import_wan(weights, MANIFEST, tmp_path / "out")


def test_raw_weights_are_exported_only_where_there_are_some(tmp_path):
    import_wan(read_foreign(write_original(tmp_path / "wan", wan_tensors())), MANIFEST, tmp_path / "checkpoint")
    with pytest.raises(
        CheckpointError, match="was imported and holds one set of weights, its average; export that, without --weights model"
    ):
        export_wan(tmp_path / "checkpoint", tmp_path / "out", weights="model", shard_bytes=10**9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (tiny_config(), "also takes actions, travel, which Wan's layout has no place for"),
        (replace(CONFIG, recall=LinearState()), "also takes a learned memory"),
        (replace(CONFIG, text_dim=0), "takes no text"),
    ],
)
def test_models_with_other_inputs_are_not_exported(config, message):
    with pytest.raises(CheckpointError, match=message):
        sizes_of(config)


@pytest.mark.parametrize(
    ("limit", "groups"),
    [(10, ("ab", "c", "d")), (4, ("a", "b", "c", "d")), (1000, ("abcd",)), (7, ("a", "b", "c", "d")), (14, ("abc", "d"))],
)
def test_shards_are_filled_in_order(limit, groups):
    shards = plan_shards({"a": 4, "b": 4, "c": 6, "d": 9}, limit)
    assert tuple("".join(shard.holds) for shard in shards) == groups
    names = [shard.name for shard in shards]
    assert names == (
        [f"diffusion_pytorch_model-{number:05d}-of-{len(groups):05d}.safetensors" for number in range(1, len(groups) + 1)]
        if len(groups) > 1
        else ["diffusion_pytorch_model.safetensors"]
    )
