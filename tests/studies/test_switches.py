"""Switched prompts: planted clips are told apart, and every way shares what came before the switch."""

import numpy as np
import pytest

from mutoscope.data.worlds.shape_world import PAUSE_FRAMES, PERIOD, ShapeWorld
from mutoscope.data.worlds.shapes import Told, detect
from mutoscope.studies.switches import PHASES, SwitchOptions, markdown, row, score

PAIRS = SwitchOptions(clips=6).pairs()


def clips(pairs: list[tuple[Told, Told]], before: int, change_at: int, after: int = 3 * PERIOD) -> np.ndarray:
    """What a world shows that hears the new words `change_at` frames after its first pause, from `before` on."""
    made = []
    for index, (old, new) in enumerate(pairs):
        world = ShapeWorld(height=32, width=32)
        world.reset(seed=index, options={"caption": old.caption})
        frames = []
        for frame in range(PAUSE_FRAMES - 1 + before + after):
            if frame == PAUSE_FRAMES - 1 + change_at:
                world.tell(new.caption)
                world.shown = world.told if change_at % PERIOD < PAUSE_FRAMES else world.shown
            frames.append(world.step(np.zeros(0))[0])
        made.append(np.stack(frames[PAUSE_FRAMES - 1 + before :]))
    return np.stack(made)


def test_pairs_have_nothing_in_common():
    assert len(PAIRS) == 6 and SwitchOptions(clips=6).pairs() == PAIRS != SwitchOptions(clips=6, seed=1).pairs()
    assert all(set(vars(old).values()).isdisjoint(vars(new).values()) for old, new in PAIRS)


@pytest.mark.parametrize("phase", PHASES)
def test_a_world_that_hears_at_once_scores_full_marks(phase):
    before = PHASES[phase]
    found = score(detect(clips(PAIRS, before, before)), PAIRS, before)
    assert found["next"].min() == found["later"].min() == found["next_look"].min() == 1
    if phase == "in a pause":
        assert np.isnan(found["rest_new"]).all() and set(found["wait"]) == {2}
    else:
        assert found["rest_new"].min() == 1 and found["rest_old"].max() == 0 and set(found["wait"]) == {0}


@pytest.mark.parametrize("phase", PHASES)
def test_broken_twins_that_never_hear_or_hear_late(phase):
    before = PHASES[phase]
    never = score(detect(clips(PAIRS, before, 10**6)), PAIRS, before)
    assert never["next"].max() == never["later"].max() == never["next_look"].max() == 0 and set(never["wait"]) == {3 * PERIOD}
    late = score(detect(clips(PAIRS, before, before + PERIOD)), PAIRS, before)
    assert late["next"].max() == 0 and late["later"].min() == 1 and late["wait"].min() >= PERIOD
    if phase == "in an appearance":
        assert never["rest_old"].min() == 1 and never["rest_new"].max() == 0


def test_gains_are_paired_with_the_switch_that_keeps():
    before = PHASES["in a pause"]
    heard, deaf = (score(detect(clips(PAIRS, before, at)), PAIRS, before) for at in (before, 10**6))
    scores = {"recommit": heard, "keep": deaf, "no switch": deaf, "from the beginning": heard}
    first, second = row("tiny", "in a pause", "recommit", scores), row("tiny", "in a pause", "keep", scores)
    assert first["next_minus_keep"]["value"] == 1 and second["next_minus_keep"]["value"] == 0
    text = markdown([first, second])
    assert "| tiny | recommit | 1.000 [1.000, 1.000]" in text and "rest of the appearance" not in text
