"""`mutoscope import` and `mutoscope export`: published files in, diffusers' layout out, mistakes as sentences."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mutoscope import cli
from mutoscope.core.config import to_plain
from mutoscope.core.files import write_json
from mutoscope.core.world import NO_ACTIONS, WorldSpec
from mutoscope.memory.policy import Window
from mutoscope.models.checkpoint import load_checkpoint, read_manifest
from mutoscope.models.foreign import read_foreign
from mutoscope.models.wan_weights import fit
from mutoscope.recipes import recipe
from wan_fakes import (
    CODEC,
    CONFIG,
    RUN,
    codec_tensors,
    prefixed,
    same_bits,
    wan_tensors,
    write_codec,
    write_original,
    write_shards,
    write_training,
)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """run.json of a tiny Wan, and a working folder to write into."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "run.json", to_plain(RUN))
    return "run.json"


def test_wan_itself_becomes_the_recipes_teacher_and_goes_out_again(tiny, tmp_path, capsys):
    write_original(tmp_path / "wan", wan_tensors())
    assert cli.main(["import", tiny, "wan"]) == 0
    path = Path("runs/tiny-wan/bidirectional/checkpoint")
    printed = capsys.readouterr().out
    assert f"{path}: {len(wan_tensors())} tensors from wan as 'bidirectional' of tiny-wan; without a codec" in printed
    manifest = read_manifest(path)
    assert (manifest.stage, manifest.model, manifest.codec, manifest.conditions) == ("bidirectional", CONFIG, CODEC, ("text",))
    assert manifest.world == WorldSpec("clips", 32, 48, 16.0, NO_ACTIONS) and manifest.shift == 5.0
    assert cli.main(["export", "runs/tiny-wan/bidirectional", "--output", "out"]) == 0
    assert f"out: {len(wan_tensors())} tensors in 1 file\n" in capsys.readouterr().out
    assert same_bits(fit(read_foreign(Path("out")), CONFIG), wan_tensors())


def test_a_student_is_played_as_its_recipe_says(tiny, tmp_path, capsys):
    parts = {"generator": prefixed(wan_tensors(1), "model."), "generator_ema": prefixed(wan_tensors(), "model.")}
    write_training(tmp_path / "student.pt", **parts)
    arguments = ["import", tiny, "student.pt", "--stage", "matching-2", "--set", "chunk_frames=3", "clip_frames=24", "memory=window=9"]
    assert cli.main([*arguments, "--output", "average"]) == 0
    assert "from student.pt (generator_ema) as 'matching-2'" in capsys.readouterr().out
    manifest = read_manifest(Path("average"))
    assert (manifest.student_steps, manifest.first_chunk_steps, manifest.teacher_steps, manifest.distilled_guidance) == (2, 4, 48, 3.0)
    assert (manifest.chunk_frames, manifest.clip_frames, manifest.memory) == (3, 24, Window(9))
    assert cli.main([*arguments, "--output", "raw", "--part", "generator"]) == 0
    assert same_bits(read_foreign(Path("average/average.safetensors")).tensors, wan_tensors())
    assert same_bits(read_foreign(Path("raw/average.safetensors")).tensors, wan_tensors(1))


def test_the_codec_lies_beside_the_model(tiny, tmp_path, capsys):
    write_original(tmp_path / "wan", wan_tensors())
    write_codec(tmp_path / "vae", codec_tensors())
    assert cli.main(["import", tiny, "wan", "--codec", "vae", "--output", "checkpoint"]) == 0
    assert "without a codec" not in capsys.readouterr().out
    manifest = read_manifest(Path("checkpoint"))
    assert (manifest.latent_mean, manifest.latent_std) == (CODEC.latents_mean, CODEC.latents_std) and len(manifest.codec_hash) == 16
    assert same_bits(read_foreign(Path("checkpoint/codec.safetensors")).tensors, prefixed(codec_tensors(), "vae."))
    codec = load_checkpoint(Path("checkpoint")).codec
    assert same_bits(codec.state_dict(), prefixed(codec_tensors(), "vae.")) and codec.latent == CODEC.latent
    assert codec.decode(torch.zeros(1, 2, 4, 4, 6)).shape == (1, 5, 3, 32, 48)
    write_codec(tmp_path / "other", codec_tensors(), base_dim=8)
    assert cli.main(["import", tiny, "wan", "--codec", "other", "--output", "refused"]) == 2
    assert "is of another codec than the recipe's: base_dim is 8, needed 4" in capsys.readouterr().err
    assert not Path("refused").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "scroll", "wan"], "'scroll' is no Wan recipe; weights are imported for wan-1.3b, wan-14b"),
        (["import", "wan-1.3b", "wan"], "wan is of another size than the recipe: channels is 4, needed 16, dim is 24, needed 1536"),
        (["import", "run.json", "nowhere"], "nowhere does not exist; give a folder"),
        (["import", "run.json", "wan", "--stage", "codec"], "unknown stage 'codec'; this recipe has: bidirectional, autoregressive"),
        (["import", "run.json", "wan", "--set", "data.height=64"], "set codec.height, codec.width, data.height and data.width alike"),
        (["import", "run.json", "wan", "--output", "wan"], "wan exists and is not empty"),
        (["export", "nowhere", "--output", "out"], "'nowhere' is no checkpoint"),
        (["export", "doom-cover/matching-2", "--output", "out"], "also takes actions, travel, which Wan's layout has no place for"),
        (["export", "doom-cover/matching-2", "--output", "out", "--shard-gib", "0"], "--shard-gib must be above 0"),
        (["train", "wan-1.3b"], "'wan-1.3b' is trained on clips of your own: make them ready with 'mutoscope prepare'"),
    ],
)
def test_mistakes_are_sentences(tiny, tmp_path, arguments, message, capsys):
    write_original(tmp_path / "wan", wan_tensors())
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "wan"]


# The config.json of Wan2.1-I2V-14B-480P and of its Diffusers repository, and some of the weights that only they have.
I2V_ORIGINAL = {
    "_class_name": "WanModel", "_diffusers_version": "0.30.0", "dim": 5120, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "in_dim": 36,
    "model_type": "i2v", "num_heads": 40, "num_layers": 40, "out_dim": 16, "text_len": 512,
}  # fmt: skip
I2V_DIFFUSERS = {
    "_class_name": "WanTransformer3DModel", "_diffusers_version": "0.33.0.dev0", "added_kv_proj_dim": 5120, "attention_head_dim": 128,
    "cross_attn_norm": True, "eps": 1e-06, "ffn_dim": 13824, "freq_dim": 256, "image_dim": 1280, "in_channels": 36,
    "num_attention_heads": 40, "num_layers": 40, "out_channels": 16, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024, "text_dim": 4096,
}  # fmt: skip
IMAGE_INPUTS = ("img_emb.proj.1.weight", "blocks.0.cross_attn.k_img.weight", "blocks.0.cross_attn.norm_k_img.weight")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (I2V_ORIGINAL, "config.json says model_type = 'i2v', which this transformer does not have; "),
        (I2V_DIFFUSERS, "config.json says added_kv_proj_dim = 5120, image_dim = 1280, which this transformer does not have; "),
        (None, f"the checkpoint holds the image inputs of Wan's image-to-video checkpoints ({', '.join(sorted(IMAGE_INPUTS))})"),
    ],
)
def test_the_image_to_video_model_is_refused_by_name(tmp_path, monkeypatch, config, message, capsys):
    monkeypatch.chdir(tmp_path)
    source = Path("Wan2.1-I2V-14B-480P")
    write_shards(
        make_folder(source), {name: torch.ones(1) for name in ("time_embedding.0.bias", *IMAGE_INPUTS)}, shards=1 + (config is not None)
    )
    if config is None:
        source = source / "diffusion_pytorch_model.safetensors"
    else:
        write_json(source / "config.json", config)
    assert cli.main(["import", "wan-14b", str(source), "--output", "out"]) == 2
    said = capsys.readouterr().err
    assert message in said and "take the text-to-video checkpoint of the same size and begin with the image" in said
    assert not Path("out").exists()


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_model_without_a_codec_is_not_played(tiny, tmp_path, capsys):
    write_original(tmp_path / "wan", wan_tensors())
    assert cli.main(["import", tiny, "wan", "--output", "checkpoint", "--stage", "matching-2"]) == 0
    assert cli.main(["generate", "checkpoint", "--actions", "stand*2", "--output", "a.mp4"]) == 2
    assert "was imported without its codec" in capsys.readouterr().err


def test_a_plan_of_wan_comes_from_its_recipe(capsys):
    model = recipe("wan-14b").model
    assert cli.main(["plan", "wan-14b", "--policies", "window=4", "--chunk", "1"]) == 0
    assert f"{4 * model.num_layers * model.dim * 1560 * 2 * 2:,}" in capsys.readouterr().out


def test_an_adapter_is_merged_on_the_way_in(tiny, tmp_path, capsys):
    write_original(tmp_path / "wan", wan_tensors())
    layer, rank = wan_tensors()["blocks.0.self_attn.q.weight"], 2
    up, down = torch.ones(layer.shape[0], rank), torch.ones(rank, layer.shape[1])
    names = {"lora_up": up, "lora_down": down}
    save_file(
        {f"diffusion_model.blocks.0.self_attn.q.{name}.weight": value for name, value in names.items()}, tmp_path / "style.safetensors"
    )
    arguments = ["import", tiny, "wan", "--adapter", "style.safetensors", "--adapter-strength", "0.25", "--output", "styled"]
    assert cli.main(arguments) == 0
    assert "with style.safetensors x 0.25" in capsys.readouterr().out
    found = read_foreign(Path("styled/average.safetensors")).tensors
    expected = wan_tensors()
    expected["blocks.0.self_attn.q.weight"] = (layer.float() + 0.5).to(layer.dtype)
    assert same_bits(found, expected)
    assert read_manifest(Path("styled")).adapters == ("style.safetensors x 0.25",)
    assert cli.main(["import", tiny, "wan", "--adapter", "none.safetensors", "--output", "other"]) == 2
    assert "none.safetensors does not exist" in capsys.readouterr().err and not Path("other").exists()
