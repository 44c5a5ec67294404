"""Connections to requests, within bounds of size, number and time: uvicorn's protocol with what it leaves open."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, ClassVar, NoReturn

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mlops_tasks.serving.answering import OneWrite

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


HEADER_BYTES = 64 << 10
PIPELINED = 64
"""Requests that may wait on one connection for the answers before theirs."""
LINGER_S = 2.0
"""How long what a client still sends is read and forgotten when it was cut off: closed at once, it would not hear why."""
WISHES = {b"upgrade", b"http2-settings"}
"""Headers, and words of `connection`, that ask for another protocol than HTTP/1.1."""
RETRY = b"retry-after: 1\r\n"
UNREADABLE = (400, "this is no HTTP/1.1 request: a client or something between does not write it as RFC 9112 says")
LARGE_HEAD = (431, "the request's head, or what comes around its body, is larger than 64 KB: send fewer headers")
FULL = (503, "the bodies of requests that are under way take all the memory there is for them: try again in a moment")
CROWDED = (503, "too many connections: try again in a moment")
HURRIED = (503, f"more than {PIPELINED} requests wait on this connection: read their answers first")
SLOW = (408, "the request did not come in time: send it at once")


@dataclass(frozen=True)
class Limits:
    """Bounds of connections."""

    header_s: float
    body_s: float
    keep_alive_s: float
    write_s: float
    connections: int
    bodies_bytes: int


class Load:
    """What all connections hold together."""

    def __init__(self, refused: Callable[[int], None] = lambda _: None) -> None:
        self.requests = 0
        """Whose head came and that are not answered."""
        self.bodies_bytes = 0
        """Of these."""
        self.refused = refused
        """Is told each status that no application gave."""


class Refused(Exception):
    """What a client sends is not read on; stops the parser."""


class Guarded(HttpToolsProtocol):
    """uvicorn's protocol with bounds: who sends too slowly or too much is told so and cut off.

    A connection always has a time at which it is cut off, unless the application works on a request that came whole: for an
    answer's being taken, the next request's head, its body, also one that was answered before it came. `look`, called several
    times a second, compares them with the clock, so no callback of the parser has timers to set.

    Over TLS, uvloop keeps an answer where its size is not told: one that nobody takes ends with the idle connection.
    """

    limits: ClassVar[Limits]
    load: ClassVar[Load]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._due, self._write_due = self.loop.time() + self.limits.header_s, math.inf
        self._in_head = self._in_body = self._deaf = self._wishes = self._mixed = False
        self._head_bytes = self._read = self._framing = 0
        self._refusal, self._last_words = UNREADABLE, UNREADABLE
        self._bodies: deque[int] = deque()  # bytes of each request that is not answered, in the order of answers
        if len(self.connections) > self.limits.connections:
            self._say(*CROWDED)
            self._deaf = True
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hold nothing more."""
        self.load.bodies_bytes -= sum(self._bodies)
        self.load.requests -= len(self._bodies)
        self._bodies.clear()
        self._deaf = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; count what is neither a whole head nor part of a body."""
        if self._deaf:
            return
        self._read, self._mixed, self._framing = len(data), False, self._framing + len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._end(*self._refusal)
            return
        if self._in_head:
            self._head_bytes += len(data)
        if max(self._head_bytes, self._framing if self._in_body else 0) > HEADER_BYTES:
            self._end(*LARGE_HEAD)

    def _feed(self, data: bytes) -> None:
        """Parse; a wish to speak another protocol is taken out, since the parser takes no body from who has it."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as wish:
                data = self._head_without_wish() + data[wish.args[0] :]
                self.parser = httptools.HttpRequestParser(self)  # the one before may have seen `connection: close`
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            else:
                return

    def _head_without_wish(self) -> bytes:
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                kept = [word for word in value.split(b",") if word.strip().lower() not in WISHES]
                head += [b"connection: " + b",".join(kept)] if kept else []
            elif name not in WISHES:
                head.append(name + b": " + value)
        self._wishes = False
        return b"\r\n".join([*head, b"", b""])

    def on_message_begin(self) -> None:
        """Give a request's head its time."""
        if len(self._bodies) >= PIPELINED:
            self._refuse(*HURRIED)
        super().on_message_begin()
        self._in_head, self._head_bytes = True, -self._read if self._mixed else 0
        if not self._bodies:
            self._due = self.loop.time() + self.limits.header_s

    def on_headers_complete(self) -> None:
        """Give a request's body its time."""
        if (self._read > HEADER_BYTES or self._head_bytes > 0) and self._head_size() > HEADER_BYTES:
            self._refuse(*LARGE_HEAD)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._refuse(*UNREADABLE)
            self._wishes = True
            return
        super().on_headers_complete()
        self._in_head, self._in_body, self._head_bytes, self._framing = False, True, 0, 0
        self.headers = []  # trailers come into it, which are no headers
        if self.scope["method"] != "HEAD":
            self.cycle.transport = OneWrite(self.transport, self.cycle)  # type: ignore[assignment]  # one by its methods alone
        if self.expect_100_continue:
            self.cycle.keep_alive = False  # who is refused may send the body or not: nobody could tell it from a request
        self._bodies.append(0)
        self.load.requests += 1
        if len(self._bodies) == 1:
            self._due = self.loop.time() + self.limits.body_s

    def on_body(self, body: bytes) -> None:
        """Hold a part of a body, unless it was answered already."""
        self._framing = 0
        super().on_body(body)
        if self.cycle.response_complete:
            return
        self._bodies[-1] += len(body)
        self.load.bodies_bytes += len(body)
        if self.load.bodies_bytes > self.limits.bodies_bytes:
            self._refuse(*FULL)

    def on_message_complete(self) -> None:
        """Let the application take its time."""
        if self._wishes:
            return
        super().on_message_complete()
        self._in_body, self._mixed = False, True  # what follows in the same read is another's
        self._due = math.inf if self._bodies else self.loop.time() + self.limits.keep_alive_s

    def on_response_complete(self) -> None:
        """Go on with the next request; without one, begin to wait for it."""
        if self._bodies:
            self.load.bodies_bytes -= self._bodies.popleft()
            self.load.requests -= 1
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the time is kept here
        if len(self._bodies) > self._waits_for_body() or self.transport.is_closing():
            return
        if self._deaf:
            self._cut(*self._last_words)
        elif self._due == math.inf:
            self._due = self.loop.time() + self._patience_s()

    def _waits_for_body(self) -> bool:
        return self._in_body and not self.cycle.response_complete

    def _patience_s(self) -> float:
        limits = self.limits
        return limits.header_s if self._in_head else limits.body_s if self._in_body else limits.keep_alive_s

    def pause_writing(self) -> None:
        """Give the client its time to take the answer."""
        super().pause_writing()
        self._write_due = self.loop.time() + self.limits.write_s

    def resume_writing(self) -> None:
        """Wait no more for the client to read."""
        super().resume_writing()
        self._write_due = math.inf

    def look(self, now: float) -> None:
        """Cut off who is late."""
        if self._write_due <= now:
            self.transport.abort()
        elif self.transport.is_closing():
            if self._write_due == math.inf:  # what is still to be written holds the connection
                self._write_due = now + self.limits.write_s
        elif self._due <= now:
            if self._deaf or not (self._in_head or self._in_body):
                self.transport.close()
            else:
                self._cut(*SLOW)

    def shutdown(self) -> None:
        """Let a request that has begun to come be the last."""
        if not self._in_head:
            super().shutdown()

    def _refuse(self, status: int, why: str) -> NoReturn:
        self._refusal = (status, why)
        raise Refused

    def _head_size(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _end(self, status: int, why: str) -> None:
        """Read no more; refuse what came last, when the requests before it are answered."""
        self._deaf, self._last_words = True, (status, why)
        waits = self._waits_for_body()
        if len(self._bodies) == waits:
            self._cut(status, why)
        elif waits:
            self.load.bodies_bytes -= self._bodies.pop()
            self.load.requests -= 1
            self.pipeline.popleft()
            self._in_body = False

    def _cut(self, status: int, why: str) -> None:
        """Say why, unless an answer is under way, and close when the client has read it."""
        if self.transport.is_closing():
            return
        self._deaf = True
        if not self._in_body or not self.cycle.response_started:
            self._say(status, why)
        if self._in_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._due = self.loop.time() + LINGER_S
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.flow.resume_reading()

    def _say(self, status: int, why: str) -> None:
        body = orjson.dumps({"error": why})
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%sconnection: close\r\n\r\n"
        retry = RETRY if status == HTTPStatus.SERVICE_UNAVAILABLE else b""
        self.transport.write(head % (status, HTTPStatus(status).phrase.encode(), len(body), retry) + body)
        self.load.refused(status)


def guarded(limits: Limits, load: Load) -> type[asyncio.Protocol]:
    """Return the protocol with these bounds, whose connections count what they hold: uvicorn makes its instances itself."""
    return type("Guarded", (Guarded,), {"limits": limits, "load": load})
