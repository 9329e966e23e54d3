"""Recording from the command line: options, names, and where held-out data lie."""

import pytest

from mutoscope import cli
from mutoscope.commands import record
from mutoscope.commands.evaluate import held_out_of_run
from mutoscope.commands.recording import record_recipe, recorder_options, world_name
from mutoscope.core.errors import ConfigError
from mutoscope.core.files import write_json
from mutoscope.data.clips import open_dataset
from mutoscope.data.recorder import RecordOptions
from mutoscope.recipes import recipe


def test_recorder_options_and_names():
    options = cli.parse("record", record, ["CartPole-v1", "--output", "a", "--frames", "9"])
    assert recorder_options(options) == RecordOptions("gym:CartPole-v1", 200, 9, 48, 64, 2, 0, "hold-random")
    assert [world_name(name) for name in ("doom-basic", "ALE/Pong", "gym:A-v0", "maze")] == [
        "doom-basic",
        "gym:ALE/Pong",
        "gym:A-v0",
        "maze",
    ]


def test_recording_an_unknown_world_lists_the_known_ones(tmp_path, capsys):
    assert cli.main(["record", "quake", "--output", str(tmp_path / "a")]) == 2
    assert "unknown world 'quake'; known: doom" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_a_recipe_records_training_and_held_out_episodes_of_other_seeds(tmp_path):
    train, held_out = (open_dataset(path) for path in record_recipe(recipe("scroll-smoke").data, tmp_path))
    assert (len(train.episodes), len(held_out.episodes)) == (6, 4)
    assert not {episode.seed for episode in train.episodes} & {episode.seed for episode in held_out.episodes}


def test_the_held_out_data_of_a_run_is_found(tmp_path):
    checkpoint = tmp_path / "run" / "matching-2" / "checkpoint"
    checkpoint.mkdir(parents=True)
    with pytest.raises(ConfigError, match="lies in no run folder with held-out episodes; give"):
        held_out_of_run(checkpoint)
    write_json(tmp_path / "run" / "data" / "held-out" / "manifest.json", {})
    assert held_out_of_run(checkpoint) == (tmp_path / "run" / "data" / "held-out").resolve()
