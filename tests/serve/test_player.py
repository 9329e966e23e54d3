import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from player_page import Page, open_fake, play
from serve_fakes import RATE, FailingSource, Tiny, fake_catalogue, fake_choice, learned_choice

from mutoscope.memory.policy import Full, Window
from mutoscope.serve.player import PlaySettings
from mutoscope.serve.sources import FakeSource


def test_pictures_come_at_the_content_rate_with_input_and_time() -> None:
    async def script(page: Page) -> None:
        await open_fake(page)
        await page.say("input", id=3, held=["turn_right"])
        await page.until(lambda: page.headers()[-1].input_id == 3)
        began, count = time.monotonic(), len(page.pictures())
        await page.frames(20)
        # A busy machine may lose time, but never runs ahead of the clock.
        assert time.monotonic() - began > (20 - 3) / RATE
        assert count < 200

    page = play(script)
    headers = page.headers()
    assert [header.frame for header in headers] == list(range(1, len(headers) + 1))
    assert [round(header.content_time * RATE) for header in headers] == list(range(len(headers)))
    assert [header.input_id for header in headers] == sorted(header.input_id for header in headers)


def test_free_running_is_faster_than_the_content_rate_and_waits_for_the_page() -> None:
    async def script(page: Page) -> None:
        await open_fake(page)
        began = time.monotonic()
        await page.frames(30)
        assert time.monotonic() - began < 30 / 5.0
        page.deaf = True
        await page.frames(1)
        await asyncio.sleep(0.2)
        count = len(page.pictures())
        await asyncio.sleep(0.3)
        assert len(page.pictures()) == count

    page = play(script, fake_catalogue(fake_choice(rate=5.0)), PlaySettings(pace="free"))
    assert len({header.frame for header in page.headers()}) == page.headers()[-1].frame


def commits_follow_pictures(events: list[str]) -> bool:
    """Every commit comes after the picture of its step has gone out."""
    shown = [event for event in events if event != "open"]
    return all(event != "commit" or before == "picture" for before, event in zip(["", *shown], shown, strict=False)) and "commit" in shown


def play_with_events(*, eager: bool) -> list[str]:
    """Events of a short play; an eager world commits inside its step."""
    page_events: list[str] = []

    class Noting(FakeSource):
        def step(self, action: np.ndarray) -> np.ndarray:
            if eager:
                page_events.append("commit")
            return super().step(action)

        def commit(self) -> None:
            if not eager:
                page_events.append("commit")

    async def script(page: Page) -> None:
        page.events = page_events
        await open_fake(page)
        await page.frames(8)

    play(script, fake_catalogue(fake_choice(kind=Noting)))
    # What comes before the first step is the reset's picture.
    return page_events[1:]


def test_the_commit_comes_after_the_picture_was_sent() -> None:
    assert commits_follow_pictures(play_with_events(eager=False))


def test_a_world_that_commits_before_is_noticed() -> None:
    assert not commits_follow_pictures(play_with_events(eager=True))


def test_pause_stops_the_clock_and_a_reset_lets_it_run() -> None:
    async def script(page: Page) -> None:
        await open_fake(page)
        await page.say("pause", paused=True)
        await page.until(lambda: page.of_type("state")[-1]["paused"])
        count = len(page.pictures())
        await asyncio.sleep(0.2)
        assert len(page.pictures()) == count
        await page.say("reset", start=2, seed=9)
        await page.frames(3)

    page = play(script)
    last = page.of_type("state")[-1]
    assert (last["paused"], last["start"], last["seed"]) == (False, 2, 9)
    assert 0.0 in [header.content_time for header in page.headers()[1:]]


def test_a_world_that_fails_pauses_and_the_player_goes_on() -> None:
    made: list[FakeSource] = []

    async def script(page: Page) -> None:
        await open_fake(page)
        await page.until(lambda: bool(page.of_type("error")))
        assert page.of_type("state")[-1]["paused"]
        assert isinstance(made[0], FailingSource)
        made[0].failing = False
        await page.say("reset")
        await page.frames(3)

    page = play(script, fake_catalogue(fake_choice(kind=FailingSource, made=made)))
    assert "the model fell over" in page.of_type("error")[0]["message"]


def test_requests_that_cannot_be_met_leave_the_play_as_it_is() -> None:
    async def script(page: Page) -> None:
        await open_fake(page)
        await page.say("open", panes=[{"choice": "gone"}])
        await page.until(lambda: len(page.of_type("error")) >= 1)
        await page.say("reset", start=7)
        await page.until(lambda: len(page.of_type("error")) >= 2)
        await page.frames(3)

    page = play(script)
    assert "fake" in page.of_type("error")[0]["message"] and "there are 3" in page.of_type("error")[1]["message"]
    assert not page.of_type("state")[-1]["paused"]


def test_new_panes_close_the_old_ones_and_keep_the_start() -> None:
    made: list[FakeSource] = []
    catalogue = fake_catalogue(fake_choice("a", made=made), fake_choice("b", made=made))

    async def script(page: Page) -> None:
        await open_fake(page, "a")
        await open_fake(page, "b", "a", "b")
        await page.frames(9)

    page = play(script, catalogue)
    assert [source.closed for source in made] == [True] * 4
    assert {header.panes for header in page.headers()} == {1, 3}
    assert [len(ready["panes"]) for ready in page.of_type("ready")] == [1, 3]
    assert page.of_type("state")[-1]["start"] == 1


def test_a_recording_can_be_fetched_once_it_is_stopped() -> None:
    async def script(page: Page) -> None:
        await open_fake(page, "fake", "fake")
        await page.say("record", recording=True)
        await page.until(lambda: page.of_type("state")[-1]["recording"])
        await page.frames(10)
        await page.say("record", recording=False)
        await page.until(lambda: bool(page.of_type("recording")))

    (recording,) = play(script).of_type("recording")
    assert recording["url"].startswith("/recordings/") and recording["frames"] >= 4


def test_a_pause_tells_what_the_ledger_holds_and_play_tells_it_now_and_then() -> None:
    made: list[Tiny] = []
    during: list[dict] = []

    async def script(page: Page) -> None:
        await open_fake(page, "tiny")
        await page.frames(20)
        during.extend(page.of_type("memory"))
        await page.say("pause", paused=True)
        await page.until(lambda: page.of_type("state")[-1]["paused"] and page.last("memory") > page.last("state"))

    page = play(script, fake_catalogue(learned_choice(Window(6), made)))
    (pane,) = page.of_type("memory")[-1]["panes"]
    assert {slot["frame"]: slot["slot"] for slot in pane["slots"]} == made[0].session.store.ledgers[0].slot_of
    assert (pane["num_slots"], pane["num_remembered"]) == (6, 6) and sum(slot["bytes"] for slot in pane["slots"]) == made[0].memory_bytes
    # 20 frames at 17.5 frames/s last 1.1 s; one message came with the reset.
    assert 3 <= len(during) <= len(page.pictures()) // 4 + 2
    assert [slot["kind"] for slot in during[-1]["panes"][0]["slots"]] == ["frame"] * 5 + ["open"]


def test_a_deaf_page_gets_no_more_than_one_message_about_memory() -> None:
    async def script(page: Page) -> None:
        await open_fake(page, "tiny")
        page.deaf = True
        await page.frames(1)
        await asyncio.sleep(0.3)
        count = len(page.of_type("memory"))
        await asyncio.sleep(0.9)
        assert len(page.of_type("memory")) <= count + 1

    play(script, fake_catalogue(learned_choice(Window(6), [])))


def test_a_world_that_runs_full_shows_its_full_memory() -> None:
    async def script(page: Page) -> None:
        await open_fake(page, "tiny")
        await page.until(lambda: bool(page.of_type("error")))
        await page.until(lambda: page.of_type("memory")[-1]["panes"][0]["num_remembered"] == 8)

    page = play(script, fake_catalogue(learned_choice(Full(8), [])))
    assert "holds 8 frames" in page.of_type("error")[0]["message"]


def test_the_time_spent_on_memory_is_told() -> None:
    async def script(page: Page) -> None:
        await open_fake(page, "tiny")
        await page.until(lambda: any(stats["memory_ms"][0] > 0 for stats in page.of_type("stats")))

    stats = play(script, fake_catalogue(learned_choice(Window(6), []))).of_type("stats")[-1]
    assert 0 < stats["memory_ms"][0] < 1000 and stats["memory_bytes"][0] > 0


def test_a_deaf_page_loses_frames_and_is_told_how_many() -> None:
    async def script(page: Page) -> None:
        await open_fake(page)
        page.deaf = True
        await page.until(lambda: any(stats["dropped"] > 5 for stats in page.of_type("stats")))
        page.deaf = False
        await page.say("ack", frame=page.headers()[-1].frame)
        await page.frames(5)

    frames = [header.frame for header in play(script).headers()]
    assert max(later - earlier for earlier, later in zip(frames, frames[1:], strict=False)) > 5


def test_steps_of_several_pixel_frames_are_spread_over_their_time() -> None:
    arrivals: list[float] = []

    async def script(page: Page) -> None:
        await open_fake(page)
        await page.frames(8)
        for _ in range(16):
            await page.frames(1)
            arrivals.append(time.monotonic())

    page = play(script, fake_catalogue(fake_choice(stride=4)))
    headers = page.headers()
    assert [round(header.content_time * RATE) for header in headers] == list(range(len(headers)))
    gaps = sorted(later - earlier for earlier, later in zip(arrivals, arrivals[1:], strict=False))
    assert gaps[len(gaps) // 2] > 0.4 / RATE


def starts_of(opening: int | None, *scripted: dict) -> Page:
    """A page that opens a world without naming a start, and then says what is scripted."""

    async def script(page: Page) -> None:
        await page.say("open", panes=[{"choice": "fake"}], picture="jpeg")
        await page.frames(1)
        for number, message in enumerate(scripted, 2):
            await page.say(**message)
            await page.until(lambda number=number: len(page.of_type("state")) >= number)

    return play(script, fake_catalogue(replace(fake_choice(), opening=opening)))


@pytest.mark.parametrize("opening", [0, 2])
def test_a_page_opens_with_the_start_that_its_world_names_and_returns_to_it(opening: int) -> None:
    page = starts_of(opening, {"kind": "reset", "start": 1}, {"kind": "reset"})
    assert page.of_type("ready")[0]["opening"] == opening
    assert [state["start"] for state in page.of_type("state")] == [opening, 1, opening]


def test_without_one_the_start_is_drawn(monkeypatch) -> None:
    monkeypatch.setattr("mutoscope.serve.player.secrets.randbelow", lambda count: count - 1)
    page = starts_of(None)
    assert page.of_type("ready")[0]["opening"] is None and page.of_type("state")[0]["start"] == 2
