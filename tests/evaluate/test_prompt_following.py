"""Prompt following on planted clips: what is right, what is wrong in one thing, and what guessing reaches."""

from dataclasses import replace

import numpy as np
import pytest

from mutoscope.data.worlds.shape_world import ShapeWorld
from mutoscope.data.worlds.shapes import COLOURS, DIRECTIONS, EVERYTHING, SHAPES, Told, blank, detect, draw
from mutoscope.evaluate.metrics.prompt_following import CHANCE, PromptScores, prompt_scores

TOLD = Told("squares", "blue", "right")


def walk(told: Told) -> list[np.ndarray]:
    """An appearance of four frames, which moves as its caption says."""
    down, across = DIRECTIONS[told.direction]
    return [draw(told, (1 + k * down, 1 + k * across), 24, 24) for k in range(4)]


def scored(*parts: list[np.ndarray], told: Told = TOLD) -> PromptScores:
    clip = np.stack([picture for part in parts for picture in part])
    return prompt_scores(detect(clip[None]), [told])


PAUSE = [blank(24, 24)] * 2


def test_the_world_itself_is_right_in_everything():
    world = ShapeWorld(height=24, width=24)
    clips = []
    for index, told in enumerate(EVERYTHING[::7]):
        first, _ = world.reset(seed=index, options={"caption": told.caption})
        clips.append(np.stack([first, *(world.step(np.zeros(0))[0] for _ in range(16))]))
    scores = prompt_scores(detect(np.stack(clips)), EVERYTHING[::7])
    for values in (scores.colour, scores.shape, scores.direction, scores.appearances):
        assert (values == 1).all()
    assert np.allclose(scores.shown, 8 / 17)
    wrong = prompt_scores(detect(np.stack(clips)), EVERYTHING[::7][1:] + EVERYTHING[:1])
    assert wrong.appearances.mean() == 0, "the broken twin: every clip under the next one's prompt"


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (TOLD, (1.0, 1.0, 1.0, 1.0)),
        (replace(TOLD, colour="green"), (0.0, 1.0, 1.0, 0.0)),
        (replace(TOLD, shape="discs"), (1.0, 0.0, 1.0, 0.0)),
        (replace(TOLD, direction="down"), (1.0, 1.0, 0.0, 0.0)),
    ],
)
def test_each_word_is_judged_for_itself(made: Told, wanted: tuple[float, ...]):
    scores = scored(PAUSE, walk(made), PAUSE)
    assert (scores.colour[0], scores.shape[0], scores.direction[0], scores.appearances[0]) == wanted and scores.shown[0] == 0.5


def test_appearances_count_one_by_one():
    green = replace(TOLD, colour="green")
    scores = scored(walk(TOLD), PAUSE, walk(green), PAUSE, walk(TOLD), PAUSE, walk(TOLD)[:1])
    assert scores.appearances[0] == pytest.approx(2 / 3) and scores.colour[0] == pytest.approx(9 / 13)
    flicker = scored([*walk(TOLD)[:2], *walk(green)[2:]])
    assert flicker.appearances[0] == 0 and flicker.colour[0] == 0.5, "an appearance is right in all of its frames or not"
    still = scored(walk(TOLD)[:1] * 4)
    assert still.direction[0] == 0 and still.appearances[0] == 0


def test_a_clip_that_shows_nothing_says_nothing():
    scores = scored(PAUSE, PAUSE)
    assert scores.shown[0] == 0 and all(
        np.isnan(values[0]) for values in (scores.colour, scores.shape, scores.direction, scores.appearances)
    )
    assert np.isnan(scored(PAUSE, walk(TOLD)[:1]).direction[0])


def test_chance_is_what_one_kind_of_clip_reaches_over_all_prompts():
    clip = np.stack(walk(TOLD))
    shown = detect(np.stack([clip] * len(EVERYTHING)))
    scores = prompt_scores(shown, EVERYTHING)
    assert {name: float(getattr(scores, name).mean()) for name in CHANCE} == pytest.approx(CHANCE)
    assert pytest.approx({"colour": 1 / len(COLOURS), "shape": 1 / len(SHAPES), "direction": 1 / 4, "appearances": 1 / 96}) == CHANCE
