import asyncio
from collections.abc import Callable

import numpy as np

from mutoscope.core.world import WorldSpec
from mutoscope.serve.encode import H264Encoder
from mutoscope.serve.engine import Moment
from mutoscope.serve.outbox import Outbox
from mutoscope.serve.sources import FakeSource
from mutoscope.serve.wire import PictureFormat, unpack_picture

WORLD: WorldSpec = FakeSource().world


def moment(index: int) -> Moment:
    """A moment whose picture and content time carry its number."""
    picture = np.full((WORLD.height, WORLD.width, 3), index % 256, np.uint8)
    return Moment((picture,), index, float(index))


async def sent_by(
    make: Callable[..., Outbox], answers: dict[int, int], ticks: int = 40, picture: PictureFormat = "h264"
) -> tuple[list, Outbox]:
    """Put a moment per tick and acknowledge frame f at tick answers[f]; gives (tick, content time) of all that was sent."""
    sent: list[tuple[int, int]] = []
    tick = 0

    async def send(data: bytes) -> None:
        sent.append((tick, int(unpack_picture(data)[0].content_time)))

    outbox = make(send, lambda: tick * 0.05)
    await outbox.configure((WORLD,), 0.05, picture)
    for tick in range(1, ticks):
        for frame in [frame for frame, when in answers.items() if when == tick]:
            await outbox.acknowledge(frame)
        await outbox.put(moment(tick))
    return sent, outbox


def never_late(sent: list[tuple[int, int]]) -> bool:
    """Whatever goes out is at most one tick old, and nothing goes out twice or backwards."""
    order = [content for _, content in sent]
    return all(tick - content <= 1 for tick, content in sent) and order == sorted(set(order))


class Patient(Outbox):
    """A broken outbox: it keeps everything for later."""

    async def put(self, moment: Moment) -> None:
        self.queue = [*vars(self).get("queue", []), moment]
        if self.has_room:
            await super().put(self.queue.pop(0))


# The page answers its first frames at once and then takes eight ticks for each.
SLOW = {1: 2, 2: 3, 3: 11, 11: 19, 19: 27}


def test_a_slow_page_loses_frames_and_gets_no_late_ones() -> None:
    sent, outbox = asyncio.run(sent_by(Outbox, SLOW))
    assert never_late(sent)
    assert 5 <= len(sent) < 20 and outbox.dropped == outbox.generated - len(sent) - 1


def test_an_outbox_that_keeps_everything_sends_late_frames() -> None:
    sent, _ = asyncio.run(sent_by(Patient, SLOW))
    assert not never_late(sent)


def test_a_quick_page_gets_everything() -> None:
    sent, outbox = asyncio.run(sent_by(Outbox, {frame: frame + 1 for frame in range(60)}))
    assert [content for _, content in sent] == list(range(1, 40)) and outbox.dropped == 0


def test_a_page_that_never_answers_costs_two_frames() -> None:
    sent, outbox = asyncio.run(sent_by(Outbox, {}))
    assert len(sent) == 2 and not outbox.has_room


def test_drops_come_before_the_encoder(monkeypatch) -> None:
    encoded = []
    monkeypatch.setattr(H264Encoder, "encode", lambda self, picture: encoded.append(int(picture[0, 0, 0])) or (2, b"x"))
    sent, _ = asyncio.run(sent_by(Outbox, SLOW))
    assert encoded == [content for _, content in sent]


def test_new_panes_forget_what_was_never_answered() -> None:
    async def run() -> bool:
        _, outbox = await sent_by(Outbox, {})
        await outbox.configure((WORLD,), 0.05, "jpeg")
        return outbox.has_room

    assert asyncio.run(run())
