import random
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as some

from mutoscope.serve.scheduler import Durations, FrameClock, InputSlot, SendWindow

INTERVAL = 0.05


@dataclass(frozen=True)
class Frame:
    """When the clock asked for a frame, when its generation began and ended, when it was due and shown; seconds of a fake clock."""

    asked: float
    began: float
    ended: float
    due: float
    shown: float


def play(clock: FrameClock, durations: list[float]) -> list[Frame]:
    """Run a clock against generations that take these times: begin when it says, or as soon as the one before is shown."""
    now, frames = 0.0, []
    clock.restart(now)
    for duration in durations:
        due, asked = clock.due, clock.begin_at()
        began = max(now, asked)
        ended = began + duration
        now = clock.finished(began, ended)
        frames.append(Frame(asked, began, ended, due, now))
    return frames


def never_more_than_one_ahead(frames: list[Frame]) -> bool:
    """No generation is asked for before the frame before it was due."""
    return all(frame.asked >= frame.due - INTERVAL - 1e-9 for frame in frames)


def never_makes_up_for_lost_time(frames: list[Frame]) -> bool:
    """Whatever happened before, n intervals show at most n + 2 frames."""
    shown = [frame.shown for frame in frames]
    return all(
        sum(first <= time < first + count * INTERVAL - 1e-9 for time in shown[index:]) <= count + 2
        for index, first in enumerate(shown)
        for count in (1, 3, 6)
    )


class Hasty(FrameClock):
    """A broken clock: it begins as early as its slowest generation, however early that is."""

    @property
    def lead(self) -> float:
        return 10 * INTERVAL


class Indebted(FrameClock):
    """A broken clock: what was lost is made up for by running fast."""

    def finished(self, began: float, now: float) -> float:
        shown = max(self.due, now)
        self.due += self.interval
        return shown


times = some.lists(some.floats(0.0, 6 * INTERVAL), min_size=1, max_size=60)


@settings(deadline=None)
@given(times)
def test_at_most_one_frame_ahead_and_never_before_it_is_due(durations: list[float]) -> None:
    frames = play(FrameClock(INTERVAL), durations)
    assert never_more_than_one_ahead(frames)
    assert all(frame.shown >= max(frame.due, frame.ended) - 1e-9 for frame in frames)


def test_a_hasty_clock_runs_ahead() -> None:
    assert not never_more_than_one_ahead(play(Hasty(INTERVAL), [0.001] * 20))


@settings(deadline=None)
@given(times)
def test_lost_time_is_not_made_up_for(durations: list[float]) -> None:
    assert never_makes_up_for_lost_time(play(FrameClock(INTERVAL), durations))


def test_an_indebted_clock_makes_up_for_lost_time() -> None:
    stall = [0.01] * 5 + [20 * INTERVAL] + [0.001] * 30
    assert not never_makes_up_for_lost_time(play(Indebted(INTERVAL), stall))
    assert never_makes_up_for_lost_time(play(FrameClock(INTERVAL), stall))


@given(some.floats(0.001, 0.9 * INTERVAL))
def test_steady_generation_begins_as_late_as_it_may_and_keeps_the_rate(duration: float) -> None:
    clock = FrameClock(INTERVAL)
    frames = play(clock, [duration] * 80)
    assert all(abs(later.shown - earlier.shown - INTERVAL) < 1e-9 for earlier, later in zip(frames, frames[1:], strict=False))
    assert all(frame.due - frame.began <= duration + 0.002 + 1e-9 for frame in frames[1:])


def test_nineteen_of_twenty_frames_are_on_time() -> None:
    draw = random.Random(0)
    frames = play(FrameClock(INTERVAL), [draw.uniform(0.2, 0.8) * INTERVAL for _ in range(1000)])
    assert sum(frame.shown <= frame.due + 1e-9 for frame in frames) >= 950
    # ... although they begin later than a clock would that uses the whole interval.
    assert sum(frame.due - frame.began for frame in frames[100:]) / 900 < 0.86 * INTERVAL


def test_a_world_that_is_too_slow_runs_without_pause() -> None:
    frames = play(FrameClock(INTERVAL), [2 * INTERVAL] * 30)
    assert all(later.began == earlier.shown for earlier, later in zip(frames[1:], frames[2:], strict=False))


def test_quantiles_by_nearest_rank() -> None:
    durations = Durations(size=4)
    assert durations.quantile(0.5) is None and durations.smallest() is None
    for value in (9.0, 4.0, 1.0, 3.0, 2.0):
        durations.add(value)
    assert [durations.quantile(share) for share in (0.0, 0.25, 0.5, 0.95)] == [1.0, 1.0, 2.0, 4.0]
    assert durations.smallest() == 1.0


def most_on_the_way(window: SendWindow, ack_delay: Callable[[int], int], ticks: int = 200) -> int:
    """Send whenever the window is open, one frame per tick; acknowledge frame n `ack_delay(n)` ticks later."""
    on_the_way: dict[int, int] = {}
    most = 0
    for tick in range(ticks):
        for frame in [frame for frame, arrives in on_the_way.items() if arrives <= tick]:
            del on_the_way[frame]
            window.acknowledged(frame, tick * INTERVAL)
        if window.is_open:
            window.sent(tick, tick * INTERVAL)
            on_the_way[tick] = tick + ack_delay(tick)
        most = max(most, len(on_the_way))
    return most


def test_a_slow_page_has_few_frames_on_the_way() -> None:
    assert most_on_the_way(SendWindow(INTERVAL), lambda frame: 1 if frame < 20 else 50) <= 3


def test_a_page_that_never_answers_gets_two_frames() -> None:
    assert most_on_the_way(SendWindow(INTERVAL), lambda frame: 10_000) == 2


def test_a_distant_page_gets_every_frame() -> None:
    window = SendWindow(INTERVAL)
    most_on_the_way(window, lambda frame: 4)
    assert window.limit == 5


def test_a_window_that_trusts_slow_answers_would_grow() -> None:
    class Trusting(SendWindow):
        @property
        def limit(self) -> int:
            return 1 + round((self._trips.quantile(1.0) or INTERVAL) / INTERVAL)

    assert most_on_the_way(Trusting(INTERVAL), lambda frame: 1 if frame < 20 else 50) > 3


def test_acknowledgements_cover_what_came_before_and_nothing_else() -> None:
    window = SendWindow(INTERVAL)
    window.sent(5, 0.0)
    window.sent(6, 0.01)
    assert not window.is_open
    window.acknowledged(99, 0.02)
    assert not window.is_open
    window.acknowledged(6, 0.03)
    window.acknowledged(6, 0.04)
    window.sent(7, 0.05)
    assert window.is_open


def taken_like_a_player_expects(slot: InputSlot) -> bool:
    """Newest id, newest keys, no old message, taps for one frame, presses in order."""
    slot.put(1, ("a",))
    slot.put(3, ("a", "b"))
    slot.put(2, ("c",))
    first = slot.take()
    slot.put(4, ("a", "b", "tap"))
    slot.put(5, ("a", "b"))
    tapped, after = slot.take(), slot.take()
    slot.put(6, ())
    slot.put(7, ("b", "a"))
    return (first, tapped, after, slot.take()) == ((3, ("a", "b")), (5, ("a", "b", "tap")), (5, ("a", "b")), (7, ("b", "a")))


class Forgetful(InputSlot):
    """A broken slot: only what is held at the moment counts."""

    def take(self) -> tuple[int, tuple[str, ...]]:
        super().take()
        return self._id, self._held


class Gullible(InputSlot):
    """A broken slot: a late message wins over a newer one."""

    def put(self, input_id: int, held: tuple[str, ...]) -> None:
        self._id = 0
        super().put(input_id, held)


def test_the_newest_input_wins_and_taps_count() -> None:
    assert taken_like_a_player_expects(InputSlot())


def test_slots_that_lose_taps_or_take_old_input_are_noticed() -> None:
    assert not taken_like_a_player_expects(Forgetful())
    assert not taken_like_a_player_expects(Gullible())


@given(some.lists(some.tuples(some.integers(1, 40), some.lists(some.sampled_from("abcd"), unique=True, max_size=4)), max_size=40))
def test_what_is_held_is_always_taken(messages: list[tuple[int, list[str]]]) -> None:
    slot = InputSlot()
    newest: tuple[int, tuple[str, ...]] = (0, ())
    for input_id, held in messages:
        slot.put(input_id, tuple(held))
        newest = max(newest, (input_id, tuple(held)), key=lambda message: message[0])
    first_id, names = slot.take()
    assert first_id == newest[0] and set(newest[1]) <= set(names)
    assert set(slot.take()[1]) == set(newest[1])
