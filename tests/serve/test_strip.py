"""The memory strip on the server's side: whose pictures they are, when a message goes out, and what is in it."""

import base64
import io
import json
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from serve_fakes import Tiny

from mutoscope.memory.choosing import Retrieval
from mutoscope.memory.contents import SlotContent
from mutoscope.memory.heads import HeadWise
from mutoscope.memory.policy import Full, SinkWindow, Window
from mutoscope.serve.strip import Strip, StripMail, Thumbnails, fold, shrink

FORWARD = np.asarray([1, 0, 0], np.float32)


def noted(slots: int, frames: int, stride: int, late: int = 0) -> dict[int, bytes]:
    """Pictures of a context of 2 frames and of chunks of 2 after it, whose every pixel frame has its number as its grey value."""
    thumbnails = Thumbnails(stride)
    shown = np.arange(1 + (frames - 1) * stride, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    first = 1 + stride
    thumbnails.note(0, 2, shown[:first])
    for frame in range(2, frames, 2):
        thumbnails.note(frame, 2, shown[first - late : first - late + 2 * stride])
        first += 2 * stride
    thumbnails.keep([SlotContent(slot, "frame", frames - slots + slot, 0, 1) for slot in range(slots)])
    return thumbnails.coded()


def show_their_last_pixel_frame(pictures: dict[int, bytes], stride: int) -> bool:
    """Whether every frame's JPEG is as grey as the number of its last pixel frame."""
    greys = {frame: np.asarray(Image.open(io.BytesIO(picture))).mean() for frame, picture in pictures.items()}
    return all(abs(grey - frame * stride) < 0.5 for frame, grey in greys.items())


@pytest.mark.parametrize("stride", [1, 4])
def test_thumbnails_are_of_their_own_frames_and_no_more_than_are_held(stride: int) -> None:
    pictures = noted(slots=5, frames=12, stride=stride)
    assert sorted(pictures) == [7, 8, 9, 10, 11] and show_their_last_pixel_frame(pictures, stride)
    assert not show_their_last_pixel_frame(noted(5, 12, stride, late=1), stride)


def test_thumbnails_are_small_copies() -> None:
    picture = np.zeros((480, 832, 3), np.uint8)
    small = shrink(picture)
    picture[:] = 9
    assert small.shape == (37, 64, 3) and not small.any()
    assert shrink(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 3)


@pytest.mark.parametrize("policy", [Window(4), SinkWindow(2, 4), Full(40)])
@pytest.mark.parametrize("chunk_frames", [1, 3])
def test_a_learned_world_tells_its_ledger_with_a_picture_of_every_frame(policy, chunk_frames: int) -> None:
    source = Tiny(policy, chunk_frames)
    pixels = list(source.reset(1, 5))
    for _ in range(6):
        pixels += list(source.step(FORWARD))
        strip, ledger = source.strip(), source.session.store.ledgers[0]
        assert ledger.open_plan is not None
        read = [content.slot for content in strip.slots if content.kind != "empty"]
        assert tuple(read) == ledger.open_plan.read_slots and sum(content.bytes for content in strip.slots) == source.memory_bytes
        assert strip.pictures.keys() == {content.frame for content in strip.slots} - {None}
        for frame, picture in strip.pictures.items():
            decoded = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
            distances = [np.abs(decoded - other).mean() for other in pixels]
            assert distances[frame] == min(distances), "the picture is of another frame"
        source.commit()
        assert {content.frame: content.slot for content in source.strip().slots if content.frame is not None} == ledger.slot_of


def test_what_comes_back_from_the_host_has_its_picture() -> None:
    """Frames that left the slots keep their pictures while the archive keeps them, and no longer."""
    source = Tiny(Retrieval(2, 3, "similarity", host_mib=0.02))
    source.reset(1, 5)
    shelves, came_back = source.session.store.ledgers[0].num_shelves, False
    for _ in range(24):
        held = {content.frame for content in source.strip().slots}
        source.step(FORWARD)
        strip = source.strip()
        back = {content.frame for content in strip.slots if content.kind == "chosen"} - held
        came_back |= bool(back)
        assert back <= strip.pictures.keys() and len(strip.pictures) <= 5 + shelves
        assert [content.kind for content in strip.slots][-1] == "archive"
        source.commit()
    assert came_back and shelves < 12


def test_head_groups_stand_one_after_the_other() -> None:
    """A frame that both remember has its picture in both."""
    source = Tiny(HeadWise(1, 1, 3, 6, 1))
    source.reset(1, 5)
    for _ in range(12):
        source.step(FORWARD)
        strip = source.strip()
        assert sorted(content.slot for content in strip.slots) == list(range(10))
        assert sum(content.bytes for content in strip.slots) == source.memory_bytes
        assert strip.pictures.keys() == {content.frame for content in strip.slots} - {None}
        source.commit()
    static, dynamic = strip.slots[:4], strip.slots[4:]
    assert [content.age for content in static] == [13, 2, 1, 0] and len({content.frame for content in dynamic}) == 6
    (pane,) = json.loads(StripMail().message([strip], 0.0, 1))["panes"]
    assert pane["num_slots"] == 10 and all("picture" in slot for slot in pane["slots"])


def test_pictures_do_not_pile_up_where_nobody_asks_for_them() -> None:
    source = Tiny(Window(4))
    source.reset(0, 0)
    for _ in range(40):
        source.step(FORWARD)
        assert len(source._thumbnails) <= 8
        source.commit()
    assert source.memory_ms > 0 and len(source.strip().pictures) == 4


def sliding(frames: int, slots: int = 4) -> Strip:
    """A window's strip after so many frames, with pictures."""
    held = [SlotContent(frame % slots, "frame", frame, frames - 1 - frame, 10) for frame in range(max(0, frames - slots), frames)]
    empty = [SlotContent(slot, "empty", None, None, 10) for slot in range(len(held), slots)]
    return Strip((*held, *empty), {content.frame: b"jpeg %d" % content.frame for content in held if content.frame is not None}, 0.05)


class Viewer:
    """A page in Python: keeps what the messages say, and counts the pictures it got."""

    def __init__(self) -> None:
        self.pictures: dict[int, tuple[int | None, str | None]] = {}
        self.num_pictures = 0

    def read(self, text: str) -> None:
        """One message of one pane."""
        for slot in json.loads(text)["panes"][0]["slots"]:
            kept = self.pictures.get(slot["slot"], (None, None))
            new = slot.get("picture")
            self.num_pictures += new is not None
            picture = base64.b64decode(new).decode() if new else kept[1] if kept[0] == slot["frame"] else None
            self.pictures[slot["slot"]] = (slot["frame"], picture)


class Forgetful(StripMail):
    """A broken mail: it sends every picture every time."""

    def message(self, strips: Sequence[Strip], now: float, sent: int) -> str:
        self.restart()
        return super().message(strips, now, sent)


class Stingy(StripMail):
    """A broken mail: it believes that a slot keeps its picture."""

    def message(self, strips: Sequence[Strip], now: float, sent: int) -> str:
        before = dict(self._known)
        text = super().message(strips, now, sent)
        self._known |= before
        fields = json.loads(text)
        for slot in fields["panes"][0]["slots"]:
            if (0, slot["slot"]) in before:
                slot.pop("picture", None)
        return json.dumps(fields)


def each_picture_comes_once(mail: StripMail, step: int) -> bool:
    """Whether a page that gets a message every `step` frames has every picture, and got none of them twice."""
    viewer, seen = Viewer(), set()
    for frames in range(2, 30, step):
        strip = sliding(frames)
        viewer.read(mail.message((strip,), 0.0, frames))
        seen |= set(strip.pictures)
        if any(picture != f"jpeg {frame}" for frame, picture in viewer.pictures.values() if frame is not None):
            return False
    return viewer.num_pictures == len(seen)


@pytest.mark.parametrize("step", [1, 3, 7])
def test_every_picture_travels_once(step: int) -> None:
    assert each_picture_comes_once(StripMail(), step)
    assert not each_picture_comes_once(Forgetful(), step=1)
    assert not each_picture_comes_once(Stingy(), step)


def test_after_a_restart_the_page_gets_everything_again() -> None:
    mail, viewer = StripMail(), Viewer()
    viewer.read(mail.message((sliding(6),), 0.0, 1))
    mail.restart()
    viewer.read(mail.message((sliding(6),), 0.0, 1))
    assert viewer.num_pictures == 8


def test_a_frame_without_a_picture_is_told_without_one() -> None:
    strip = sliding(4)
    del strip.pictures[2]
    slots = json.loads(StripMail().message((strip,), 0.0, 1))["panes"][0]["slots"]
    assert ["picture" in slot for slot in slots] == [True, True, False, True] and slots[2]["frame"] == 2


def messages(mail: StripMail, answers_after: int, ticks: int = 100) -> list[int]:
    """Ticks of 50 ms at which a message goes out, to a page that answers picture n at tick n + answers_after."""
    sent = []
    for tick in range(ticks):
        if mail.is_due(tick * 0.05, tick - answers_after):
            mail.message((sliding(tick + 1),), tick * 0.05, tick)
            sent.append(tick)
    return sent


class Hasty(StripMail):
    """A broken mail: it does not wait for the page."""

    def is_due(self, now: float, answered: int) -> bool:
        return now >= self._due


def test_messages_are_few_and_at_most_one_is_under_way() -> None:
    assert len(messages(StripMail(0.25), answers_after=1)) == 20
    slow = messages(StripMail(0.25), answers_after=30)
    assert all(later - earlier > 30 for earlier, later in zip(slow, slow[1:], strict=False)) and len(slow) == 3
    assert len(messages(Hasty(0.25), answers_after=30)) == 20
    assert messages(StripMail(0.25), answers_after=1000) == []


def test_a_message_is_counted_in_full_and_drawn_in_part() -> None:
    strip = sliding(400, slots=400)
    pane = json.loads(StripMail().message((strip,), 0.0, 1))["panes"][0]
    assert (pane["num_slots"], pane["num_remembered"], len(pane["slots"])) == (400, 400, 64)
    frames = [slot["frame"] for slot in pane["slots"]]
    assert frames == [*range(8), *range(400 - 56, 400)]
    begun = fold(sliding(10, slots=400).slots)
    assert len(begun) == 64 and [content.frame for content in begun[:10]] == list(range(10))
    assert fold(sliding(3, slots=4).slots) == list(sliding(3, slots=4).slots)
