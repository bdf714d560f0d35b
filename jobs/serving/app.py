"""The web server: Starlette and uvicorn, with a websocket and the page's own AudioWorklet.

Chosen because raw float32 samples go both ways the moment they exist and nothing is loaded from a
network; Gradio sends files, and FastRTC's WebRTC encodes sound lossily, which changes tokens.
"""

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from jobs.serving.models import MOST_BYTES, ServedModels
from jobs.serving.session import TabSession
from tokenizer.errors import UsageError

PAGE = Path(__file__).resolve().parent / "page"
HEADERS = {
    b"content-security-policy": b"default-src 'self'; frame-ancestors 'none'",
    b"cache-control": b"no-cache",
    b"x-content-type-options": b"nosniff",
}


class OwnPagesOnly:
    """Refuses what other web sites send: a browser lets any page connect to any socket.

    A browser names the page in Origin, which must be this server. It must also be addressed by a
    name it is known under, or another site's name could be made to lead here.
    """

    def __init__(self, app: ASGIApp, names: set[str]) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or hand on, with HEADERS."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if (origin is not None and origin.partition("://")[2] != host) or not self._is_ours(host):
            if scope["type"] == "websocket":
                return await WebSocket(scope, receive, send).close(1008)
            refusal = PlainTextResponse("this page is not served under that name", 403)
            return await refusal(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)


def make_app(models: ServedModels, host: str) -> Starlette:
    """The page and its socket. `.sessions` of its state are those of the tabs that are open."""
    sessions: set[TabSession] = set()

    async def speak(connection: WebSocket) -> None:
        session = TabSession(connection, models)
        sessions.add(session)
        try:
            await session.run()
        finally:
            sessions.discard(session)

    routes = [
        WebSocketRoute("/speak", speak),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    app = Starlette(routes=routes)
    app.state.sessions = sessions
    app.add_middleware(
        OwnPagesOnly, names={"localhost", host.lower(), socket.gethostname().lower()}
    )
    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Raises UsageError for a host that is not this machine's, and for a port that is taken.
    """
    if port > 65_535:
        raise UsageError("there is no such port", "give up to 65535", value=port, argument="port")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except socket.gaierror as error:
        problem = "no machine has this name"
        raise UsageError(
            problem, "give one of this machine", value=host, argument="host"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            problem = "it is not an address of this machine"
            remedy = "give 127.0.0.1, or 0.0.0.0 for all of them"
            raise UsageError(problem, remedy, value=host, argument="host") from error
        if error.errno == errno.EADDRINUSE:
            problem, remedy = "another program listens there", "give another, or 0 for any"
        elif error.errno == errno.EACCES:
            problem, remedy = "only root may listen there", "give one over 1023"
        else:
            raise
        raise UsageError(problem, remedy, value=port, argument="port") from error


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server of it; `.run(sockets=[listen(...)])` serves until Ctrl-C."""
    config = uvicorn.Config(
        app,
        ws="websockets-sansio",
        ws_max_size=MOST_BYTES,
        ws_per_message_deflate=False,  # sound does not shrink
        lifespan="off",
        log_level="warning",
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)


@contextmanager
def in_background(app: ASGIApp) -> Iterator[int]:
    """Serve it on 127.0.0.1 from another thread until the end of the block; gives the port."""
    with listen("127.0.0.1", 0) as listener:
        server = server_of(app)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
