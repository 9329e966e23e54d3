"""When to generate, what to send, which keys count. Plain Python: no torch, and a clock that the caller reads.

The frame clock is the content rate. A frame is *due* one interval after the one before it; its generation begins as late as
the measured 95th percentile allows, so that the newest key is in it, and never before the frame before it was due: at most
one frame ahead. A frame that comes late is shown at once; time that was lost is not made up for.
"""

import math
import threading
from collections import OrderedDict, deque


class Durations:
    """The last `size` durations in seconds, and their percentiles by nearest rank."""

    def __init__(self, size: int = 64) -> None:
        self._values: deque[float] = deque(maxlen=size)

    def add(self, seconds: float) -> None:
        """Remember one, forget the oldest."""
        self._values.append(seconds)

    def quantile(self, share: float) -> float | None:
        """The smallest duration that at least `share` of them do not exceed; None while there is none."""
        if not self._values:
            return None
        rank = math.ceil(share * len(self._values))
        return sorted(self._values)[max(rank, 1) - 1]

    def smallest(self) -> float | None:
        """The least of them; None while there is none."""
        return min(self._values, default=None)


class FrameClock:
    """Due times at a fixed interval (seconds), and when to begin so as to meet them."""

    def __init__(self, interval: float, *, share: float = 0.95, margin: float = 0.002) -> None:
        self.interval, self.durations = interval, Durations()
        self._share, self._margin = share, margin
        self.due = 0.0

    def restart(self, now: float) -> None:
        """The next frame is due one interval from now: at the beginning, after a reset, after a pause."""
        self.due = now + self.interval

    @property
    def lead(self) -> float:
        """Seconds before the due time at which generation begins: the measured percentile, at most one interval."""
        measured = self.durations.quantile(self._share)
        return self.interval if measured is None else min(self.interval, measured + self._margin)

    def begin_at(self) -> float:
        """When to begin the next frame."""
        return self.due - self.lead

    def finished(self, began: float, now: float) -> float:
        """The next frame exists: remember how long it took, return when to show it, and move on to the one after it."""
        self.durations.add(now - began)
        shown = max(self.due, now)
        self.due = max(self.due + self.interval, now)
        return shown


class SendWindow:
    """How many frames may be on their way to a page: as many as the shortest round trip seen needs, plus one.

    What piles up in a slow network or a slow decoder lengthens the round trip but not its minimum, so a queue cannot grow:
    while the window is closed, frames are dropped before they are encoded (a coded stream never misses a picture).
    """

    def __init__(self, interval: float, *, least: int = 2, most: int = 8) -> None:
        self._interval, self._least, self._most = interval, least, most
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._trips = Durations()

    @property
    def limit(self) -> int:
        """Frames that may be unacknowledged at once."""
        trip = self._trips.smallest() or 0.0
        return min(self._most, max(self._least, 1 + math.ceil(trip / self._interval)))

    @property
    def is_open(self) -> bool:
        """Whether another frame may be sent."""
        return len(self._sent) < self.limit

    def sent(self, frame: int, now: float) -> None:
        """A frame has gone out."""
        self._sent[frame] = now

    def acknowledged(self, frame: int, now: float) -> None:
        """The page has decoded `frame` and all before it; a number that was never sent changes nothing."""
        if frame not in self._sent:
            return
        self._trips.add(now - self._sent[frame])
        while self._sent and next(iter(self._sent)) <= frame:
            self._sent.popitem(last=False)


class InputSlot:
    """The newest input, and nothing older: ids only grow, and a tap shorter than a frame still counts for one frame.

    The page's messages arrive on one thread and the engine takes from another. Names should be checked against a known set
    before `put`: those that were tapped are remembered until the next `take`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._id, self._count = 0, 0
        self._held: tuple[str, ...] = ()
        self._pressed: dict[str, int] = {}

    def put(self, input_id: int, held: tuple[str, ...]) -> None:
        """A page's keys; an id that is not newer than the newest is ignored."""
        with self._lock:
            if input_id <= self._id:
                return
            for name in held:
                if name not in self._held:
                    self._count += 1
                    self._pressed[name] = self._count
            self._id, self._held = input_id, held

    def take(self) -> tuple[int, tuple[str, ...]]:
        """(newest id, names held now or pressed since the last `take`, oldest press first)."""
        with self._lock:
            names = tuple(sorted(self._pressed, key=self._pressed.__getitem__))
            self._pressed = {name: order for name, order in self._pressed.items() if name in self._held}
            return self._id, names
