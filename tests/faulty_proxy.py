"""A reverse proxy on loopback that does to chosen requests what networks and busy servers do."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Callable

Fault = Literal["busy", "slow", "cut answer", "cut request", "lost answer"]
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
SLOW_S = 1.0


@dataclass(frozen=True)
class Request:
    """What a fault is chosen by; numbers begin with 1."""

    number: int
    method: str
    path: str


class FaultyProxy:
    """Forwards to a port of loopback; `fault` says what goes wrong with a request, if anything."""

    def __init__(self, port: int) -> None:
        """Forward to `port`; nothing goes wrong yet."""
        self.fault: Callable[[Request], Fault | None] = lambda _: None
        self.seen: list[Request] = []
        self.faults = 0
        self._target, self._lock = port, threading.Lock()
        proxy = self

        class Handler(_Handler):
            def forward(self) -> None:
                proxy._serve(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: _Handler) -> None:
        with self._lock:
            request = Request(len(self.seen) + 1, handler.command, handler.path)
            self.seen.append(request)
            fault = self.fault(request)
            self.faults += fault is not None
        length = int(handler.headers.get("Content-Length") or 0)
        if fault == "cut request":
            handler.rfile.read(length // 2)
            handler.reset()
            return
        body = handler.rfile.read(length)
        if fault == "busy":
            handler.answer(503, [], BUSY)
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        upstream = http.client.HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            upstream.request(handler.command, handler.path, body, dict(handler.headers.items()))
            got = upstream.getresponse()
            data = got.read()
        except OSError:
            handler.reset()
            return
        finally:
            upstream.close()
        if fault == "lost answer":
            handler.reset()
            return
        handler.answer(got.status, got.getheaders(), data, cut=fault == "cut answer")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def forward(self) -> None:
        raise NotImplementedError

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = lambda self: self.forward()  # noqa: N815 - the base class's names

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, cut: bool = False) -> None:
        self.send_response_only(status)
        given = {name.lower(): value for name, value in headers}
        given.pop("transfer-encoding", None)
        if self.command != "HEAD":
            given["content-length"] = str(len(data))
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.reset()

    def reset(self) -> None:
        """Close the connection so that the other side sees it reset."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self) -> None:
        """Do not stumble over a connection that was reset."""
        if self.connection.fileno() != -1:
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""
