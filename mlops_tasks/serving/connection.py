"""Connections to requests, within bounds of size, number and time: uvicorn with what it leaves open."""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlops_tasks.serving.auth import refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

CLOSE = (b"connection", b"close")
HEADER_BYTES = 64 << 10
LAST_REQUESTS_S = 0.5
"""How long idle connections are still read when the server ends: a request may be on its way."""
HANDSHAKE_S = 0.1
"""How long a connection that a client has begun to open may take."""
SO_ATTACH_FILTER = 26
ONLY_WITH_ACK = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x10), (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0))
"""A classic BPF program: load the TCP flags; a packet with ACK passes, a SYN alone, which asks for a connection, does not."""
TICKS_OF_CERTIFICATES = 50
"""Looks at the certificate's files once in so many ticks of 0.1 s."""


@dataclass(frozen=True)
class Limits:
    """Bounds of connections."""

    header_s: float
    body_s: float
    connections: int


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with bounds: a client that sends slowly, or too long a head, is told so and cut off."""

    limits: ClassVar[Limits]
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._cut(b"503 Service Unavailable", b"too many connections: try again in a moment")
            return
        self._arm(self.limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read, and count the head's bytes."""
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_BYTES:
                self._cut(b"431 Request Header Fields Too Large", b"the request's head is larger than 64 KB")

    def on_message_begin(self) -> None:
        """Give a request's head its time."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._arm(self.limits.header_s)

    def on_headers_complete(self) -> None:
        """Give a request's body its time."""
        super().on_headers_complete()
        self._in_head = False
        self._arm(self.limits.body_s)

    def on_message_complete(self) -> None:
        """Let the application take its time."""
        super().on_message_complete()
        self._disarm()

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._cut(b"408 Request Timeout", b"the request did not come in time: send it at once")

    def _cut(self, status: bytes, why: bytes) -> None:
        """Say why, unless an answer is under way, and close."""
        self._disarm()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = b'{"error":"%s"}' % why
            head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(head % (status, len(body)) + body)
        self.transport.close()


def guarded(limits: Limits) -> type[asyncio.Protocol]:
    """Return the protocol with these bounds: uvicorn makes its instances itself."""
    return type("Guarded", (Guarded,), {"limits": limits})


class Concurrency:
    """ASGI middleware: what comes while too many requests are under way is told to come again."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most, self._now = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it."""
        if self._now >= self._most and scope["type"] == "http" and not scope["path"].startswith("/v2/health/"):
            message = f"{self._now} requests are under way here: try again in a moment"
            await refuse(send, 503, message, (b"retry-after", b"1"))
            return
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


def _let_no_more_in(listener: socket.socket) -> None:
    """Open no new connections and finish those that are being opened; elsewhere than on Linux: keep the queue short."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in ONLY_WITH_ACK)
    program = ctypes.create_string_buffer(code)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(ONLY_WITH_ACK), ctypes.addressof(program))
        )
    except OSError:
        listener.listen(0)


class DrainingServer(uvicorn.Server):
    """uvicorn that loses no request when it is told to end, and takes a renewed certificate."""

    def __init__(self, config: uvicorn.Config, *, delay_s: float, on_drain: Callable[[], None]) -> None:
        """Serve.

        Args:
            config: uvicorn's.
            delay_s: how long to go on as before, but not ready, when told to end.
            on_drain: is called at once then.

        """
        super().__init__(config)
        self._delay_s, self._on_drain = delay_s, on_drain
        self._certificate = self._certificate_state()

    async def on_tick(self, counter: int) -> bool:
        """Do what uvicorn does ten times a second."""
        if counter % TICKS_OF_CERTIFICATES == 0:
            self._renew_certificate()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what is on its way, each answer being a connection's last; then let uvicorn end.

        A connection that waits to be accepted would be reset when the listener closes: so no more are let in first, and
        those that are there are taken. Who asks for one after that is refused, which loses no request.
        """
        self._on_drain()
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        await self._pass(self._delay_s)
        for listener in sockets or []:
            _let_no_more_in(listener)
        await self._pass(HANDSHAKE_S)
        for server in self.servers:
            server.close()
        await self._pass(LAST_REQUESTS_S)
        await super().shutdown(sockets)

    async def _pass(self, seconds: float) -> None:
        """Let time pass, less if there is nobody, or if a second signal says so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self.force_exit:
            await asyncio.sleep(0.01)
            if seconds == LAST_REQUESTS_S and not self.server_state.connections:
                return

    def _renew_certificate(self) -> None:
        """Load the certificate again when its files changed; connections that are open keep theirs."""
        state = self._certificate_state()
        if state != self._certificate and self.config.ssl is not None and None not in state:
            self._certificate = state
            try:
                self.config.ssl.load_cert_chain(str(self.config.ssl_certfile), self.config.ssl_keyfile)
            except OSError as error:  # ssl.SSLError is one: a renewal under way
                uvicorn.server.logger.warning("the new certificate can't be used yet: %s", error)
                self._certificate = ()

    def _certificate_state(self) -> tuple[Any, ...]:
        names = [name for name in (self.config.ssl_certfile, self.config.ssl_keyfile) if name]
        return tuple(Path(str(name)).stat().st_mtime_ns if Path(str(name)).exists() else None for name in names)
