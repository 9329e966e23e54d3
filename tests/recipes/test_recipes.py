"""Every recipe is whole: it returns from run.json, its stages fit each other, and it differs from the others."""

import json

import pytest

from mutoscope.core.config import config_hash, from_plain, to_plain
from mutoscope.core.errors import ConfigError
from mutoscope.recipes import RECIPES, recipe
from mutoscope.train.config import AverageStage, CodecStage, ConsistencyStage, MatchingStage, RunConfig


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_returns_from_run_json_unchanged(name):
    run = recipe(name)
    returned = from_plain(RunConfig, json.loads(json.dumps(to_plain(run))), "run.json")
    assert returned == run and config_hash(returned) == config_hash(run) == config_hash(recipe(name))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_named_after_itself_and_begins_with_its_codec(name):
    run = recipe(name)
    assert run.name == name
    assert [stage.name for stage in run.stages if isinstance(stage, CodecStage)] == [run.stages[0].name]


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
    assert run.data.frames_per_episode >= run.longest_clip


def test_recipes_differ():
    assert len({config_hash(recipe(name)) for name in RECIPES}) == len(RECIPES)


def test_an_unknown_recipe_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="unknown recipe 'dom'; known: doom, doom-basic"):
        recipe("dom")
