"""What clients may do to a connection, on a real socket, in front of a small application."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from mlops_tasks.serving.certificates import Certificates
from mlops_tasks.serving.connection import HEADER_BYTES, PIPELINED, Limits, Load, guarded
from mlops_tasks.serving.draining import DrainingServer
from mlops_tasks.serving.front import Front
from mlops_tasks.serving.metrics import Metrics
from mlops_tasks.serving.slot import Slot
from tests.certificates import write_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from starlette.types import Message, Receive, Scope, Send

LONG_S = 60.0
LARGE = 20 << 20
"""More than the buffers between a server and a client that does not read."""


class App:
    """Answers by path: with the body's length, with the headers, before the body is read, late, or with much."""

    def __init__(self) -> None:
        self.go, self.gone = asyncio.Event(), 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, status, answer = scope["path"], 200, b""
        if path == "/early":
            status = 401
        elif path == "/large":
            answer = b"x" * LARGE
        elif path == "/headers":
            await _body(receive)
            answer = json.dumps([[k.decode(), v.decode()] for k, v in scope["headers"]]).encode()
        else:
            body = await _body(receive)
            if body is None:
                self.gone += 1
                return
            if path == "/late":
                await self.go.wait()
            answer = str(len(body)).encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def _body(receive: Receive) -> bytes | None:
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


@dataclass
class Running:
    """A server in a thread of this process."""

    server: DrainingServer
    app: App
    port: int
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    refused: list[int]
    tls: ssl.SSLContext | None = None
    """Of clients that trust the server's certificate."""

    def connect(self, receive_bytes: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        return self.tls.wrap_socket(connection, server_hostname="127.0.0.1") if self.tls else connection

    def ask(self, *parts: bytes) -> bytes:
        """Send parts, each in a packet of its own, and return all that comes until the server closes."""
        with self.connect() as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.05)
            return until_closed(connection)

    def release(self) -> None:
        """Let the requests that wait go on."""
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.app.go.set)

    @property
    def open(self) -> int:
        return len(self.server.server_state.connections)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*, tls: bool = False, **limits: Any) -> Running:
        usual = {"header_s": LONG_S, "body_s": LONG_S, "keep_alive_s": LONG_S, "write_s": LONG_S, "connections": 100}
        bounds = Limits(**(usual | {"bodies_bytes": 64 << 20} | limits))
        app, refused = App(), list[int]()
        config = uvicorn.Config(
            app,
            loop="uvloop",
            http=guarded(bounds, Load(refused.append)),
            ws="none",
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        pair = write_certificate(tmp_path, 1) if tls else None
        trusting = ssl.create_default_context(cafile=str(pair[0])) if pair else None
        certificates = Certificates(*pair) if pair else None
        server = DrainingServer(config, limits=bounds, delay_s=0, on_drain=lambda: None, certificates=certificates)
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started)
        loop = server.servers[0].get_loop()
        started.append(Running(server, app, listener.getsockname()[1], thread, loop, refused, trusting))
        return started[-1]

    yield start
    for running in started:
        running.release()
        running.server.should_exit = True
        running.thread.join()


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


def until_closed(connection: socket.socket) -> bytes:
    """Read until the server closes; a timeout of the socket is a failure."""
    answer = b""
    while part := connection.recv(1 << 16):
        answer += part
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def request(path: str, *headers: str, body: bytes | None = None, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: x", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


LAST = request("/echo", "connection: close", method="GET")


@pytest.mark.parametrize("tls", [False, True])
def test_who_leaves_the_body_out_after_an_early_answer_is_cut_off(serve: Callable[..., Running], tls: bool) -> None:
    server = serve(body_s=0.5, tls=tls)
    head = request("/early", "content-length: 10")
    for parts in ([head], [head, b"x"]):
        assert statuses(server.ask(*parts)) == [401]


def test_after_an_early_answer_the_body_may_come_and_the_connection_goes_on(serve: Callable[..., Running]) -> None:
    server = serve(body_s=5)
    assert statuses(server.ask(request("/early", "content-length: 10"), b"0123456789", LAST)) == [401, 200]


@pytest.mark.parametrize("after", [b"", b"\r\n", b"\r\n\r\n"])
def test_an_idle_connection_is_closed_whatever_empty_lines_it_sends(serve: Callable[..., Running], after: bytes) -> None:
    server = serve(keep_alive_s=0.5)
    assert statuses(server.ask(request("/echo", body=b"abc"), after)) == [200]


def test_a_connection_without_a_request_is_closed_and_told_nothing(serve: Callable[..., Running]) -> None:
    server = serve(header_s=0.5)
    assert server.ask() == b""
    assert server.ask(b"\r\n") == b""


@pytest.mark.parametrize("tls", [False, True])
def test_slow_heads_and_bodies_get_408_and_the_application_hears_of_it(serve: Callable[..., Running], tls: bool) -> None:
    server = serve(header_s=0.5, body_s=0.5, tls=tls)
    assert statuses(server.ask(b"POST /echo HTTP/1.1\r\nhost")) == [408]
    assert statuses(server.ask(request("/echo", "content-length: 10"), b"x")) == [408]
    wait_until(lambda: server.app.gone == 1)
    assert server.refused == [408, 408]


@pytest.mark.parametrize("next_one", [b"POST /echo HTTP/1.1\r\nhost", request("/echo", "content-length: 10") + b"x"])
def test_the_beginning_of_the_next_request_does_not_end_the_one_under_way(
    serve: Callable[..., Running], next_one: bytes
) -> None:
    server = serve(header_s=0.5, body_s=0.5)
    with server.connect() as connection:
        connection.sendall(request("/late", body=b"abc") + next_one)
        time.sleep(1.5)  # longer than both bounds
        server.release()
        assert statuses(until_closed(connection)) == [200, 408]


def test_a_large_head_is_refused_however_it_comes(serve: Callable[..., Running]) -> None:
    server = serve()
    large = f"x-filler: {'a' * (200 << 10)}"
    assert statuses(server.ask(request("/echo", large, body=b""))) == [431]
    assert statuses(server.ask(request("/echo", *[f"x-{n}: {'a' * 1000}" for n in range(200)], body=b""))) == [431]
    assert statuses(server.ask(b"POST /echo HTTP/1.1\r\nhost: x\r\n", large.encode())) == [431]
    assert statuses(server.ask(request("/echo", f"x-filler: {'a' * (HEADER_BYTES - 1000)}", "connection: close"))) == [200]
    assert server.refused == [431, 431, 431]


def test_what_came_before_a_head_in_one_packet_does_not_count_for_it(serve: Callable[..., Running]) -> None:
    server = serve()
    body = b"b" * (120 << 10)
    for path in ("/echo", "/early"):
        head = request(path, f"content-length: {len(body)}")
        answer = server.ask(head, body + LAST[:20], LAST[20:])
        assert statuses(answer) == [401 if path == "/early" else 200, 200]


CHUNKED = request("/headers", "transfer-encoding: chunked", "connection: close")


def test_trailers_are_no_headers_and_have_a_bound(serve: Callable[..., Running]) -> None:
    server = serve()
    answer = server.ask(CHUNKED + b"3\r\nabc\r\n0\r\nauthorization: Bearer stolen\r\n\r\n")
    assert statuses(answer) == [200]
    assert b"stolen" not in answer
    for part in (b"x-a: b\r\n", b"a"):
        with server.connect() as connection:
            connection.sendall(CHUNKED + b"3\r\nabc\r\n0\r\nx: ")
            for _ in range(40):
                connection.sendall(part * (10_000 // len(part)))
                time.sleep(0.01)
                if server.refused:
                    break
            assert statuses(until_closed(connection)) == [431]
        server.refused.clear()


def test_a_chunk_without_end_has_a_bound(serve: Callable[..., Running]) -> None:
    server = serve()
    assert statuses(server.ask(CHUNKED + b"1;x=", *[b"x" * 20_000] * 6)) == [431]


def test_pipelined_requests_are_answered_in_order_up_to_a_bound(serve: Callable[..., Running]) -> None:
    server = serve()
    some = [request("/echo", body=b"b" * n) for n in range(20)]
    answer = server.ask(b"".join(some) + LAST)
    assert statuses(answer) == [200] * 21
    assert [int(part.split(b"\r\n\r\n")[1]) for part in answer.split(b"HTTP/1.1 ")[1:]] == [*range(20), 0]
    assert statuses(server.ask(request("/echo", body=b"") * 1000)) == [200] * PIPELINED + [503]


def test_what_is_unreadable_is_refused_after_what_came_before_it_is_answered(serve: Callable[..., Running]) -> None:
    server = serve()
    for broken in (b"nonsense\r\n\r\n", request("/echo", "transfer-encoding: chunked") + b"nonsense\r\n"):
        assert statuses(server.ask(broken)) == [400]
        assert statuses(server.ask(request("/echo", body=b"abc") * 2 + broken)) == [200, 200, 400]
    wait_until(lambda: server.open == 0)


def test_bodies_together_have_a_bound_and_are_let_go(serve: Callable[..., Running]) -> None:
    server = serve(bodies_bytes=1 << 20)
    half = request("/late", body=b"b" * (600 << 10))
    with server.connect() as first:
        first.sendall(half)
        wait_until(lambda: server.app.gone == 0 and server.open == 1)
        time.sleep(0.2)
        refused = server.ask(request("/echo", body=b"b" * (600 << 10)))
        assert statuses(refused) == [503]
        assert b"retry-after: 1" in refused
        server.release()
        assert first.recv(1 << 16).startswith(b"HTTP/1.1 200")
    for _ in range(5):
        assert statuses(server.ask(request("/echo", "connection: close", body=b"b" * (600 << 10)))) == [200]


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("headers", [(), ("connection: close",)])
def test_who_does_not_read_the_answer_is_cut_off(serve: Callable[..., Running], headers: tuple[str, ...], tls: bool) -> None:
    # Over TLS the answer lies in a buffer that tells nobody: it goes with the idle connection.
    server = serve(write_s=0.5, keep_alive_s=0.5, tls=tls)
    with server.connect(receive_bytes=4096) as connection:
        connection.sendall(request("/large", *headers, method="GET"))
        wait_until(lambda: server.open == 1)
        wait_until(lambda: server.open == 0)
        try:
            assert len(until_closed(connection)) < LARGE
        except ssl.SSLEOFError:
            assert tls  # which tells an end from a cut


@pytest.mark.parametrize("tls", [False, True])
def test_who_reads_slowly_enough_gets_the_whole_answer(serve: Callable[..., Running], tls: bool) -> None:
    server = serve(write_s=20, tls=tls)
    with server.connect() as connection:
        connection.sendall(request("/large", "connection: close", method="GET"))
        time.sleep(1)
        assert len(until_closed(connection)) > LARGE


def test_a_handshake_that_does_not_end_is_cut_off(serve: Callable[..., Running]) -> None:
    server = serve(header_s=0.5, tls=True)
    server.tls = None
    for begun in (b"", b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03"):
        assert server.ask(begun) == b""


def test_too_many_connections_are_told_so(serve: Callable[..., Running]) -> None:
    server = serve(connections=2)
    with server.connect(), server.connect():
        wait_until(lambda: server.open == 2)
        answer = server.ask()
    assert statuses(answer) == [503]
    assert b"retry-after: 1" in answer
    assert server.refused == [503]


HOSTILE = {
    "length and chunks": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "the same length twice": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "list of lengths": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3, 3\r\n\r\nabc",
    "signed length": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: +3\r\n\r\nabc",
    "huge length": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\nabc",
    "not chunked at the end": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "huge chunk": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "null byte in a value": b"GET /echo HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n",
    "null byte in a name": b"GET /echo HTTP/1.1\r\nhost: x\r\nx\0y: a\r\n\r\n",
    "null byte in the path": b"GET /ec\0ho HTTP/1.1\r\nhost: x\r\n\r\n",
    "space before the colon": b"GET /echo HTTP/1.1\r\nhost: x\r\ncontent-length : 3\r\n\r\nabc",
    "folded line": b"GET /echo HTTP/1.1\r\nhost: x\r\nx: a\r\n b\r\n\r\n",
    "bare line feeds": b"GET /echo HTTP/1.1\nhost: x\n\n",
    "bytes beyond ASCII in the path": b"GET /\xc3\xa4 HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT elsewhere:443 HTTP/1.1\r\nhost: elsewhere:443\r\n\r\n",
    "TLS": b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_could_be_read_in_two_ways_is_refused_and_the_connection_closed(serve: Callable[..., Running], what: str) -> None:
    server = serve(header_s=2)
    assert statuses(server.ask(HOSTILE[what])) == [400]


UPGRADES = {
    "h2c": ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"),
    "websocket": ("connection: Upgrade", "upgrade: websocket", "sec-websocket-key: eA==", "sec-websocket-version: 13"),
}


@pytest.mark.parametrize("what", UPGRADES)
def test_wishes_for_another_protocol_are_answered_in_this_one(serve: Callable[..., Running], what: str) -> None:
    server = serve()
    wish = request("/echo", *UPGRADES[what], body=b"abc")
    chunked = request("/echo", *UPGRADES[what], "transfer-encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
    for whole in (wish, chunked, request("/echo", *UPGRADES[what], method="GET")):
        for parts in ([whole, LAST], [whole + LAST], [whole[:-2], whole[-2:] + LAST]):
            answer = server.ask(*parts)
            assert statuses(answer) == [200, 200]
            assert int(re.split(rb"\r\n\r\n|HTTP", answer)[2]) == (0 if whole.startswith(b"GET") else 3)
    answer = server.ask(request("/headers", *UPGRADES[what][1:], "connection: close, upgrade"))
    assert b"connection: close" in answer
    assert b'"upgrade"' not in answer.lower()


def test_http_1_0_is_answered_once(serve: Callable[..., Running]) -> None:
    server = serve()
    assert statuses(server.ask(b"POST /echo HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc")) == [200]


def test_absolute_addresses_are_taken(serve: Callable[..., Running]) -> None:
    server = serve()
    assert statuses(server.ask(request("http://elsewhere/echo", "connection: close", body=b"abc"))) == [200]


def test_names_with_underscores_stay_what_they_are(serve: Callable[..., Running]) -> None:
    server = serve()
    answer = server.ask(request("/headers", "x_entity_key: a", "x-entity-key: b", "connection: close"))
    assert json.loads(answer.partition(b"\r\n\r\n")[2])[1:3] == [["x_entity_key", "a"], ["x-entity-key", "b"]]


def test_who_expects_to_be_asked_for_the_body_is_asked_or_refused_and_never_misread(serve: Callable[..., Running]) -> None:
    server = serve(body_s=5)
    head = request("/echo", "expect: 100-continue", "content-length: 3")
    assert statuses(server.ask(head, b"abc")) == [100, 200]
    # The body of the refused one looks like a request, which a client that read 401 might send, too.
    refused = server.ask(request("/early", "expect: 100-continue", f"content-length: {len(LAST)}"), LAST)
    assert statuses(refused) == [401]
    assert b"connection: close" in refused


def test_a_server_that_ends_waits_for_a_request_of_which_the_head_has_begun_to_come(serve: Callable[..., Running]) -> None:
    server = serve()
    whole = request("/echo", body=b"abc")
    with server.connect() as connection:
        connection.sendall(whole[:20])
        wait_until(lambda: server.open == 1)
        time.sleep(0.2)
        server.server.should_exit = True
        time.sleep(1.5)  # longer than idle connections are read
        connection.sendall(whole[20:])
        answer = until_closed(connection)
    assert statuses(answer) == [200]
    assert b"connection: close" in answer


def test_a_server_that_ends_waits_for_no_thread_that_is_stuck(serve: Callable[..., Running]) -> None:
    server, answered, asked = serve(), threading.Event(), threading.Event()

    def ask_a_registry_that_does_not_answer() -> None:
        asked.set()
        answered.wait()

    try:
        server.loop.call_soon_threadsafe(server.loop.run_in_executor, None, ask_a_registry_that_does_not_answer)
        assert asked.wait(10)
        server.server.should_exit = True
        server.thread.join(20)
        assert not server.thread.is_alive()
    finally:
        answered.set()


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Say nothing."""

    def pause_reading(self) -> None:
        """Say nothing."""

    def resume_reading(self) -> None:
        """Say nothing."""


async def heard(parts: list[bytes], *, answer_between: bool) -> tuple[list[int], float]:
    """Return the statuses that a stream gets in these reads, and the time that is left; what is held must be let go."""
    limits = Limits(10, 60, 75, 60, 10, 1 << 30)
    protocol_class: Any = guarded(limits, Load())
    config = uvicorn.Config(App(), http=protocol_class, ws="none", log_config=None, access_log=False, lifespan="off")
    config.load()
    loop, state, wire = asyncio.get_running_loop(), ServerState(), Wire()
    protocol = protocol_class(config=config, server_state=state, app_state={}, _loop=loop)
    protocol.connection_made(wire)
    for part in parts:
        if not wire.closed:
            protocol.data_received(part)
        if answer_between:
            await _settled()
    await _settled()
    left = protocol._due - loop.time()
    protocol.connection_lost(None)
    await _settled()
    assert (protocol.load.bodies_bytes, protocol.load.requests) == (0, 0)
    return statuses(wire.written), left


def test_an_answered_request_leaves_nothing_to_the_garbage_collector() -> None:
    def cycles() -> int:
        return sum(type(found) is RequestResponseCycle for found in gc.get_objects())

    async def scenario() -> int:
        protocol_class: Any = guarded(Limits(10, 60, 75, 60, 10, 1 << 30), Load())
        config = uvicorn.Config(App(), http=protocol_class, ws="none", log_config=None, access_log=False, lifespan="off")
        config.load()
        loop, wire = asyncio.get_running_loop(), Wire()
        protocol = protocol_class(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        protocol.connection_made(wire)
        for _ in range(50):
            protocol.data_received(request("/echo", body=b"abc"))
            await _settled()
        assert len(statuses(wire.written)) == 50
        return cycles()

    gc.collect()
    gc.disable()
    try:
        before = cycles()
        assert asyncio.run(scenario()) <= before + 1, "the last one is the connection's"
    finally:
        gc.enable()


async def _settled() -> None:
    """Let the application do all it can."""
    for _ in range(60):
        await asyncio.sleep(0)


PIECES = (
    request("/echo", body=b"abc"),
    request("/echo", method="GET"),
    request("/early", body=b"0123456789"),
    request("/echo", "transfer-encoding: chunked") + b"3\r\nabc\r\n1\r\nd\r\n0\r\ntrailer: x\r\n\r\n",
    request("/echo", *UPGRADES["h2c"], body=b"abc"),
    request("/echo", *UPGRADES["websocket"], method="GET"),
    request("/large", method="GET").replace(b"large", b"early"),
    b"\r\n",
)
ENDS = (b"", b"POST /echo HT", request("/echo", "content-length: 9") + b"abc", b"nonsense \r\n\r\n", HOSTILE["two lengths"])


@settings(max_examples=200, deadline=None)
@given(data=st.data(), answer_between=st.booleans())
def test_however_a_stream_is_cut_into_reads_it_gets_the_same_answers_and_always_has_an_end(
    data: st.DataObject, answer_between: bool
) -> None:
    stream = b"".join(data.draw(st.lists(st.sampled_from(PIECES), max_size=6))) + data.draw(st.sampled_from(ENDS))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(stream) - 1)), max_size=8)))
    parts = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    whole = asyncio.run(heard([stream], answer_between=True))
    cut = asyncio.run(heard([part for part in parts if part], answer_between=answer_between))
    assert cut[0] == whole[0]
    assert 0 < cut[1] <= 75
    assert 0 < whole[1] <= 75


def test_the_bound_of_requests_counts_requests_alone() -> None:
    sent: list[Message] = []

    async def ask() -> list[int]:
        refused, leave = asyncio.Event(), asyncio.Event()

        async def app(scope: Scope, _receive: Receive, send: Send) -> None:
            await leave.wait()
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 200, "headers": []})

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(message)
                refused.set()

        async def receive() -> Message:
            raise NotImplementedError

        guard = Front(app, Metrics(Slot("shop")), 2)
        paths = ["", "/v2/health/live", "/a", "/b", "/c"]
        scopes = [{"type": "http" if path else "lifespan", "path": path} for path in paths]
        tasks = [asyncio.create_task(guard(scope, receive, send)) for scope in scopes]
        await refused.wait()
        leave.set()
        await asyncio.gather(*tasks)
        return [message["status"] for message in sent]

    assert asyncio.run(ask()) == [503, 200, 200, 200]
    assert (b"retry-after", b"1") in sent[0]["headers"]
