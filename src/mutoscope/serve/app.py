"""The server: one process, one port, one page, one web socket per tab. Loopback unless told otherwise."""

import asyncio
import logging
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from mutoscope.core.errors import MutoscopeError
from mutoscope.serve.catalogue import Catalogue
from mutoscope.serve.engine import Engine
from mutoscope.serve.player import Player, PlaySettings
from mutoscope.serve.recording import Shelf
from mutoscope.serve.wire import error_message

LOG = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static"
MAX_SOCKET_MESSAGE = 64 * 1024


class Theatre:
    """What all pages of one server share: the catalogue, the engine, the recordings, and the count of players."""

    def __init__(self, catalogue: Catalogue, settings: PlaySettings) -> None:
        self.catalogue, self.settings = catalogue, settings
        self.engine, self.shelf, self.num_players = Engine(), Shelf(), 0

    async def page(self, request: Request) -> Response:
        """The page itself."""
        return FileResponse(STATIC / "index.html", headers={"cache-control": "no-cache"})

    async def worlds(self, request: Request) -> Response:
        """The catalogue as JSON."""
        return JSONResponse(self.catalogue.describe())

    async def recording(self, request: Request) -> Response:
        """A finished recording, as a download."""
        data = self.shelf.get(request.path_params["name"])
        if data is None:
            return JSONResponse({"message": "this recording is gone; record again"}, status_code=404)
        return Response(data, media_type="video/mp4", headers={"content-disposition": 'attachment; filename="mutoscope.mp4"'})

    async def play(self, connection: WebSocket) -> None:
        """One tab, from connect to disconnect."""
        if not same_origin(connection):
            await connection.close(4403, "another site's page may not play here")
            return
        await connection.accept()
        if self.num_players >= self.settings.max_players:
            await connection.send_text(error_message(f"{self.num_players} pages play here already, and no more fit; close one"))
            await connection.close(4429)
            return
        self.num_players += 1
        try:
            await self._serve(connection)
        finally:
            self.num_players -= 1

    async def _serve(self, connection: WebSocket) -> None:
        player = Player(self.catalogue, self.engine, self.shelf, connection, self.settings)
        tasks = {asyncio.create_task(player.play()), asyncio.create_task(self._listen(connection, player))}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # Nothing is awaited here: a server that stops cancels us, and would cancel that wait as well.
            for task in tasks:
                task.add_done_callback(_note_end)
                task.cancel()
            player.close()
        with suppress(RuntimeError, WebSocketDisconnect):
            await connection.close(1011)

    async def _listen(self, connection: WebSocket, player: Player) -> None:
        with suppress(WebSocketDisconnect):
            while True:
                message = await connection.receive()
                if message["type"] == "websocket.disconnect":
                    return
                if message.get("text") is None:
                    await connection.send_text(error_message("the server takes JSON text, no binary messages"))
                else:
                    await player.receive(message["text"])


def _note_end(task: asyncio.Task[None]) -> None:
    """A player ends by being cancelled or by losing its page; everything else belongs in the log."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, WebSocketDisconnect):
        LOG.warning("a player ended early: %r", error)


def same_origin(connection: WebSocket) -> bool:
    """Whether a web socket comes from our own page, or from a program that is no browser."""
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")


def build_app(catalogue: Catalogue, settings: PlaySettings | None = None) -> Starlette:
    """The web application around one engine."""
    theatre = Theatre(catalogue, settings or PlaySettings())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        theatre.engine.close()

    routes = [
        Route("/", theatre.page),
        Route("/api/worlds", theatre.worlds),
        Route("/recordings/{name}", theatre.recording),
        WebSocketRoute("/ws", theatre.play),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one. A busy port or a foreign address is an error that says what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise MutoscopeError(f"cannot listen on {host} port {port} ({error}); choose another with --port, or 0 for any free one") from error
    listener.listen(64)
    return listener


def address(listener: socket.socket) -> str:
    """The URL to type for a listening socket."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"


def make_server(catalogue: Catalogue, settings: PlaySettings | None = None) -> uvicorn.Server:
    """A uvicorn server with small limits and no compression: pictures are compressed already."""
    config = uvicorn.Config(
        build_app(catalogue, settings),
        log_level="warning",
        ws_max_size=MAX_SOCKET_MESSAGE,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


def serve(
    catalogue: Catalogue, *, host: str = "127.0.0.1", port: int = 8765, open_browser: bool = True, settings: PlaySettings | None = None
) -> None:
    """Play until Ctrl-C. Prints the address, and opens it where there is a display."""
    listener = bind(host, port)
    url = address(listener)
    print(f"Play at {url}   (Ctrl-C ends it)", flush=True)
    if host not in ("127.0.0.1", "localhost", "::1"):
        print("Everyone who can reach this machine can play. Without https their browsers get JPEG instead of H.264.", flush=True)
    if open_browser and has_display():
        threading.Timer(0.5, webbrowser.open, (url,)).start()
    with suppress(KeyboardInterrupt):
        make_server(catalogue, settings).run(sockets=[listener])


def has_display() -> bool:
    """Whether a browser window could appear."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class BackgroundServer:
    """The same server on a thread, for tests and benchmarks: `with BackgroundServer(catalogue) as server: server.url`."""

    def __init__(self, catalogue: Catalogue, settings: PlaySettings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._listener = bind(host, port)
        self.url = address(self._listener)
        self._server = make_server(catalogue, settings)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=10)
