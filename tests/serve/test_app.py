import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from serve_fakes import fake_catalogue, fake_choice
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from mutoscope.core.errors import MutoscopeError
from mutoscope.serve.app import BackgroundServer, bind, build_app
from mutoscope.serve.player import PlaySettings
from mutoscope.serve.sources import FakeSource
from mutoscope.serve.wire import unpack_picture

PARTS = ("play.js", "wire.js", "screen.js", "strip.js", "meter.js", "keys.js", "style.css")


@contextmanager
def client(settings: PlaySettings | None = None, made: list[FakeSource] | None = None) -> Iterator[TestClient]:
    """The app on a fake catalogue, with its start and end."""
    with TestClient(build_app(fake_catalogue(fake_choice(made=made)), settings)) as test_client:
        yield test_client


def next_of_type(connection: WebSocketTestSession, name: str) -> dict:
    """The next message of a type; pictures on the way are acknowledged."""
    deadline = time.monotonic() + 60  # a recording is finished in a thread, which a busy machine may starve
    while time.monotonic() < deadline:
        message = connection.receive()
        if message.get("bytes") is not None:
            header, _ = unpack_picture(message["bytes"])
            connection.send_json({"type": "ack", "frame": header.frame})
        elif json.loads(message["text"])["type"] == name:
            return json.loads(message["text"])
    raise AssertionError(f"no message of type {name}")


def open_fake(connection: WebSocketTestSession) -> dict:
    """Open one pane."""
    connection.send_json({"type": "open", "panes": [{"choice": "fake"}]})
    return next_of_type(connection, "ready")


def test_the_page_and_its_parts_are_served() -> None:
    with client() as web:
        page = web.get("/").text
        assert "/static/play.js" in page and "/static/style.css" in page
        for name in PARTS:
            assert web.get(f"/static/{name}").status_code == 200
        assert web.get("/static/../app.py").status_code == 404
        assert web.get("/recordings/none.mp4").status_code == 404


def test_the_page_asks_nothing_of_other_machines() -> None:
    with client() as web:
        parts = [web.get(f"/static/{name}").text for name in PARTS]
        addresses = [word for text in (web.get("/").text, *parts) for word in text.split() if "http://" in word or "https://" in word]
    assert all("www.w3.org/2000/svg" in word for word in addresses)


def test_the_catalogue_says_what_can_be_chosen() -> None:
    with client() as web:
        (choice,) = web.get("/api/worlds").json()["choices"]
    assert choice["steps"] == [1, 2, 4] and choice["policies"] == ["window", "sink"] and len(choice["starts"]) == 3


def test_a_page_opens_panes_and_records() -> None:
    with client() as web, web.websocket_connect("/ws") as connection:
        ready = open_fake(connection)
        assert ready["bindings"]["KeyW"] == "forward" and ready["panes"][0]["chosen_steps"] == 1
        connection.send_json({"type": "record", "recording": True})
        assert next_of_type(connection, "stats")["generated"] >= 1
        connection.send_json({"type": "record", "recording": False})
        video = web.get(next_of_type(connection, "recording")["url"])
    assert video.headers["content-type"] == "video/mp4" and b"ftyp" in video.content[:16]


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"type": "jump"}', '{"type": "ack", "frame": -1}', '{"type": "open", "panes": 3}'])
def test_malformed_messages_get_an_error_and_the_server_lives(text: str) -> None:
    with client() as web, web.websocket_connect("/ws") as connection:
        open_fake(connection)
        connection.send_text(text)
        assert next_of_type(connection, "error")["message"]
        connection.send_bytes(b"\x00\xff")
        assert "JSON text" in next_of_type(connection, "error")["message"]
        assert next_of_type(connection, "stats")["generated"] >= 1


def test_sources_are_closed_when_the_page_goes() -> None:
    made: list[FakeSource] = []
    with client(made=made) as web:
        with web.websocket_connect("/ws") as connection:
            open_fake(connection)
        with web.websocket_connect("/ws") as connection:
            open_fake(connection)
            assert made[0].closed and not made[1].closed
    assert made[1].closed


def test_no_more_pages_than_fit() -> None:
    with client(PlaySettings(max_players=1)) as web, web.websocket_connect("/ws") as first:
        open_fake(first)
        with web.websocket_connect("/ws") as second:
            assert "close one" in second.receive_json()["message"]
        assert next_of_type(first, "stats")["generated"] >= 1


def test_other_sites_may_not_play_here() -> None:
    with client() as web:
        with pytest.raises(WebSocketDisconnect), web.websocket_connect("/ws", headers={"origin": "http://elsewhere.example"}):
            pass
        with web.websocket_connect("/ws", headers={"origin": "http://testserver"}) as connection:
            open_fake(connection)


def test_a_busy_port_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(MutoscopeError, match="--port"):
        bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(MutoscopeError, match="--port"):
        bind("127.0.0.1", 99_999)


def test_the_real_server_starts_and_ends() -> None:
    with BackgroundServer(fake_catalogue()) as server, urllib.request.urlopen(f"{server.url}api/worlds", timeout=10) as answer:
        assert json.load(answer)["title"] == "Mutoscope"
    with pytest.raises(OSError):
        urllib.request.urlopen(server.url, timeout=2)
