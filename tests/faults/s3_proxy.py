"""An S3 server that misbehaves: a proxy in a process of its own between a job and a real server.

`python -m faults.s3_proxy PORT UPSTREAM` runs it. Which requests fail, and how, is set at
/__faults__ while it runs, so that one cluster of Ray serves all faults.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from ray_cluster import ROOT, environment, free_port
from stores import S3

KINDS = ("500", "503", "reset", "lost answer", "stall", "truncated", "short", "empty")
VERBS = ("GET", "PUT", "LIST", "HEAD", "MULTIPART")
# Longer than s3fs waits for an answer.
STALL_SECONDS = 20
CONTROL = "/__faults__"
# Of one connection, not of the message.
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "host", "expect"}


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Which requests fail. rate: their share. most: at most this many, as a stall takes long.

    verb: of VERBS. kind: of KINDS; "" for none. seed: of the choice.
    """

    kind: str = ""
    verb: str = "GET"
    rate: float = 0.0
    seed: int = 0
    most: int = 1_000_000


def verb_of(request: web.Request) -> str:
    """What a request is in the terms of a store."""
    key = request.path.lstrip("/").partition("/")[2]
    if "uploads" in request.query or "uploadId" in request.query:
        return "MULTIPART"
    if request.method == "GET" and not key:
        return "LIST"
    return request.method


class Chooser:
    """Chooses which requests one kind of fault breaks."""

    def __init__(self, faults: Faults) -> None:
        self.faults, self.random = faults, random.Random(faults.seed)
        # One of the first few fails in any case: a short job makes few requests.
        self.certain = self.random.randrange(1, 4) if faults.rate else 0
        self.seen = self.injected = 0

    def breaks(self, verb: str) -> bool:
        """Whether to break this request."""
        if verb != self.faults.verb:
            return False
        self.seen += 1
        broken = self.injected < self.faults.most and (
            self.random.random() < self.faults.rate or self.seen == self.certain
        )
        self.injected += broken
        return broken


class Proxy:
    """Passes requests on, and breaks some of them."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.session = upstream, None
        self.choosers: list[Chooser] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        if request.path == CONTROL:
            if request.method == "PUT":
                self.choosers = [Chooser(Faults(**faults)) for faults in await request.json()]
            return web.json_response({"injected": [one.injected for one in self.choosers]})
        verb, body = verb_of(request), await request.read()
        chosen = [one.faults.kind for one in self.choosers if one.breaks(verb)]
        kind = chosen[0] if chosen else ""
        if kind in ("500", "503"):
            return _refusal(int(kind))
        if kind == "reset":
            return _reset(request)
        status, headers, data = await self.ask(request, body)
        if not kind:
            return _answer(request, status, headers, data)
        if kind == "lost answer":
            return _reset(request)
        if kind in ("short", "empty"):
            return _shorter(status, headers, data, empty=kind == "empty")
        return await _half(request, status, headers, data, stall=kind == "stall")

    async def ask(self, request: web.Request, body: bytes) -> tuple[int, dict, bytes]:
        """The real server's answer: status, headers, body."""
        self.session = self.session or aiohttp.ClientSession(auto_decompress=False)
        headers = {name: text for name, text in request.headers.items() if name.lower() not in HOP}
        url = self.upstream + request.raw_path
        async with self.session.request(
            request.method, url, headers=headers, data=body, skip_auto_headers=("Content-Type",)
        ) as answer:
            kept = {n: t for n, t in answer.headers.items() if n.lower() not in HOP}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return answer.status, kept, await answer.read()


def _answer(request: web.Request, status: int, headers: dict, data: bytes) -> web.Response:
    return web.Response(status=status, headers=headers, body=None if _bodiless(request) else data)


def _bodiless(request: web.Request) -> bool:
    return request.method == "HEAD"


def _refusal(status: int) -> web.Response:
    code = "InternalError" if status == 500 else "SlowDown"
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>try again</Message></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


def _reset(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _shorter(status: int, headers: dict, data: bytes, *, empty: bool) -> web.Response:
    """An answer that looks whole: no checksum, and a length that fits."""
    part = b"" if empty else data[: len(data) // 2]
    kept = {n: t for n, t in headers.items() if not n.lower().startswith("x-amz-checksum")}
    return web.Response(status=status, headers=kept, body=part)


async def _half(
    request: web.Request, status: int, headers: dict, data: bytes, *, stall: bool
) -> web.StreamResponse:
    """Half of what was announced; then the end, at once or after a long silence."""
    if stall and (_bodiless(request) or not data):
        await asyncio.sleep(STALL_SECONDS)
        return _reset(request)
    response = web.StreamResponse(status=status, headers=headers)
    if not _bodiless(request):
        response.content_length = len(data)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client does not wait
        if not _bodiless(request):
            await response.write(data[: len(data) // 2])
        if stall:
            await asyncio.sleep(STALL_SECONDS)
    _reset(request)
    return response


class S3Proxy:
    """The running proxy, seen from the harness. env: of a job that is to go through it."""

    def __init__(self, s3: S3, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.env = {**s3.env, "AWS_ENDPOINT_URL": self.endpoint}

    def set(self, *faults: Faults) -> None:
        """Break these requests, and no others, from now on."""
        self._ask("PUT", json.dumps([asdict(one) for one in faults]).encode())

    def injected(self) -> list[int]:
        """How many requests each of the faults has broken since `set`."""
        return self._ask("GET")["injected"]

    def _ask(self, method: str, data: bytes | None = None) -> dict:
        request = urllib.request.Request(self.endpoint + CONTROL, data=data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def s3_proxy(s3: S3, log: Path) -> Iterator[S3Proxy]:
    """Start a proxy before a server, and end it. log: what it prints."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "faults.s3_proxy", str(port), s3.endpoint],
            cwd=ROOT,
            env=environment({"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}),
            stdout=output,
            stderr=output,
        )
    try:
        proxy, deadline = S3Proxy(s3, port), time.monotonic() + 60
        while True:
            try:
                proxy.set()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield proxy
    finally:
        process.terminate()
        process.wait(60)


async def _serve(port: int, upstream: str) -> None:
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", Proxy(upstream).handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
