"""What clips are told: each its own episode's caption, from the run's cache; and what makes a run another run."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from clip_fakes import write_clips
from training_fakes import ALONE, UPDATE, WideDraws

from fakes import WORLD, tiny_conditions
from mutoscope.core.config import config_hash
from mutoscope.core.errors import ConfigError, DataError
from mutoscope.core.streams import derive_seed
from mutoscope.data.batches import ClipSampler
from mutoscope.data.clips import ClipDataset, open_dataset
from mutoscope.data.writer import DatasetWriter
from mutoscope.models.text_config import TextConfig
from mutoscope.recipes import recipe
from mutoscope.train.chain import episode_begins
from mutoscope.train.prompts import CachedPrompts, NoPrompts, gather_prompts, prompts_identity
from mutoscope.train.sources import ClipSource
from mutoscope.train.stages.teachers import drop_conditions
from prompt_fakes import TOKENS, WIDTH, FakeEncoder, fake_cache

TEXT = TextConfig("minilm", TOKENS, negative="")
CAPTIONS = ("a red disc", "a blue cross", "a red disc")


def captioned(path: Path, told: tuple[str, ...] = CAPTIONS, seed: int = 0) -> ClipDataset:
    """The clips of `write_clips` with captions, and a cache of them and the negative prompt beside them."""
    bare = write_clips(path.with_name(f"{path.name}-bare"), seed=seed)
    with DatasetWriter(path, WORLD, seed=seed) as writer:
        for episode, caption in zip(bare.episodes, told, strict=True):
            writer.add(bare.read(episode.index, 0, episode.num_frames, ("frames", "actions")), caption=caption)
    fake_cache(path / "prompts", tuple(dict.fromkeys((*told, ""))))
    return open_dataset(path)


def test_every_clip_is_told_its_own_episodes_caption(tmp_path: Path):
    dataset = captioned(tmp_path / "set")
    prompts = CachedPrompts(fake_cache(tmp_path / "cache"), "")
    source = ClipSource(dataset, "frames", 7, replace(UPDATE, batch_size=8), 0, ALONE, prompts)
    batch = source.batch("model", 3, 0, 1)
    states = {caption: FakeEncoder().encode([caption])[0] for caption in CAPTIONS}
    told = [
        max(states, key=lambda caption: float((text[: len(states[caption])] == states[caption]).float().mean()))
        for text in batch.conditions.text
    ]
    assert set(told) == set(CAPTIONS)
    for text, caption in zip(batch.conditions.text, told, strict=True):
        assert torch.equal(text[: len(states[caption])], states[caption]) and not text[len(states[caption]) :].any()
    sampler = ClipSampler(dataset, clip_frames=7, batch_size=8, seed=derive_seed(0, "clips/model"), arrays=("frames",))
    assert told == [CAPTIONS[episode] for episode in sampler.batch(3).episodes]
    negative = FakeEncoder().encode([""])[0]
    assert all(torch.equal(row[: len(negative)], negative) for row in batch.conditions.negative)
    bare = ClipSource(dataset, "frames", 7, replace(UPDATE, batch_size=8), 0, ALONE).batch("model", 3, 0, 1)
    assert torch.equal(bare.clean, batch.clean) and bare.conditions.text.numel() == 0, "the clips are the same without words"


def test_dropout_takes_prompt_and_actions_together():
    conditions = tiny_conditions(4, batch=64)
    told, negative = torch.ones(64, 3, 5), torch.zeros(64, 3, 5)
    draws = WideDraws(0, 0, tuple(range(64)), torch.device("cpu"))
    dropped = drop_conditions(conditions.told(told, negative), draws, 0.3, (4,))
    silent = ~dropped.text.flatten(1).any(dim=1)
    nothing_known = ~dropped.known.any(dim=1)
    assert torch.equal(silent, nothing_known) and 8 <= int(silent.sum()) <= 32
    alone = drop_conditions(conditions, draws, 0.3, (4,))
    assert torch.equal(alone.known, dropped.known) and torch.equal(alone.travel, dropped.travel), "actions are dropped as without text"


def test_the_runs_cache_is_gathered_and_checked(tmp_path: Path):
    first, second = captioned(tmp_path / "train"), captioned(tmp_path / "held-out", ("a red disc", "a blue cross", "a green ring"), 1)
    cache = gather_prompts(tmp_path / "run", TEXT, WIDTH, (first, second))
    assert set(cache.prompts) == {"", "a red disc", "a blue cross", "a green ring"}
    with pytest.raises(ConfigError, match="holds 6 tokens of 10, and the recipe wants 8 of 10"):
        gather_prompts(tmp_path / "other", replace(TEXT, tokens=8), WIDTH, (first,))
    with pytest.raises(DataError, match="no embedding of 'bad'"):
        gather_prompts(tmp_path / "other", replace(TEXT, negative="bad"), WIDTH, (first,))
    with pytest.raises(ConfigError, match="have no captions"):
        gather_prompts(tmp_path / "other", TEXT, WIDTH, (open_dataset(tmp_path / "train-bare"),))


def test_captions_and_encoder_are_part_of_what_a_stage_is(tmp_path: Path):
    first, second = captioned(tmp_path / "one"), captioned(tmp_path / "two", ("a red disc", "a red disc", "a blue cross"))
    gather_prompts(tmp_path / "run", TEXT, WIDTH, (first,))
    names = {
        prompts_identity(tmp_path / "run", text, dataset) for text in (TEXT, replace(TEXT, negative="no")) for dataset in (first, second)
    }
    assert len(names) == 4 and prompts_identity(tmp_path / "run", TEXT, first) in names
    assert config_hash(replace(recipe("scroll"), text="none")) == config_hash(recipe("scroll"))
    assert config_hash(replace(recipe("shapes"), text="none")) != config_hash(recipe("shapes"))


def test_without_prompts_nothing_is_told_or_kept(tmp_path: Path):
    conditions = tiny_conditions(3)
    assert NoPrompts().tell(conditions, ["", ""]) is conditions
    NoPrompts().keep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_starts_of_worlds_of_words_are_the_begins_of_episodes(tmp_path: Path):
    dataset = captioned(tmp_path / "set")
    batch = ClipSampler(dataset, clip_frames=4, batch_size=8, seed=0).windows(episode_begins(dataset, 4))
    assert not batch.starts.any() and batch.episodes.tolist() == [0, 1, 2, 0, 1, 2, 0, 1] and not batch.known[:, 0].any()
