import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from mutoscope.serve.wire import (
    MESSAGES,
    Ack,
    Input,
    Open,
    PaneRequest,
    PictureHeader,
    PictureKind,
    Reset,
    WireError,
    error_message,
    pack_picture,
    parse_message,
    unpack_picture,
)

json_values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
field_names = some.sampled_from(
    ["type", "id", "held", "panes", "frame", "start", "seed", "paused", "recording", "format", "picture", "extra"]
)
near_messages = some.dictionaries(field_names, json_values | some.sampled_from(list(MESSAGES)), max_size=5)


def survives(parse: Callable[[str], object], text: str) -> bool:
    """Whether `parse` either gives a message or says in a WireError why not."""
    try:
        return type(parse(text)) in MESSAGES.values()
    except WireError as error:
        return bool(str(error))
    except Exception:
        return False


@settings(max_examples=300, deadline=None)
@given(some.text(max_size=60) | some.builds(json.dumps, json_values | near_messages))
def test_any_text_is_a_message_or_a_wire_error(text: str) -> None:
    assert survives(parse_message, text)


@pytest.mark.parametrize("text", ["", "[1]", '{"type": "jump"}', '{"type": "ack"}', '{"type": "ack", "frame": "2"}', '{"type": []}'])
def test_a_lax_parser_would_not_survive(text: str) -> None:
    def lax(text: str) -> object:
        fields = json.loads(text)
        return MESSAGES[fields.pop("type")](**fields)

    assert not survives(lax, text) or type(lax(text).frame) is str
    with pytest.raises(WireError):
        parse_message(text)


def test_messages_are_read_as_they_were_meant() -> None:
    text = '{"type": "open", "panes": [{"choice": "a", "steps": 2}, {"choice": "b", "policy": "sink"}], "seed": 4, "picture": "h264"}'
    assert parse_message(text) == Open((PaneRequest("a", 2), PaneRequest("b", None, "sink")), None, 4, "h264")
    assert parse_message('{"type": "input", "id": 7, "held": ["forward", "turn_left"]}') == Input(7, ("forward", "turn_left"))
    assert parse_message('{"type": "ack", "frame": 0}') == Ack(0)
    assert parse_message('{"type": "reset"}') == Reset(None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type": "jump"}', "open"),
        ('{"type": "pause"}', "paused"),
        ('{"type": "pause", "paused": 1}', "bool"),
        ('{"type": "pause", "paused": true, "now": 1}', "now"),
        ('{"type": "ack", "frame": -1}', "frame"),
        ('{"type": "ack", "frame": 4294967296}', "frame"),
        ('{"type": "input", "id": 1, "held": "forward"}', "held"),
        ('{"type": "open", "panes": []}', "1 to 3"),
        ('{"type": "open", "panes": [{"choice": "a"}], "picture": "gif"}', "gif"),
        ('{"type": "picture", "kind": "Picture", "format": "jpeg"}', "kind"),
        ("[" * 9000, "JSON"),
        ('{"type": "ack", "frame": ' + "9" * 6000 + "}", "JSON"),
        ('"' + "x" * 20_000 + '"', "at most"),
    ],
)
def test_errors_say_what_would_fit(text: str, said: str) -> None:
    with pytest.raises(WireError, match=said):
        parse_message(text)


def test_long_input_makes_no_long_error() -> None:
    with pytest.raises(WireError) as caught:
        parse_message(json.dumps({"type": "input", "id": "9" * 9000, "held": []}))
    assert len(str(caught.value)) < 500
    assert len(error_message("x" * 9000)) < 500


@given(
    some.sampled_from(PictureKind),
    some.integers(0, 2),
    some.integers(0, 2**32 - 1),
    some.floats(0, 1e6),
    some.binary(max_size=40),
)
def test_picture_headers_come_back(kind: PictureKind, pane: int, number: int, content_time: float, payload: bytes) -> None:
    header = PictureHeader(kind, pane, 3, number, number // 2, content_time)
    assert unpack_picture(pack_picture(header, payload)) == (header, payload)


@pytest.mark.parametrize("data", [b"", b"\x01" * 19, b"\x02" + b"\x01" * 19, b"\x01\x09" + b"\x00" * 18])
def test_broken_pictures_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        unpack_picture(data)
