"""Prompts of a page: embedded beside the stream, heard by those who listen, refused in words."""

import threading
from dataclasses import replace

import pytest
from player_page import Page, open_fake, play
from serve_fakes import fake_catalogue, fake_choice

from mutoscope.core.errors import ConfigError
from mutoscope.serve.catalogue import Catalogue, PaneChoice
from mutoscope.serve.prompts import PromptBook, embed_for, first_prompt
from mutoscope.serve.sources import FakeSource, RealSource
from mutoscope.serve.wire import WireError, parse_message

KNOWN = ("a red square", "a blue one")


def speaking(
    name: str = "fake", *, made: list[FakeSource] | None = None, free: bool = True, wait: threading.Event | None = None
) -> PaneChoice:
    """A fake world that notes what it is told; every text but the first is embedded once `wait` is set."""

    def embed(text: str) -> str:
        if wait is not None and text != KNOWN[0]:
            assert wait.wait(10)
        return text.upper()

    return replace(fake_choice(name, made=made), prompts=PromptBook(embed, KNOWN, free))


def catalogue(*choices: PaneChoice) -> Catalogue:
    return fake_catalogue(*choices)


def prompt_of(page: Page) -> object:
    """What the newest state says."""
    return page.of_type("state")[-1]["prompt"]


def test_a_page_begins_with_the_first_prompt_and_hears_others() -> None:
    made: list[FakeSource] = []

    async def script(page: Page) -> None:
        await open_fake(page)
        assert prompt_of(page) == KNOWN[0] and page.of_type("ready")[-1]["prompts"] == {"known": list(KNOWN), "free": True}
        await page.say("say", text="say recommit")
        await page.until(lambda: prompt_of(page) == "say recommit")
        await page.say("say", text="say keep", switch="keep")
        await page.until(lambda: prompt_of(page) == "say keep")

    play(script, catalogue(speaking(made=made)))
    assert made[0].said == [("A RED SQUARE", "keep"), ("SAY RECOMMIT", "recommit"), ("SAY KEEP", "keep")]


def test_a_cut_begins_a_new_scene_under_the_new_words() -> None:
    made: list[FakeSource] = []

    async def script(page: Page) -> None:
        await open_fake(page)
        await page.frames(5)
        seed, times = page.of_type("state")[-1]["seed"], [header.content_time for header in page.headers()]
        assert times[-1] > 0
        await page.say("say", text="night", switch="cut")
        await page.until(lambda: page.of_type("state")[-1]["seed"] != seed)
        count = len(page.headers())
        await page.frames(1)
        assert min(header.content_time for header in page.headers()[count - 2 :]) < times[-1], "the clock of the scene begins anew"

    play(script, catalogue(speaking(made=made)))
    assert made[0].said[-1] == ("NIGHT", "keep")


def test_the_stream_goes_on_while_words_are_embedded_and_only_the_newest_count() -> None:
    made: list[FakeSource] = []
    wait = threading.Event()

    async def script(page: Page) -> None:
        await open_fake(page)
        await page.say("say", text="first")
        await page.frames(4)
        await page.say("say", text="second")
        await page.frames(4)
        assert len(made[0].said) == 1, "nothing is embedded yet"
        wait.set()
        await page.until(lambda: prompt_of(page) == "second")

    play(script, catalogue(speaking(made=made, wait=wait)))
    assert [words for words, _ in made[0].said] == ["A RED SQUARE", "SECOND"]


def test_panes_that_do_not_listen_are_told_nothing() -> None:
    listening: list[FakeSource] = []
    deaf: list[FakeSource] = []

    async def script(page: Page) -> None:
        await open_fake(page, "deaf", "fake")
        await page.say("say", text="night")
        await page.until(lambda: prompt_of(page) == "night")

    play(script, catalogue(speaking(made=listening), fake_choice("deaf", made=deaf)))
    assert [words for words, _ in listening[0].said] == ["A RED SQUARE", "NIGHT"] and deaf[0].said == []


def test_a_page_asks_for_its_prompt_again_when_it_changes_its_panes() -> None:
    made: list[FakeSource] = []

    async def script(page: Page) -> None:
        await page.say("open", panes=[{"choice": "fake"}], prompt="night")
        await page.frames(1)
        assert prompt_of(page) == "night"

    play(script, catalogue(speaking(made=made)))
    assert made[0].said == [("NIGHT", "keep")]


def test_what_cannot_be_said_is_said_and_the_stream_goes_on() -> None:
    made: list[FakeSource] = []

    async def script(page: Page) -> None:
        await open_fake(page)
        await page.say("say", text="a green one")
        await page.until(lambda: bool(page.of_type("error")))
        await page.frames(3)

    page = play(script, catalogue(speaking(made=made, free=False)))
    assert "no embedding of 'a green one' is at hand; known: a red square; a blue one" in page.of_type("error")[0]["message"]
    assert len(made[0].said) == 1

    async def deaf(page: Page) -> None:
        await open_fake(page)
        await page.say("say", text="night")
        await page.until(lambda: bool(page.of_type("error")))

    assert "no world on this page" in play(deaf).of_type("error")[0]["message"]


@pytest.mark.parametrize(
    "fields", ['"text": ""', '"text": "  "', f'"text": "{"x" * 2001}"', '"text": "night", "switch": "fade"', '"switch": "cut"']
)
def test_malformed_words_are_wire_errors(fields: str) -> None:
    with pytest.raises(WireError):
        parse_message(f'{{"type": "say", {fields}}}')
    assert parse_message('{"type": "say", "text": "night", "switch": "cut"}')


def test_books_say_what_is_known() -> None:
    book = PromptBook(str.upper, KNOWN, free=False)
    assert (
        first_prompt((None, book), None) == KNOWN[0] and first_prompt((book,), "night") == KNOWN[0] and first_prompt((None,), "x") is None
    )
    assert first_prompt((replace(book, free=True),), "night") == "night"
    assert embed_for((None, book), KNOWN[1]) == (None, "A BLUE ONE")
    with pytest.raises(ConfigError, match="none is known"):
        PromptBook(str.upper, (), free=True)
    with pytest.raises(ConfigError, match="not told in words"):
        RealSource(None, FakeSource().world).say("night", "keep")
