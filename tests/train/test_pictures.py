"""What a stage shows while it trains: how many clips, and of which weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from training_fakes import ALONE

from fakes import tiny_checkpoint, tiny_codec, tiny_manifest, tiny_model
from mutoscope.memory.policy import EmaSink, Window
from mutoscope.models.tiled_codec import TiledCodec
from mutoscope.models.wan_codec import wan_codec
from mutoscope.recipes import recipe
from mutoscope.train import pictures
from wan_fakes import CODEC


@pytest.mark.parametrize(("name", "rows"), [("wan-1.3b", 1), ("wan-14b", 1), ("shapes", 4), ("doom", 4)])
def test_a_published_model_shows_one_clip(name, rows):
    """Its cache and its codec hold gigabytes for every clip."""
    assert pictures.sample_rows(recipe(name)) == rows


def test_a_published_model_is_shown_with_a_small_memory_and_a_decoder_in_tiles():
    run, small = recipe("wan-1.3b"), recipe("shapes")
    window, blended = (tiny_model().config.cache(policy, 1) for policy in (Window(4), EmaSink(2, 4)))
    assert [pictures.sample_cache(*given) for given in ((run, window), (run, blended), (small, window))] == ["int8", "plain", "plain"]
    assert [pictures.sample_context(each) for each in (run, small)] == [1, 4]
    wan, own = wan_codec(CODEC), tiny_codec()
    assert isinstance(pictures.in_tiles(wan), TiledCodec) and pictures.in_tiles(own) is own


def test_the_average_itself_is_shown_and_no_copy_of_it(monkeypatch):
    checkpoint, shown = tiny_checkpoint(), []
    monkeypatch.setattr(pictures, "generate", lambda made, *given, **named: shown.append(made.model) or named["frames"])
    arrays = {"frames": np.zeros((1, 6, 12, 20, 3), np.uint8), "actions": np.zeros((1, 6, 3), np.float32)}
    batch = SimpleNamespace(arrays=arrays, known=np.ones((1, 6), bool), episodes=(0,))
    chain = SimpleNamespace(folder=Path("nowhere"), run=recipe("doom"), workers=ALONE)
    pictures.continue_clips(chain, checkpoint.model, checkpoint.codec, tiny_manifest(), batch)
    assert shown == [checkpoint.model]
    with pytest.raises(AssertionError):
        pictures.continue_clips(chain, checkpoint.model.requires_grad_(True), checkpoint.codec, tiny_manifest(), batch)
