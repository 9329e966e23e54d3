import asyncio
import threading
from dataclasses import replace

import numpy as np
import pytest
from serve_fakes import fake_catalogue, fake_choice

from mutoscope.core.errors import ConfigError
from mutoscope.serve.catalogue import Catalogue, PaneOptions
from mutoscope.serve.engine import Engine, EngineError, PaneSet, make_panes
from mutoscope.serve.scheduler import InputSlot
from mutoscope.serve.sources import FakeSource, PaneSource, RealSource, RealStart
from mutoscope.serve.wire import PaneRequest


def held(*names: str) -> InputSlot:
    """A slot in which these are held, as input 7."""
    slot = InputSlot()
    slot.put(7, names)
    return slot


def test_jobs_run_on_one_thread_in_order() -> None:
    async def run() -> list[tuple[int, int]]:
        engine = Engine()
        jobs = [engine.run(lambda number=number: (number, threading.get_ident())) for number in range(20)]
        done = await asyncio.gather(*jobs)
        engine.close()
        return done

    done = asyncio.run(run())
    assert [number for number, _ in done] == list(range(20))
    assert len({thread for _, thread in done}) == 1 and done[0][1] != threading.get_ident()


def test_what_a_job_did_not_foresee_becomes_an_error_in_words() -> None:
    async def run() -> None:
        await Engine().run(lambda: 1 // 0)

    with pytest.raises(EngineError, match="ZeroDivisionError"):
        asyncio.run(run())


def test_panes_move_together_under_the_same_keys() -> None:
    panes = PaneSet((FakeSource(), FakeSource(speed=4)))
    first = panes.reset(1, 0)
    (second,) = panes.step(held("turn_right"))
    assert second.input_id == 7 and second.content_time == pytest.approx(1 / 17.5)
    for before, after, pixels in zip(first.pictures, second.pictures, (2, 4), strict=True):
        assert (np.roll(before, pixels, axis=1) == after).all()
        assert not (np.roll(before, -pixels, axis=1) == after).all()


def test_a_pane_of_short_steps_keeps_up_with_one_of_long_steps() -> None:
    panes = PaneSet((FakeSource(stride=4), FakeSource()))
    panes.reset(0, 0)
    moments = panes.step(held("forward"))
    assert [moment.content_time * 17.5 for moment in moments] == pytest.approx([1, 2, 3, 4])
    assert all((left == right).all() for left, right in (moment.pictures for moment in moments))


def test_strides_that_share_no_clock_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        PaneSet((FakeSource(stride=3), FakeSource(stride=2)))


def test_when_one_source_fails_the_others_are_closed() -> None:
    made: list[FakeSource] = []

    def fail(options: PaneOptions) -> PaneSource:
        raise ConfigError("no such world")

    good, bad = fake_choice("good", made=made), replace(fake_choice("bad"), make_source=fail)
    with pytest.raises(ConfigError, match="no such world"):
        make_panes(((good, PaneOptions()), (bad, PaneOptions())))
    assert [source.closed for source in made] == [True]


def test_options_are_checked_and_filled_in() -> None:
    catalogue = fake_catalogue()
    ((_, options),) = catalogue.match((PaneRequest("fake"),))
    assert options == PaneOptions(1, "window")
    ((_, options),) = catalogue.match((PaneRequest("fake", 4, "sink"),))
    assert options == PaneOptions(4, "sink")
    for request, said in ((PaneRequest("gone"), "fake"), (PaneRequest("fake", 3), "1, 2, 4"), (PaneRequest("fake", None, "all"), "sink")):
        with pytest.raises(ConfigError, match=said):
            catalogue.match((request,))


def test_panes_of_different_rates_are_refused() -> None:
    catalogue = fake_catalogue(fake_choice("slow", rate=10.0), fake_choice("fast", rate=20.0))
    with pytest.raises(ConfigError, match="content rate"):
        catalogue.match((PaneRequest("slow"), PaneRequest("fast")))


def test_a_catalogue_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing to play"):
        Catalogue((), ())
    with pytest.raises(ConfigError, match="distinct"):
        fake_catalogue(fake_choice("a"), fake_choice("a"))


class CountingWorld:
    """A Gymnasium-like environment whose picture is (seed, steps taken, last forward); episodes end after four steps."""

    closed = False

    def reset(self, seed: int) -> tuple[np.ndarray, dict]:
        """Begin."""
        self.seed, self.count = seed, 0
        return self._picture(0), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Count."""
        self.count += 1
        return self._picture(int(action[0])), 0.0, self.count == 4, False, {}

    def _picture(self, forward: int) -> np.ndarray:
        return np.full((4, 4, 3), (self.seed, self.count, forward), np.uint8)

    def close(self) -> None:
        """Note the call."""
        self.closed = True


FORWARD = np.asarray([1, 0, 0, 0], np.float32)


def test_the_real_world_goes_on_after_its_episodes_end() -> None:
    source = RealSource(CountingWorld(), FakeSource().world)
    assert source.reset(None, 5)[0, 0, 0].tolist() == [5, 0, 0]
    seen = [source.step(FORWARD)[0, 0, 0].tolist() for _ in range(5)]
    assert seen == [[5, 1, 1], [5, 2, 1], [5, 3, 1], [6, 0, 0], [6, 1, 1]]


def test_the_real_world_can_begin_where_a_learned_one_does() -> None:
    starts = (RealStart(9), RealStart(3, ((1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))))
    frames = RealSource(CountingWorld(), FakeSource().world, starts).reset(1, 77)
    assert frames[:, 0, 0].tolist() == [[3, 0, 0], [3, 1, 1], [3, 2, 0]]
