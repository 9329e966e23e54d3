"""`mutoscope plan --gpu-memory`: what fits, on the small recipes and on Wan's sizes."""

import json
import re

import pytest
import torch

from mutoscope import cli
from mutoscope.commands import fitting
from mutoscope.commands.measured import measured_device
from mutoscope.memory.policy import Window
from mutoscope.memory.store import CacheSpec
from mutoscope.models.live_bytes import DecodingBytes
from mutoscope.recipes import recipe
from mutoscope.rollout.footprint import Decoder, Held


def test_what_fits_is_planned_and_written(tmp_path, capsys):
    """A small device takes steps, a large one needs none; both are in the file, with what was assumed."""
    file = tmp_path / "fits.json"
    assert cli.main(["plan", "doom", "--gpu-memory", "0.2", "80", "--output", str(file)]) == 0
    printed, written = capsys.readouterr().out, json.loads(file.read_text())
    assert (
        "autoregressive on 0.2 GiB" in printed
        and "(proposed)" not in printed
        and "The stage that trains the codec is not planned" in printed
    )
    by = {(fit["name"], fit["device"]["memory_gib"]): fit for fit in written["fits"]}
    assert by["matching-2", 80.0]["fits"] and by["matching-2", 80.0]["steps"] == []
    small = by["matching-2", 0.2]
    assert any(step["saves"] > 0 and step["option"].startswith("half as many") for step in small["steps"])
    assert small["fits"] == (small["steps"][-1]["bytes"] <= 0.92 * 0.2 * 2**30) and "40%" in written["assumed"]
    assert {"play, 2 steps", "consistency"} <= {name for name, _ in by} and written["provenance"]["commit"]


def test_wan_is_planned_with_its_prompts_and_decoders(monkeypatch, capsys):
    wide = tuple(Decoder(name, 1e12, Held(2 * size << 30), Held(size << 30)) for name, size in (("whole", 6), ("tiny", 1)))
    monkeypatch.setattr(fitting, "decoders", lambda run: wide)
    monkeypatch.setattr(fitting, "sampled_codec", lambda run: DecodingBytes(1 << 29, 1 << 30, 1 << 30))
    assert cli.main(["plan", "wan-1.3b", "--gpu-memory", "48", "--gpus", "8"]) == 0
    printed = capsys.readouterr().out
    assert "torchrun --nproc-per-node 2 -m mutoscope train wan-1.3b" in printed and "the whole recipe on 48 GiB" in printed
    assert "play, 2 steps on 48 GiB (l40s" in printed and "weights, passes, memory and codec in bfloat16" in printed
    assert "shared out over twice as many devices" in printed and "blocks computed again" in printed
    assert "weights of 16 bit, memory of 16, whole; mutoscope play --precision bf16" in printed and "clip of 21 frames at a time" in printed


def test_a_plan_can_go_by_this_machine(capsys):
    assert cli.main(["plan", "scroll", "--gpu-memory", "8", "--measured"]) == 0
    assert "timed on this machine" in capsys.readouterr().out
    here = measured_device(fitting.stage_transformer(recipe("scroll"), recipe("scroll").stages[-1]))
    assert 0 < here.share <= 1 and here.device.flops > 1e6 and here.device.bandwidth > 1e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "--gpu-memory", "8"], "plans a recipe, and '' is none; recipes: doom"),
        (["doom", "--gpu-memory", "8", "--gpus", "0"], "--gpus and --rows must be at least 1"),
        (["doom", "--gpu-memory", "8", "--device", "abacus"], "unknown device 'abacus'; known: rtx-4060"),
        (["doom", "--gpu-memory", "0"], "above 0"),
        (["doom", "--gpu-memory", "8", "--chunk", "4"], "--chunk 4: change the recipe's chunks: --set chunk_frames=3"),
        (["doom", "--gpu-memory", "8", "--policies", "window=4", "--dtype", "int8"], "--policies .*--set memory=window=12; --dtype int8: "),
        (["doom", "--gpus", "2"], "without --gpu-memory these options say nothing: --gpus 2: give --gpu-memory too"),
        (["doom", "--gpu-memory", "8", "--set", "model.dimm=3"], "unknown key 'dimm'"),
        (["", "--set", "model.dim=192"], "--set changes a recipe, and '' is none"),
    ],
)
def test_what_cannot_be_planned_is_explained(arguments, message, capsys):
    assert cli.main(["plan", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_keys_of_eight_bits_are_counted_with_their_scales_and_only_where_they_can_be(capsys):
    assert cli.main(["plan", "wan-1.3b", "--dtype", "int8", "--tokens", "1024"]) == 0
    told = capsys.readouterr().out
    spec = CacheSpec(30, 12, 128, 1024, Window(21), 3, elements="int8")
    assert f"{spec.bytes(torch.bfloat16):,}" in told and "merging" not in told and "window=21+linear" in told
    assert spec.bytes(torch.bfloat16) == 21 * 30 * 12 * 1024 * 2 * (128 + 4)
    assert cli.main(["plan", "wan-1.3b", "--dtype", "fp8", "--policies", "merging=21"]) != 0
    assert "eight bits" in capsys.readouterr().err
