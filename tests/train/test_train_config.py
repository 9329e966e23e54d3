"""Runs that cannot be are refused in words before anything is built; those that can return from run.json unchanged."""

import hashlib
import json
from dataclasses import replace

import pytest
from training_fakes import CHUNKS, RUN, STAGES, UPDATE, stage_config

from fakes import CHOOSING
from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.kinds import LinearState
from mutoscope.memory.policy import Full, SinkWindow, Stateful, Window
from mutoscope.train.config import RunConfig, StageConfig, parents

ALL = replace(RUN, stages=tuple(stage_config(kind, UPDATE) for kind in STAGES))
LONG = replace(ALL, stages=(*ALL.stages, replace(stage_config("long-matching", UPDATE), frames_beyond_clip=4)))


def with_stage(kind: str, **changes) -> RunConfig:
    """The whole chain, one stage of it changed."""
    return replace(ALL, stages=tuple(replace(stage, **changes) if stage.name == kind else stage for stage in ALL.stages))


@pytest.mark.parametrize(
    "run", [ALL, LONG, CHUNKS, replace(ALL, memory=Full(9)), replace(ALL, memory=SinkWindow(1, 3), precision="bf16", seed=3)]
)
def test_a_run_returns_from_json_unchanged(run):
    returned = from_plain(RunConfig, json.loads(json.dumps(to_plain(run))))
    assert returned == run and config_hash(returned) == config_hash(run)


def change(run: RunConfig, path: str, value: object) -> dict:
    """run.json with one value replaced or added."""
    plain = json.loads(json.dumps(to_plain(run)))
    *outer, last = path.split(".")
    place = plain
    for name in outer:
        place = place[int(name)] if name.isdigit() else place[name]
    place[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.width", 3, "config.model has unknown keys width; known: dim, ffn_dim"),
        ("stages.0.update.lr", 0.1, r"config.stages\[0\].update has unknown keys lr; known: updates, batch_size"),
        ("stages.0.is", "Codecs", r"config.stages\[0\] is of kind 'Codecs'; allowed: CodecStage, BidirectionalStage"),
        ("stages.1.sampler", "cosine", "sampler is 'cosine'; allowed: 'uniform', 'logit-normal'"),
        ("precision", "fp8", "precision is 'fp8'; allowed: 'auto', 'fp32', 'bf16'"),
        ("memory.is", "Everything", "memory is of kind 'Everything'; allowed: Full, Window, SinkWindow"),
        ("clip_frames", "7", "clip_frames is '7'; it must be of type int"),
    ],
)
def test_what_does_not_belong_into_run_json_is_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        from_plain(RunConfig, change(ALL, path, value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(UPDATE, updates=0), "UpdateConfig.updates must be at least 1, got 0"),
        (lambda: replace(UPDATE, save_every=0), "UpdateConfig.save_every must be at least 1"),
        (lambda: replace(UPDATE, learning_rate=0.0), "UpdateConfig.learning_rate must be above 0"),
        (lambda: replace(UPDATE, learning_rate=float("nan")), "UpdateConfig.learning_rate must be above 0, got nan"),
        (lambda: replace(UPDATE, accumulate=3), "4 clips does not divide into 3 micro-batches"),
        (lambda: replace(UPDATE, average=1.0), r"decays .* must be below 1"),
        (lambda: replace(UPDATE, betas=(0.9, 1.0)), r"decays .* must be below 1"),
        (lambda: replace(UPDATE, cooldown=2.0), r"UpdateConfig.cooldown must be in 0 .. 1, got 2.0"),
        (lambda: replace(RUN.model, num_heads=5), "dim 24 must divide into 5 heads"),
        (lambda: replace(RUN.model, dim=8, num_heads=2), "a head needs an even number of at least 6 channels, got 4"),
        (lambda: replace(RUN.data, frame_skip=0), "DataConfig.frame_skip must be at least 1"),
        (lambda: replace(RUN, clip_frames=1), "clips of 1 frames"),
        (lambda: replace(CHUNKS, clip_frames=8), "clips of 8 frames must be 1 . a multiple of chunk_frames 3"),
        (lambda: replace(RUN, chunk_frames=0), "RunConfig.chunk_frames must be at least 1"),
        (lambda: replace(RUN, shift=0.0), "RunConfig.shift must be above 0"),
        (lambda: replace(CHUNKS, memory=Window(2)), "'window' of 2 frames cannot hold a chunk of 3; make the window longer"),
        (lambda: replace(RUN, memory=Full(6)), "clips of 7 frames do not fit into the memory.*declare more frames"),
        (lambda: replace(ALL, data=replace(RUN.data, height=18)), "pictures of 18x20 cannot be cut into tokens of 4x4 pixels"),
        (lambda: with_stage("bidirectional", action_dropout=1.5), "BidirectionalStage.action_dropout must be in 0 .. 1"),
        (lambda: with_stage("consistency", grid_steps=1), "ConsistencyStage.grid_steps must be at least 2"),
        (lambda: with_stage("matching", max_context=0), "MatchingStage.max_context must be at least 1"),
        (lambda: with_stage("matching", student_every=0), "MatchingStage.student_every must be at least 1"),
        (lambda: with_stage("matching", frames_beyond_clip=-1), "MatchingStage.frames_beyond_clip must be at least 0, got -1"),
        (lambda: replace(LONG, chunk_frames=3), "stage 'long-matching': frames_beyond_clip must be a multiple of chunk_frames 3, got 4"),
        (lambda: replace(LONG, memory=Full(10)), "clips of 11 frames do not fit into the memory.*declare more frames"),
        (lambda: with_stage("ode", trajectories=0), "OdeStage.trajectories must be at least 1"),
        (lambda: with_stage("codec", widths=()), "a codec needs at least one width"),
    ],
)
def test_an_impossible_value_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: with_stage("autoregressive", start="teacher"),
            r"starts from 'teacher', which does not come before it; before it: \['codec', 'bidir",
        ),
        (lambda: with_stage("autoregressive", start="ode"), "starts from 'ode', which does not come before it"),
        (lambda: with_stage("consistency", start="consistency"), "'consistency' starts from 'consistency', which does not come before it"),
        (
            lambda: with_stage("autoregressive", start="codec"),
            "cannot be built on 'codec', a CodecStage; it needs BidirectionalStage or Autoreg",
        ),
        (
            lambda: with_stage("consistency", start="bidirectional"),
            "cannot be built on 'bidirectional', a BidirectionalStage; it needs Autoregre",
        ),
        (
            lambda: with_stage("matching", score="consistency"),
            "cannot be built on 'consistency', a ConsistencyStage; it needs Bidirection",
        ),
        (lambda: with_stage("matching", start="bidirectional"), "cannot be built on 'bidirectional'"),
        (lambda: with_stage("ode", name="codec"), "two stages are named 'codec'"),
        (lambda: ALL.stage("distil"), "unknown stage 'distil'; this recipe has: codec, bidirectional, autoregressive"),
    ],
)
def test_a_stage_without_its_parents_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def starts_from_itself(stage: StageConfig) -> bool:
    return stage.name in parents(stage)


def test_no_stage_is_its_own_start():
    """Trap 10: the final checkpoint used as its own initialisation."""
    assert not any(starts_from_itself(stage) for stage in ALL.stages)
    assert starts_from_itself(replace(ALL.stage("consistency"), start="consistency"))


def test_every_stage_says_how_long_its_clips_are():
    frames = {stage.name: LONG.frames_read(stage) for stage in LONG.stages}
    assert frames == {**dict.fromkeys(STAGES, RUN.clip_frames), "codec": 1, "long-matching": RUN.clip_frames + 4}
    assert (RUN.longest_clip, ALL.longest_clip, LONG.longest_clip) == (RUN.clip_frames, RUN.clip_frames, RUN.clip_frames + 4)


def test_a_memory_that_chooses_by_content_is_for_rollouts_alone():
    with pytest.raises(
        ConfigError, match=r"chooses frames by their content .* train under 'window' \(window=4\), then play or match under"
    ):
        replace(ALL, memory=CHOOSING["place"])
    run = with_stage("matching", memory=CHOOSING["place"])
    assert {stage.name: run.memory_of(stage) for stage in run.stages if run.memory_of(stage) != run.memory} == {
        "matching": CHOOSING["place"]
    }
    assert from_plain(RunConfig, json.loads(json.dumps(to_plain(run)))) == run


def test_a_table_of_heads_returns_from_json_unchanged():
    run = with_stage("matching", memory=HeadWise(1, 1, 3, 6, 1, ((0,),) * ALL.model.num_layers))
    assert from_plain(RunConfig, json.loads(json.dumps(to_plain(run)))) == run


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (Full(3), "clips of 7 frames do not fit into the memory"),
        (HeadWise(99), "has 99 static heads, and the model"),
        (Stateful(Window(4), LinearState()), "stage 'matching': its memory has another learned memory than the run's"),
    ],
)
def test_a_stages_own_memory_must_suit_the_run(memory, message):
    with pytest.raises(ConfigError, match=message):
        with_stage("matching", memory=memory)


def test_runs_from_before_stages_had_a_memory_shared_rollouts_or_adapters_keep_their_hash():
    stage = stage_config("matching", UPDATE)
    before = {name: value for name, value in to_plain(stage).items() if name not in ("memory", "rollouts")}
    before["update"] = {name: value for name, value in before["update"].items() if name != "trains"}
    digest = hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]
    assert config_hash(stage) == digest != config_hash(replace(stage, memory=Window(4)))
    assert from_plain(type(stage), before) == stage
