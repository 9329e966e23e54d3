"""`mutoscope heads`: shares of real clips, the policy that follows from them, and what it refuses."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mutoscope import cli
from mutoscope.commands.checkpoints import parse_policy
from mutoscope.commands.heads import asked_policy
from mutoscope.commands.recording import record_recipe
from mutoscope.commands.untrained import untrained_checkpoint
from mutoscope.core.errors import ConfigError
from mutoscope.core.streams import stream
from mutoscope.data.clips import open_dataset
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.policy import Full, Window
from mutoscope.models.checkpoint import save_checkpoint
from mutoscope.models.transformer import VideoTransformer
from mutoscope.recipes import recipe


def recorded(folder: Path, size: int) -> Path:
    """Held-out episodes as the smallest recipe records them."""
    wanted = replace(recipe("scroll-smoke").data, height=size, width=size, episodes=1, held_out_episodes=2, frames_per_episode=60)
    return record_recipe(wanted, folder)[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Clips of the smallest recipe's world."""
    return recorded(tmp_path_factory.mktemp("data"), recipe("scroll-smoke").data.height)


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory) -> Path:
    """An untrained student of that recipe."""
    made, path = untrained_checkpoint(recipe("scroll-smoke"), "cpu"), tmp_path_factory.mktemp("heads") / "student"
    world = open_dataset(data).world
    config = replace(made.model.config, action_dim=world.actions.dim)
    model = VideoTransformer(config).initialise(stream(0, "heads test"))
    save_checkpoint(path, replace(made.manifest, world=world, model=config), model=None, average=model, codec=made.codec, starts=None)
    return path


def test_it_prints_shares_and_a_policy_that_can_be_read_again(checkpoint, data, tmp_path, capsys):
    text, file = "head-wise=1,sink=1,window=3,frames=6,recent=2", tmp_path / "heads.json"
    assert cli.main(["heads", str(checkpoint), str(data), "--memory", text, "--clips", "2", "--output", str(file)]) == 0
    *table, printed = capsys.readouterr().out.strip().splitlines()
    policy, told = parse_policy(printed), json.loads(file.read_text())
    shares = torch.tensor(told["shares"])
    assert isinstance(policy, HeadWise) and told["policy"] == printed and (policy.static, policy.window) == (1, 3)
    assert policy.heads == tuple((int(row.argmax()),) for row in shares) and len(table) == 1 + len(shares)
    assert all(line.count("*") == 1 for line in table[1:]) and bool(((shares > 0) & (shares < 1)).all())
    assert told["provenance"] and told["clips"] == 2


def test_a_policy_without_sizes_takes_them_from_the_checkpoint():
    assert asked_policy("head-wise", Window(12), 4) == HeadWise(2, 1, 3, 12, 2)
    assert asked_policy("head-wise", Full(200), 4).frames == asked_policy("head-wise", None, 4).frames == 21
    with pytest.raises(ConfigError, match="static heads are those of a head-wise memory; write it like head-wise=2"):
        asked_policy("window=8", Window(8), 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "head-wise=9"], "has 9 static heads, and the model"),
        (["--clips", "0"], "a batch needs at least one clip"),
        (["--memory", "head-wise=1,sink=1,window=20,frames=40"], "no episode of .* has 81 frames; the longest has 60"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_words(checkpoint, data, arguments, message, capsys):
    assert cli.main(["heads", str(checkpoint), str(data), *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_clips_of_another_world_are_refused(checkpoint, tmp_path, capsys):
    assert cli.main(["heads", str(checkpoint), str(recorded(tmp_path / "other", 48))]) == 2
    assert "Give held-out episodes of the checkpoint's own world" in capsys.readouterr().err
