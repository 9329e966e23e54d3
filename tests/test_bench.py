"""What `mutoscope bench RECIPE` counts and times: the arithmetic against torch's own counter, and a small stream from end to end."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fakes import tiny_config, tiny_latents
from mutoscope import cli
from mutoscope.commands import arithmetic, stream_timing
from mutoscope.commands.arithmetic import Step, commit_flops, denoising_flops
from mutoscope.commands.overrides import override
from mutoscope.commands.roofline import COUNTED
from mutoscope.commands.stream_timing import bounds, count_codec, fill, pass_by_pass
from mutoscope.commands.streaming import Stream, StreamSettings, random_codec, random_model, sized
from mutoscope.core.errors import ConfigError
from mutoscope.memory.policy import Window
from mutoscope.models.arithmetic import PassFlops, parts
from mutoscope.models.camera import with_cameras
from mutoscope.models.camera_config import CameraConfig
from mutoscope.models.conditions import Conditions
from mutoscope.models.transformer import TransformerConfig, VideoTransformer, told_once
from mutoscope.recipes import recipe
from mutoscope.rollout.executor import Executor, Pass, PassKind
from mutoscope.rollout.speed import Speed
from mutoscope.train.build import transformer_config

TINY = ("model.dim=24", "model.num_layers=2", "model.ffn_dim=48", "model.num_heads=2", "model.text_dim=8", "memory=window=3")


def counted(config: TransformerConfig, step: Step, kind: PassKind, *, read: bool = True) -> float:
    """Operations of a pass with a full memory, as torch counts them; the prompt is read before, as sessions do, or in the pass."""
    model, both = VideoTransformer(config).eval().requires_grad_(False), slice(0, step.rows)
    store = model.new_store(Window(step.read), step.chunk, step.rows, torch.zeros(0))
    for _ in range(step.read - step.chunk):
        early = store.open_chunk(both, 1)
        for row in range(step.rows):
            store.note_positions(row, early)
        store.commit(both)
    plan = store.open_chunk(both, step.chunk)
    shape = (step.rows, step.chunk)
    actions = torch.zeros(*shape, config.temporal_stride, config.action_dim)
    text = torch.zeros(step.rows, step.text if config.text_dim else 0, config.text_dim)
    conditions = Conditions(actions, torch.ones(shape).bool(), torch.zeros(*shape, config.action_dim).double(), text, text)
    conditions = with_cameras(conditions, config.camera)
    conditions = told_once(model, conditions) if read else conditions
    latents = tiny_latents(step.chunk, step.rows).float()
    item = Pass(store, both, plan, latents, 0.5, conditions, kind)
    Executor(model).run([item])  # what is worked out once for all passes, such as turns, is none of theirs
    with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
        Executor(model).run([item])
    return float(counter.get_total_flops())


TEXT, KEYS = {"text_dim": 10, "action_dim": 0, "travel": False}, {"travel": False}
SEEN = {"text_dim": 10, "action_dim": 8, "travel": False, "camera": CameraConfig()}


@pytest.mark.parametrize("step", [Step(1, 1, 4, 7), Step(2, 3, 6, 5)], ids=str)
@pytest.mark.parametrize("changes", [TEXT, KEYS, SEEN], ids=["text", "actions", "camera"])
def test_the_arithmetic_is_what_torch_counts(changes, step):
    config = tiny_config(**changes)
    assert denoising_flops(config, step).total == counted(config, step, "denoising")
    assert commit_flops(config, step).total == counted(config, step, "commit")


@pytest.mark.parametrize("kind", ["denoising", "commit"])
def test_a_pass_that_reads_the_prompt_anew_does_more(kind):
    """What training does, and what a stream would do that is not told what was read: by so much the sums differ."""
    config, step = tiny_config(**TEXT), Step(1, 1, 4, 7)
    going = step.going(config, "cache" if kind == "commit" else "velocity")
    anew = parts(replace(going, told="embedding"))
    assert anew.total == counted(config, step, kind, read=False) > parts(going).total
    words, dim, layers = step.text, config.dim, config.num_layers - (kind == "commit")
    assert anew.text - parts(going).text == 2 * words * dim * (config.text_dim + dim + 2 * layers * dim)


def test_arithmetic_broken_twin_that_takes_a_commit_for_a_forward():
    config, step = tiny_config(**TEXT), Step(1, 1, 4, 7)
    assert denoising_flops(config, step).total != counted(config, step, "commit")


def test_the_targets_follow_from_the_arithmetic():
    """Issue 4: 78 pixel frames/s at most, without codec, for 1.3B at 480x832, frame-wise, 2 steps, window 21; attention is most of it.

    It counted the prompt's keys and values in every pass (77.5); a session reads a prompt once, which saves about 1 % (78.4; 98 by the
    data sheet's speed, where it was 97).
    """
    run = recipe("wan-1.3b")
    config, step = transformer_config(run.model, run.codec, 0, None), Step(1, 1, 21, 512)
    figures = arithmetic.arithmetic(config, step, 2, weights=2_840_000_000, cache=config.cache(run.memory, 1).bytes(torch.bfloat16))
    rates = {name: bound["pixel_frames_per_second"] for name, bound in figures["bounds"].items()}
    assert rates["H200, large products"] == pytest.approx(78, abs=1) and rates["H200"] == pytest.approx(98, abs=1)
    assert 0.6 < figures["denoising_gflops"]["attention"] / figures["denoising_gflops"]["total"] < 0.75
    assert all(bound["compute_ms"] > bound["memory_ms"] for bound in figures["bounds"].values())
    assert "at most 78.4" in arithmetic.described(figures, 2)
    decoded = arithmetic.arithmetic(config, step, 2, weights=0, cache=0, codec=13.55e12)  # Wan's decoder, as torch counts it
    assert decoded["bounds"]["H200, large products"]["with_codec_per_second"] == pytest.approx(58.7, abs=1)


def test_parts_add_up():
    assert PassFlops(1, 2, 3, 4, 5).total == 15


def test_bench_of_a_recipe_reports_everything(tmp_path, capsys):
    output = tmp_path / "bench.json"
    size = ["--size", "32x48", "--codec", "none", "--set", *TINY]
    assert cli.main(["bench", "wan-1.3b", *size, "--steps", "1", "2", "--frames", "10", "--output", str(output)]) == 0
    figures = json.loads(output.read_text())
    assert figures["provenance"]["processor"] and [row["settings"]["steps"] for row in figures["rows"]] == [1, 2]
    for row in figures["rows"]:
        assert row["first_frame"]["first_ms"] > 0 and row["first_frame"]["warm_ms"] > 0 and row["share_of_roofline"] > 0
        assert row["filling"]["full_at_chunk"] == 2 and len(row["filling"]["chunks_ms"]) == 4 and row["share_of_data_sheet"] is None
        assert row["passes"]["denoising_ms"]["count"] == 10 * row["settings"]["steps"] and row["passes"]["commit_ms"]["count"] == 10
        assert row["free"]["with_codec"] is None and "left out" in row["codec"] and row["memory"]["looks"][-1]["memory"] > 0
        assert row["arithmetic"]["reads_frames"] == 3 and row["free"]["without_codec"]["pixel_frames_per_second"] > 0
    assert [row["first_frame"]["cold_ms"] is None for row in figures["rows"]] == [False, True], "a process is cold once"
    assert "pixel frames/s" in capsys.readouterr().out


def test_bench_explains_what_cannot_be(capsys):
    assert cli.main(["bench", "--frames", "1"]) == 2
    assert "--frames must be at least 10" in capsys.readouterr().err
    assert cli.main(["bench", "--size", "32x32", "--codec", "none"]) == 2
    assert "--size, --codec: for recipes alone" in capsys.readouterr().err
    assert cli.main(["bench", "scroll-smoke", "--size", "32"]) == 2
    assert "height first" in capsys.readouterr().err


def small_stream(name: str, **changes: object) -> Stream:
    """A stream of a recipe's own codec and memory."""
    run = recipe(name)
    settings = StreamSettings(run, 2, 4, run.memory, "own", "fp32", "cpu")
    settings = replace(settings, **changes)
    return Stream(settings, random_model(settings), random_codec(settings)[0])


def test_a_stream_of_a_small_world_shows_pictures_and_fills_its_memory():
    stream = small_stream("scroll-smoke", rows=2)
    filled = []
    for _ in range(6):
        filled.append(stream.filled)
        stream.denoise()
        pictures = stream.pictures()
        assert pictures is not None and pictures.shape == (2, 1, 32, 32, 3) and pictures.std() > 0
        stream.commit()
    assert filled == [False, False, False, True, True, True]  # a window of four frames, the chunk's own included


def test_a_chunk_that_is_opened_ahead_is_not_counted_as_read(monkeypatch):
    monkeypatch.setattr(stream_timing, "measured_limits", lambda *given: arithmetic.DEVICES["H200"])
    own, fused = (bounds(small_stream("scroll-smoke", speed=Speed(commits=commits)), 1.0, 0.0) for commits in ("own", "fused"))
    assert own["arithmetic"] == fused["arithmetic"] and fused["arithmetic"]["reads_frames"] == 4
    spared = small_stream("scroll-smoke", speed=Speed(commits="fused")).store
    assert spared.bytes > fused["arithmetic"]["bytes_per_pass"]["cache"] and spared.spec.slots == 5, "the broken twin: what is held"


def test_a_stream_reads_its_prompt_once_as_a_session_does():
    """No pass projects words; the broken twin is a stream whose conditions hold the prompt's embedding."""
    run = override(recipe("wan-1.3b"), (*TINY, "data.height=32", "data.width=48", "codec.height=32", "codec.width=48"))
    settings = StreamSettings(run, 2, 2, run.memory, "none", "fp32", "cpu", text=3)
    model, calls = random_model(settings), []
    for block in model.blocks:
        block.cross_attn.k.register_forward_hook(lambda *given: calls.append("keys"))
    stream = Stream(settings, model, None)
    once = len(calls)
    stream.advance()
    assert len(calls) == once == 2 * len(model.blocks), "the prompt and the negative one, in every layer"
    text = torch.zeros(1, 3, model.config.text_dim)
    stream.conditions = stream.conditions.told(text, text)
    stream.advance()
    assert len(calls) > once


def test_a_stream_with_fused_commits_fills_its_memory_too():
    stream = small_stream("scroll-smoke", speed=Speed(commits="fused"))
    times = fill(stream, torch.device("cpu"))
    assert times["full_at_chunk"] == 4 and len(times["chunks_ms"]) == 6
    timed = pass_by_pass(stream, torch.device("cpu"), 3)
    assert stream.filled and stream.chunks == 9 and sorted(timed) == ["codec_ms", "denoising_ms", "fused_ms"]
    assert timed["fused_ms"]["count"] == timed["denoising_ms"]["count"] == 3
    weights = sum(parameter.numel() for parameter in stream.codec.decoder.parameters())
    assert count_codec(stream) > 2 * weights * stream.model.config.grid.tokens


def test_what_a_stream_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="tiny codec has Wan's latents"):
        small_stream("scroll-smoke", codec="tiny")
    with pytest.raises(ConfigError, match="learned memory is part of the model"):
        small_stream("ring", policy=Window(4))
    with pytest.raises(ConfigError, match="at least 1"):
        small_stream("scroll-smoke", steps=0)
    assert sized(recipe("wan-1.3b"), "64x96").codec.width == 96
