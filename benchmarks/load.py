"""Closed-loop HTTP clients on bare sockets: each sends its next request when it has its answer.

An HTTP library would cost more than the server that is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

from benchmarks.measuring import BenchmarkError

ANSWER_S = 30
HEAD_END, LENGTH = b"\r\n\r\n", b"content-length:"
JSON = {"content-type": "application/json"}


@dataclass
class Load:
    """What is left to send, and how long each answer took."""

    request: bytes
    left: int
    until: float
    latencies_s: list[float] = field(default_factory=list)
    failure: str = ""


@dataclass(frozen=True)
class Throughput:
    """One round's figures."""

    per_s: float
    p50_ms: float
    p99_ms: float
    most_ms: float
    answers: int


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: Load, done: asyncio.Future[None]) -> None:
        """Take the shared load; `done` is set when this client stops."""
        self._load, self._done = load, done
        self._buffer, self._sent = b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one by its methods alone
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; an end before `_send` said so is a failure."""
        if not self._done.done():
            self._load.failure = f"the server closed a connection: {exc}"
            self._done.set_result(None)

    def _send(self) -> None:
        if self._load.left <= 0 or time.perf_counter() > self._load.until:
            self._done.set_result(None)
            self._transport.close()
            return
        self._load.left -= 1
        self._sent = time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        """Take a whole answer, then send the next request."""
        self._buffer += data
        head, found, body = self._buffer.partition(HEAD_END)
        if not found:
            return
        at = head.lower().index(LENGTH) + len(LENGTH)
        if len(body) < int(head[at:].partition(b"\r\n")[0]):
            return
        self._load.latencies_s.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self._load.failure, self._load.left = f"{head.decode()}\n{body.decode()[:500]}", 0
        self._buffer = b""
        self._send()


def post(path: str, body: bytes, headers: Mapping[str, str] = JSON) -> bytes:
    """Return the bytes of a request that keeps its connection."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: bench\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def drive(port: int, request: bytes, *, clients: int, requests: int, seconds: float) -> Throughput:
    """Send up to `requests` requests for up to `seconds`, from `clients` connections. Raises: BenchmarkError."""
    load = Load(request, requests, time.perf_counter() + seconds)

    async def run() -> float:
        loop = asyncio.get_running_loop()
        done: list[asyncio.Future[None]] = [loop.create_future() for _ in range(clients)]
        began = time.perf_counter()
        for future in done:
            await loop.create_connection(lambda future=future: Client(load, future), "127.0.0.1", port)  # type: ignore[misc]  # mypy can't infer a default's type
        async with asyncio.timeout(seconds + ANSWER_S):
            await asyncio.gather(*done)
        return time.perf_counter() - began

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        took = runner.run(run())
    if load.failure:
        raise BenchmarkError(load.failure)
    p50, p99, most = (float(value) for value in np.percentile(load.latencies_s, [50, 99, 100]) * 1000)
    return Throughput(len(load.latencies_s) / took, p50, p99, most, len(load.latencies_s))
