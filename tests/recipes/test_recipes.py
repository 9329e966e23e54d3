"""Every recipe is whole: it returns from run.json, its stages fit each other, and it differs from the others."""

import json
from dataclasses import replace

import pytest

from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.core.shapes import LatentShape, pixel_frames
from mutoscope.memory.policy import Window
from mutoscope.models.wan_config import WanCodecConfig
from mutoscope.recipes import RECIPES, recipe
from mutoscope.train.config import AverageStage, CodecStage, ConsistencyStage, MatchingStage, PublishedStage, RunConfig


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_returns_from_run_json_unchanged(name):
    run = recipe(name)
    returned = from_plain(RunConfig, json.loads(json.dumps(to_plain(run))), "run.json")
    assert returned == run and config_hash(returned) == config_hash(run) == config_hash(recipe(name))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_after_itself_and_begins_with_its_codec(name):
    run = recipe(name)
    assert run.name == name
    trained = [stage.name for stage in run.stages if isinstance(stage, CodecStage)]
    assert trained == ([] if isinstance(run.codec, WanCodecConfig) else [run.stages[0].name])


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"scroll-smoke"}))
def test_a_recipe_trains_students_of_1_2_and_4_steps_whose_first_chunk_takes_4(name):
    run = recipe(name)
    students = [stage for stage in run.stages if isinstance(stage, MatchingStage)]
    assert {stage.student_steps for stage in students} == {1, 2, 4}
    for steps in (1, 2, 4):
        stage = run.stage(f"matching-{steps}")
        parts = [run.stage(part) for part in stage.of] if isinstance(stage, AverageStage) else [stage]
        assert {part.student_steps for part in parts if isinstance(part, MatchingStage)} == {steps}
    assert {stage.first_chunk_steps for stage in students} == {4}
    assert all(isinstance(recipe(name).stage(stage.start), ConsistencyStage) for stage in students)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recorded_episodes_are_long_enough_for_its_clips(name):
    run = recipe(name)
    stride = run.codec.temporal_stride if isinstance(run.codec, WanCodecConfig) else 1
    assert run.data.frames_per_episode >= pixel_frames(run.longest_clip, stride)


# What run folders and results already carry: a field that is added must not rename them.
@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("doom", "af314480ccfd07a2"),
        ("doom-basic", "75d4627e5a361f1f"),
        ("doom-cover", "579eafa6a4c9a0b1"),
        ("doom-wing", "27c6c01f73def04e"),
        ("ring", "791dd3fffcfe30e5"),
        ("scroll", "a11ad2765728d3f0"),
        ("scroll-chunk", "43dc5fdc07de2d86"),
        ("scroll-smoke", "3555dbcd4d1806e3"),
    ],
)
def test_recipes_are_called_what_they_were_called_before_there_was_wan(name, called):
    assert config_hash(recipe(name)) == called


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_wan_starts_from_published_weights_and_can_have_any_size(name):
    run = recipe(name)
    assert isinstance(run.stages[0], PublishedStage) and run.memory == Window(run.clip_frames) and run.shift == 5.0
    wide = replace(run, data=replace(run.data, height=720, width=1280), codec=replace(run.codec, height=720, width=1280))
    assert wide.codec.latent == LatentShape(16, 90, 160)
    assert replace(wide, chunk_frames=3, clip_frames=24).longest_clip == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: replace(run, data=replace(run.data, height=720)), "the codec's pictures are 480x832, and those of the data 720x832"),
        (lambda run: replace(run, codec="trained").codec_stage, "the first stage of a recipe must be its codec, not 'bidirectional'"),
        (lambda run: run.codec_stage, "'wan-1.3b' has Wan's codec and trains none"),
        (lambda run: replace(run, stages=recipe("scroll").stages[:1]), "stage 'codec' trains a codec, and this run's codec is Wan's"),
        (lambda run: replace(run, model=replace(run.model, patch=8)), "480x832 cannot be cut into tokens of 64x64"),
        (lambda run: replace(run, stages=(*run.stages[:1], replace(run.stages[2], start="bidirectional"))), "cannot be built on"),
    ],
)
def test_wan_runs_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        change(recipe("wan-1.3b"))


def test_recipes_differ():
    assert len({config_hash(recipe(name)) for name in RECIPES}) == len(RECIPES)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown recipe 'dom'; known: doom, doom-basic"):
        recipe("dom")
