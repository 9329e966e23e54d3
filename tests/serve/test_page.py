"""The page in a real browser, on worlds whose pictures move with the keys."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import av
import pytest
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright
from serve_fakes import Tiny, fake_catalogue, fake_choice, learned_choice

from mutoscope.memory.policy import PolicyConfig, SinkWindow, Window
from mutoscope.serve.app import BackgroundServer
from mutoscope.serve.catalogue import Catalogue
from mutoscope.serve.prompts import PromptBook
from mutoscope.serve.sources import FakeSource
from mutoscope.serve.strip import Strip

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CENTRE = """(pane) => {
    const canvas = document.querySelectorAll("canvas")[pane];
    const { width, height } = canvas;
    const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    let [x, y, count] = [0, 0, 0];
    for (let i = 0; i < data.length; i += 4) if (data[i] > 150) { x += (i / 4) % width; y += Math.floor(i / 4 / width); count += 1; }
    return [x / count, y / count];
}"""

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    """Chromium with an empty profile."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"needs {CHROMIUM}; `make test` installs it")
    profile = tmp_path_factory.mktemp("profile")
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(profile, executable_path=CHROMIUM, args=ARGUMENTS)
        context.set_default_timeout(20_000)
        yield context
        context.close()


def begin(page: Page, url: str) -> None:
    """Open the page and wait until it plays; its module may still be asking what the browser can decode when the page has loaded."""
    page.goto(url)
    page.wait_for_function("window.mutoscope")
    frames(page, 3)


@contextmanager
def opened(browser: BrowserContext, catalogue: Catalogue | None = None, query: str = "", pages: int = 1) -> Iterator[list[Page]]:
    """A server, and so many tabs that play there."""
    with BackgroundServer(catalogue or fake_catalogue()) as server:
        tabs = [browser.new_page() for _ in range(pages)]
        for tab in tabs:
            begin(tab, server.url + query)
        yield tabs
        for tab in tabs:
            tab.close()


def frames(page: Page, count: int) -> None:
    """Wait for so many more complete frames."""
    goal = page.evaluate("mutoscope.counts.complete") + count
    page.wait_for_function(f"mutoscope.counts.complete >= {goal}")


def centre(page: Page, pane: int = 0) -> tuple[float, float]:
    """Where the bright square is on a pane's canvas, in pixels."""
    x, y = page.evaluate(CENTRE, pane)
    return x, y


def moved(page: Page, *keys: str, pane: int = 0) -> tuple[int, int]:
    """The direction (-1, 0, 1) in which the square goes while these keys are held."""
    before = centre(page, pane)
    answered = page.evaluate("mutoscope.report().latencies.length") + len(keys)
    for key in keys:
        page.keyboard.down(key)
    page.wait_for_function(f"mutoscope.report().latencies.length >= {answered}")
    frames(page, 5)
    for key in keys:
        page.keyboard.up(key)
    frames(page, 3)
    after = centre(page, pane)
    return tuple((b - a > 2) - (b - a < -2) for a, b in zip(before, after, strict=True))  # type: ignore[return-value]


DIRECTIONS = {
    ("ArrowLeft",): (-1, 0),
    ("ArrowRight",): (1, 0),
    ("ArrowUp",): (0, -1),
    ("s",): (0, 1),
    ("a", "w"): (-1, -1),
    ("d", "ArrowDown"): (1, 1),
}


def goes_the_right_way(page: Page) -> bool:
    """Whether every key, alone and with others, moves the square where it should."""
    return all(moved(page, *keys) == direction for keys, direction in DIRECTIONS.items())


@pytest.mark.parametrize(("query", "picture"), [("", "h264"), ("?picture=jpeg", "jpeg")])
def test_keys_change_the_picture_the_right_way(browser: BrowserContext, query: str, picture: str) -> None:
    with opened(browser, query=query) as (page,):
        assert page.evaluate("mutoscope.state.picture") == picture
        assert goes_the_right_way(page)
        report = page.evaluate("mutoscope.report()")
    assert len(report["latencies"]) == sum(map(len, DIRECTIONS)) and report["errors"] == 0
    assert all(0 < latency < 2000 for latency in report["latencies"])


class Mirrored(FakeSource):
    """A broken world: left is right."""

    MOVES = FakeSource.MOVES | {"turn_left": (1, 0), "turn_right": (-1, 0)}


def test_a_mirrored_world_is_noticed(browser: BrowserContext) -> None:
    with opened(browser, fake_catalogue(fake_choice(kind=Mirrored))) as (page,):
        assert not goes_the_right_way(page)
        assert moved(page, "ArrowRight") == (-1, 0)  # back from where the first key led, and so away from the edge


def until(condition: Callable[[], bool], page: Page) -> None:
    """Let frames pass until something is so."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        frames(page, 1)


def test_reset_brings_the_chosen_start_back(browser: BrowserContext) -> None:
    with opened(browser) as (page,):
        page.locator("#start").select_option("1")
        until(lambda: abs(centre(page)[0] - 39.5) < 2, page)
        moved(page, "ArrowLeft", "ArrowUp")
        assert centre(page)[0] < 36
        page.locator("#reset").click()
        until(lambda: abs(centre(page)[0] - 39.5) < 2 and abs(centre(page)[1] - 23.5) < 2, page)
        page.keyboard.press("p")
        expect(page.locator("body")).to_have_class("paused")
        page.keyboard.press("r")
        frames(page, 3)


def test_a_world_that_names_its_opening_offers_no_other_at_random(browser: BrowserContext) -> None:
    offered = "[...document.querySelectorAll('#start option')].map(({ label }) => label)"
    with opened(browser, fake_catalogue(replace(fake_choice(), opening=2))) as (page,):
        assert page.evaluate(offered) == ["left", "middle", "right"] and page.locator("#start").input_value() == "2"
        assert abs(centre(page)[0] - 47.5) < 2
        page.locator("#start").select_option("0")
        until(lambda: abs(centre(page)[0] - 31.5) < 2 and page.evaluate("mutoscope.state.start") == 0, page)
        assert page.locator("#start").input_value() == "0"
    with opened(browser) as (page,):
        assert page.evaluate(offered) == ["at random", "left", "middle", "right"] and page.locator("#start").input_value() == ""


def test_two_tabs_do_not_disturb_each_other(browser: BrowserContext) -> None:
    with opened(browser, pages=2) as (first, second):
        before = centre(second)
        assert moved(first, "ArrowLeft") == (-1, 0)
        frames(second, 3)
        assert centre(second) == before
        first.evaluate("mutoscope.link.socket.send('nonsense')")
        first.locator("#pause").click()
        assert moved(second, "ArrowRight") == (1, 0)
        assert second.evaluate("mutoscope.counts.errors") == 0


@pytest.mark.parametrize("message", ["'nonsense'", '\'{"type": "open", "panes": 7}\'', "'['.repeat(20000)", "new Uint8Array(9)"])
def test_malformed_messages_get_an_error_and_the_play_goes_on(browser: BrowserContext, message: str) -> None:
    with opened(browser) as (page,):
        page.evaluate(f"mutoscope.link.socket.send({message})")
        expect(page.locator("#toast")).to_be_visible()
        assert page.evaluate("mutoscope.counts.errors") == 1
        assert moved(page, "ArrowLeft") == (-1, 0)


def test_worlds_stand_side_by_side_under_the_same_keys(browser: BrowserContext) -> None:
    with opened(browser, fake_catalogue(fake_choice("a"), fake_choice("b", height=49, width=65))) as (page,):
        page.locator("#add").click()
        expect(page.locator("canvas")).to_have_count(2)
        frames(page, 3)
        before = centre(page, 1)
        assert moved(page, "ArrowLeft", pane=0) == (-1, 0)
        assert centre(page, 1)[0] < before[0] - 2
        page.locator(".pane").nth(1).locator("select").nth(1).select_option("4")
        frames(page, 3)
        assert page.evaluate("mutoscope.state.panes[1].steps") == 4
        page.locator("button.remove").first.click()
        expect(page.locator("canvas")).to_have_count(1)
        assert page.locator("canvas").evaluate("canvas => canvas.width") == 65


def test_keys_on_the_page_can_be_touched(browser: BrowserContext) -> None:
    with opened(browser) as (page,):
        before = centre(page)
        page.locator("[data-code=ArrowRight]").hover()
        page.mouse.down()
        expect(page.locator("[data-code=ArrowRight]")).to_have_class("key down")
        frames(page, 5)
        page.mouse.up()
        frames(page, 2)
        resting = centre(page)
        frames(page, 3)
        assert resting[0] > before[0] + 2 and centre(page) == resting


def test_what_was_played_can_be_downloaded(browser: BrowserContext, tmp_path: Path) -> None:
    with opened(browser) as (page,):
        page.locator("#record").click()
        expect(page.locator("#record")).to_have_text("Stop and download")
        moved(page, "ArrowLeft")
        with page.expect_download() as download:
            page.locator("#record").click()
        download.value.save_as(tmp_path / "played.mp4")
    with av.open(str(tmp_path / "played.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 8


# Reads the first strip: [slot, kind, frame, age, what is drawn] of each cell.
CELLS = """() => [...document.querySelectorAll(".strip")][0].querySelectorAll("li").values().map(({ dataset }) =>
    [Number(dataset.slot), dataset.kind, Number(dataset.frame), Number(dataset.age), dataset.state]).toArray()"""
Cell = tuple[int, str, int, int, str]


def tiny_catalogue(policy: PolicyConfig, made: list[Tiny], kind: type[Tiny] = Tiny) -> Catalogue:
    """A tiny learned world with that memory."""
    return fake_catalogue(learned_choice(policy, made, kind))


def cells(page: Page) -> list[Cell]:
    """The memory strip as it stands on the page."""
    return [tuple(cell) for cell in page.evaluate(CELLS)]


def agrees_with_the_ledger(page: Page, source: Tiny, seconds: float = 5.0) -> bool:
    """Whether the strip of a paused page comes to have the ledger's filled slots, each with its picture, and no others."""
    page.locator("#pause").click()
    expect(page.locator("body")).to_have_class("paused")
    agrees, end = False, time.monotonic() + seconds
    while not agrees and time.monotonic() < end:
        page.wait_for_timeout(50)
        shown = {frame: slot for slot, kind, frame, _, drawn in cells(page) if kind not in ("empty", "open") and drawn == "shown"}
        agrees = shown == source.session.store.ledgers[0].slot_of and len(cells(page)) == source.session.store.spec.slots
    page.locator("#pause").click()
    return agrees


def watched(page: Page, seconds: float) -> list[dict[int, Cell]]:
    """Different states of the strip, by slot, in order."""
    states: list[dict[int, Cell]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = {cell[0]: cell for cell in cells(page)}
        if not states or state != states[-1]:
            states.append(state)
        page.wait_for_timeout(30)
    return states


def ages_count_up_and_slots_roll_over(states: list[dict[int, Cell]], window: int) -> bool:
    """Whether each frame stays in its slot and ages by as much as play went on, and a slot's next frame is `window` frames later."""
    stayed = rolled = 0
    for before, after in zip(states, states[1:], strict=False):
        passed = max(cell[2] for cell in after.values()) - max(cell[2] for cell in before.values())
        for slot, (_, _, frame, age, _) in after.items():
            _, _, old_frame, old_age, _ = before[slot]
            if (frame - old_frame) % window or passed < 1 or age != old_age + passed - (frame - old_frame):
                return False
            stayed += frame == old_frame
            rolled += frame > old_frame
    return stayed > 0 and rolled > 0


def test_the_memory_strip_shows_what_the_ledger_holds(browser: BrowserContext) -> None:
    made: list[Tiny] = []
    with opened(browser, tiny_catalogue(Window(12), made)) as (page,):
        frames(page, 12)
        assert agrees_with_the_ledger(page, made[0])
        frames(page, 6)
        assert ages_count_up_and_slots_roll_over(watched(page, 3), 12)
        kinds = [kind for _, kind, _, _, _ in cells(page)]
        assert kinds == ["frame"] * 11 + ["open"] and page.locator(".strip p").text_content().startswith("remembers 11 of 12")
        assert page.evaluate("mutoscope.counts.errors") == 0
        page.wait_for_function("/B, [0-9.]+ ms.frame$/.test(document.getElementById('memory').textContent)")
        # A new play begins with an emptier memory, whose frames count from 0 again.
        page.locator("#reset").click()
        page.wait_for_function("[...document.querySelectorAll('.strip li')].some(({dataset}) => dataset.kind == 'empty')")
        frames(page, 12)
        assert agrees_with_the_ledger(page, made[0])


class Stuck(Tiny):
    """A broken world: its strip never changes once it is full."""

    def strip(self) -> Strip:
        strip = super().strip()
        if strip.slots[-1].kind != "empty":
            vars(self).setdefault("first", strip)
        return vars(self).get("first", strip)


class Forgetful(Tiny):
    """A broken world: its strip leaves the oldest frame out."""

    def strip(self) -> Strip:
        strip = super().strip()
        return replace(strip, slots=strip.slots[1:])


class OneLate(Tiny):
    """A broken world: slots and frames do not belong together."""

    def strip(self) -> Strip:
        strip = super().strip()
        slots = [content.slot for content in strip.slots]
        return replace(strip, slots=tuple(replace(content, slot=slot) for content, slot in zip(strip.slots, sorted(slots), strict=True)))


@pytest.mark.long
@pytest.mark.parametrize(("kind", "moves"), [(Stuck, False), (Forgetful, True), (OneLate, False)])
def test_a_strip_that_does_not_follow_the_ledger_is_noticed(browser: BrowserContext, kind: type[Tiny], moves: bool) -> None:
    made: list[Tiny] = []
    with opened(browser, tiny_catalogue(Window(12), made, kind)) as (page,):
        frames(page, 15)
        assert not agrees_with_the_ledger(page, made[0], seconds=1.0)
        frames(page, 6)
        if not moves:
            assert not ages_count_up_and_slots_roll_over(watched(page, 2), 12)


def test_sinks_and_empty_slots_are_marked_and_other_worlds_have_no_strip(browser: BrowserContext) -> None:
    made: list[Tiny] = []
    with opened(browser, tiny_catalogue(SinkWindow(2, 60), made)) as (page,):
        assert agrees_with_the_ledger(page, made[0])
        kinds = [kind for _, kind, _, _, _ in cells(page)]
        assert kinds[:2] == ["sink", "sink"] and kinds[-1] == "empty" and len(kinds) == 62
        marks = page.evaluate("[...document.querySelectorAll('.strip .thumb')].map((thumb) => thumb.dataset.mark)")
        assert marks[:3] == ["sink", "sink", ""]
    with opened(browser) as (page,):
        expect(page.locator(".strip")).to_be_hidden()


def test_a_frame_whose_picture_the_page_lacks_is_drawn_as_not_shown(browser: BrowserContext) -> None:
    class Unseen(Tiny):
        def strip(self) -> Strip:
            return replace(super().strip(), pictures={})

    with opened(browser, tiny_catalogue(Window(6), [], Unseen)) as (page,):
        frames(page, 8)
        assert {drawn for _, _, _, _, drawn in cells(page)} == {"not shown"}


def test_the_page_comes_back_when_the_server_does(browser: BrowserContext) -> None:
    with BackgroundServer(fake_catalogue()) as server:
        page = browser.new_page()
        begin(page, server.url)
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
    expect(page.locator("body")).to_have_class("gone")
    with BackgroundServer(fake_catalogue(), port=port):
        frames(page, 3)
        assert moved(page, "ArrowLeft") == (-1, 0)
        page.close()


def test_words_are_typed_and_said(browser: BrowserContext) -> None:
    made: list[FakeSource] = []
    speaking = replace(fake_choice(made=made), prompts=PromptBook(str.upper, ("a red square", "a blue one"), free=True))
    with opened(browser, fake_catalogue(speaking)) as (page,):
        box = page.locator("#prompt")
        expect(box).to_have_value("a red square")
        start = centre(page)
        box.fill("")
        box.press_sequentially("wasd pr")
        frames(page, 8)
        assert centre(page) == start and not page.evaluate("mutoscope.state.paused"), "letters of a text are no keys"
        box.press("Enter")
        page.wait_for_function("mutoscope.state.prompt === 'wasd pr'")
        page.locator("#keep").click()
        frames(page, 3)
        box.fill("night")
        page.locator("#cut").click()
        page.wait_for_function("mutoscope.state.prompt === 'night'")
        assert page.evaluate("mutoscope.counts.errors") == 0
        assert moved(page, "ArrowRight") == (1, 0)
    assert made[0].said == [("A RED SQUARE", "keep"), ("WASD PR", "recommit"), ("WASD PR", "keep"), ("NIGHT", "keep")]


def test_worlds_that_are_not_told_have_no_box(browser: BrowserContext) -> None:
    with opened(browser) as (page,):
        expect(page.locator("#words")).to_be_hidden()
