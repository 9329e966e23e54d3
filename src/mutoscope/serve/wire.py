"""What travels between the page and the server.

page -> server   JSON text, one object with a "type"; read strictly: anything else is a WireError in words
server -> page   JSON text (ready, state, stats, memory, recording, error) and binary pictures: a 20-byte header, then the picture

header, little-endian:  version u8 | kind u8 | pane u8 | panes u8 | input u32 | frame u32 | content time f64 (seconds)

`input` is the id of the newest input the picture was computed with; `frame` counts the pixel frames of a connection.

memory: {"version", "panes": [{"num_slots", "num_remembered", "frame_seconds", "slots": [...]}]}, at most a few a second. A slot is
{"slot", "kind": frame | sink | open | empty, "frame", "age" in frames, "bytes", "picture": JPEG in base64, once per frame and slot}.
"""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from mutoscope.core.config import from_plain
from mutoscope.core.errors import ConfigError, MutoscopeError, choose

VERSION = 1
HEADER = struct.Struct("<BBBBIId")
MAX_PANES = 3
MAX_NUMBER = 2**32 - 1
MAX_HELD = 16
MAX_NAME = 64
MAX_MESSAGE = 16 * 1024
MAX_PROMPT = 2000

PictureFormat = Literal["h264", "jpeg"]
Switch = Literal["recommit", "keep", "cut"]
"""What a new prompt does to the past: memory is written again under it, stays as it is, or is forgotten (a cut)."""


class WireError(MutoscopeError):
    """A message that breaks the protocol. The page is told; the server goes on."""


class PictureKind(IntEnum):
    """How a picture is coded; an H.264 delta needs every picture since the last key."""

    JPEG = 1
    H264_KEY = 2
    H264_DELTA = 3


@dataclass(frozen=True)
class PaneRequest:
    """One pane: which choice of the catalogue, with how many steps and which memory policy (None: the choice's own)."""

    choice: str
    steps: int | None = None
    policy: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.choice)
        _check_name(self.policy or "")


@dataclass(frozen=True)
class Open:
    """Replace the panes and begin anew."""

    panes: tuple[PaneRequest, ...]
    start: int | None = None
    seed: int | None = None
    picture: PictureFormat = "jpeg"
    prompt: str | None = None

    def __post_init__(self) -> None:
        _check_prompt("-" if self.prompt is None else self.prompt)
        if not 1 <= len(self.panes) <= MAX_PANES:
            raise ConfigError(f"{len(self.panes)} panes were asked for; allowed: 1 to {MAX_PANES}")
        _check_number(self.start, "start")
        _check_number(self.seed, "seed")


@dataclass(frozen=True)
class Input:
    """The names that are held down now, oldest press first; ids grow by the page's count."""

    id: int
    held: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_number(self.id, "id")
        if len(self.held) > MAX_HELD:
            raise ConfigError(f"{len(self.held)} names are held; allowed: at most {MAX_HELD}")
        for name in self.held:
            _check_name(name)


@dataclass(frozen=True)
class Ack:
    """Every pane's picture of this frame, and of all before it, has been decoded."""

    frame: int

    def __post_init__(self) -> None:
        _check_number(self.frame, "frame")


@dataclass(frozen=True)
class Reset:
    """Begin anew with the same panes; None is the start that they open with, or a drawn one, and a drawn seed."""

    start: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        _check_number(self.start, "start")
        _check_number(self.seed, "seed")


@dataclass(frozen=True)
class Pause:
    """Stop the frame clock, or let it run on."""

    paused: bool


@dataclass(frozen=True)
class Record:
    """Begin to record what is played, or end it and get an address to download."""

    recording: bool


@dataclass(frozen=True)
class Picture:
    """Send pictures in this format from now on; a H.264 stream begins with a new key picture."""

    format: PictureFormat


@dataclass(frozen=True)
class Say:
    """Show what these words say, from the next frame on that can know them."""

    text: str
    switch: Switch = "recommit"

    def __post_init__(self) -> None:
        _check_prompt(self.text)


Message = Open | Input | Ack | Reset | Pause | Record | Picture | Say
MESSAGES: dict[str, type[Message]] = {
    "open": Open,
    "input": Input,
    "ack": Ack,
    "reset": Reset,
    "pause": Pause,
    "record": Record,
    "picture": Picture,
    "say": Say,
}


def parse_message(text: str) -> Message:
    """JSON text from a page -> message; whatever does not fit is a WireError that says what would."""
    fields = _parse_object(text)
    name = fields.pop("type", None)
    if not isinstance(name, str):
        raise WireError(f'a message needs a "type"; known: {", ".join(MESSAGES)}')
    try:
        kind = choose(MESSAGES, name[:MAX_NAME], "message type")
        return from_plain(kind, fields, f"message '{name}'")
    except ConfigError as error:
        raise WireError(_shorten(str(error))) from error


def _parse_object(text: str) -> dict[str, Any]:
    if len(text) > MAX_MESSAGE:
        raise WireError(f"a message of {len(text)} characters; allowed: at most {MAX_MESSAGE}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WireError(_shorten(f"a message must be JSON ({error})")) from error
    if not isinstance(value, dict):
        raise WireError(f"a message must be a JSON object, not a {type(value).__name__}")
    if "kind" in value:
        raise WireError('a message has no key "kind"')
    return value


@dataclass(frozen=True)
class PictureHeader:
    """What a picture is: coding, pane (of how many), newest input, frame number and content time in seconds."""

    kind: PictureKind
    pane: int
    panes: int
    input_id: int
    frame: int
    content_time: float


def pack_picture(header: PictureHeader, payload: bytes) -> bytes:
    """The binary message: header, then the coded picture."""
    fields = (header.kind, header.pane, header.panes, header.input_id, header.frame, header.content_time)
    return HEADER.pack(VERSION, *fields) + payload


def unpack_picture(data: bytes) -> tuple[PictureHeader, bytes]:
    """The inverse of `pack_picture`, for tests and for clients written in Python."""
    if len(data) < HEADER.size:
        raise WireError(f"a picture message has {len(data)} bytes; its header alone has {HEADER.size}")
    version, kind, *rest = HEADER.unpack_from(data)
    if version != VERSION or kind not in iter(PictureKind):
        raise WireError(f"a picture message of version {version} and kind {kind}; known: version {VERSION}, kinds 1 to 3")
    return PictureHeader(PictureKind(kind), *rest), data[HEADER.size :]


def error_message(text: str) -> str:
    """What a page is told when something went wrong."""
    return json.dumps({"type": "error", "message": _shorten(text)})


def _check_number(value: int | None, name: str) -> None:
    if value is not None and not 0 <= value <= MAX_NUMBER:
        raise ConfigError(f"{name} is outside 0 to {MAX_NUMBER}")


def _check_prompt(text: str) -> None:
    if not text.strip() or len(text) > MAX_PROMPT:
        raise ConfigError(f"a prompt has 1 to {MAX_PROMPT} characters that are no blanks, not {len(text)}")


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise ConfigError(f"a name has {len(name)} characters; allowed: at most {MAX_NAME}")


def _shorten(text: str, limit: int = 400) -> str:
    return text if len(text) <= limit else text[:limit] + " ..."
