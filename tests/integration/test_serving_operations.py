"""A real server process in careless or unfriendly hands: ended under load, slow senders, tokens, TLS, metrics, traces."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import pytest

from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.certificates import serial_of, write_certificate
from tests.fakes import make_ports
from tests.judged_models import ROWS, make_verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
BODY = json.dumps({"instances": ROWS[:1]}).encode()
CODE = """
import json, sys
from pathlib import Path
from mlops_tasks.serving.server import serve
from mlops_tasks.serving.settings import ServeSettings
from tests.fakes import FakeRegistry
from tests.integration.test_serving_operations import deployed
from tests.served_pipeline import PIPELINE
folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])
paths = {name: Path(given.pop(name)) for name in ("tokens", "tls_cert", "tls_key") if name in given}
given = {"port": 0, "poll_s": 0.2, "request_log": False, "copies": folder / "copies", **paths, **given}
settings = ServeSettings(**given)
serve(PIPELINE, deployed(folder), settings, announce=lambda line: print(line, flush=True))
print("ended", flush=True)
"""


def deployed(folder: Path) -> Any:
    """Return a registry in memory with one champion."""
    ports = make_ports(folder)
    deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports)
    return ports.registry


class Server:
    """A server process."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None, **settings: object) -> None:
        folder.mkdir(exist_ok=True)
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-c", CODE, str(folder), json.dumps(settings)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | (environ or {}))

    def wait(self) -> None:
        """Wait until it serves."""
        wait_until(lambda: "version 1 serves" in self.said() or self.process.poll() is not None)
        assert "version 1 serves" in self.said(), self.said()
        self.address = self.said().split("serving shop on ", 1)[1].split()[0].rstrip('"}')
        self.port = int(self.address.rsplit(":", 1)[1])

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def make(environ: dict[str, str] | None = None, **settings: object) -> Server:
        started.append(Server(tmp_path / str(len(started)), environ, **settings))
        started[-1].wait()
        return started[-1]

    yield make
    for server in started:
        server.end()


class Listening(Protocol):
    """What listens on a port of this machine."""

    @property
    def port(self) -> int:
        """The port."""


class Client(threading.Thread):
    """One keep-alive client that asks until the server is gone; counts what was sent and not answered whole."""

    def __init__(self, server: Listening) -> None:
        super().__init__()
        self._port, self.answers, self.lost = server.port, 0, list[str]()

    def run(self) -> None:
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", self._port), timeout=20)
            except OSError:
                return  # refused: nothing was sent
            with connection:
                if not self._ask_on(connection):
                    return

    def _ask_on(self, connection: socket.socket) -> bool:
        request = b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        while True:
            try:
                connection.sendall(request % len(BODY) + BODY)
                answer = _read_answer(connection)
            except OSError as error:
                self.lost.append(repr(error))
                return False
            if not answer.startswith(b"HTTP/1.1 200"):
                self.lost.append(repr(answer[:80]))
                return False
            self.answers += 1
            if b"connection: close" in answer.lower():
                return True


def _read_answer(connection: socket.socket) -> bytes:
    """Read one answer: its head, and as many bytes as that promises."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _more(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    part = connection.recv(65536)
    if not part:
        msg = "closed without an answer"
        raise ConnectionResetError(msg)
    return part


@pytest.mark.slow
def test_ten_servers_that_are_ended_under_load_lose_no_request(start: Callable[..., Server]) -> None:
    lost, answers = [], 0
    for _ in range(10):
        server = start()
        clients = [Client(server) for _ in range(16)]
        for client in clients:
            client.start()
        wait_until(lambda clients=clients: sum(client.answers for client in clients) > 200)  # type: ignore[misc]  # bound now
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        for client in clients:
            client.join(30)
            lost += client.lost
            answers += client.answers
        assert server.said().rstrip().endswith("ended")
    assert lost == []
    assert answers > 2000


def test_while_it_drains_it_is_not_ready_and_answers(start: Callable[..., Server]) -> None:
    server = start(drain_delay_s=3.0)
    assert httpx.get(f"{server.address}/v2/health/ready").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: httpx.get(f"{server.address}/v2/health/ready").status_code == 503, 2.5)
    said = httpx.get(f"{server.address}/v2/health/ready")
    assert (said.status_code, "ends: ask another" in said.text) == (503, True)
    answer = httpx.post(f"{server.address}/invocations", json={"instances": ROWS[:1]})
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert server.process.wait(30) == 0


def test_five_hundred_slow_senders_keep_nobody_from_being_answered_and_are_cut_off(start: Callable[..., Server]) -> None:
    server = start(header_s=2.0, body_s=2.0)
    slow = [server.connect() for _ in range(500)]
    for at, connection in enumerate(slow):
        head = b"POST /invocations HTTP/1.1\r\nhost: x\r\n"
        connection.sendall(head if at % 2 else head + b"content-type: application/json\r\ncontent-length: 50\r\n\r\n{")
    assert httpx.post(f"{server.address}/invocations", json={"instances": ROWS[:1]}, timeout=10).status_code == 200
    answers = [_until_closed(connection) for connection in slow]
    assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 408 Request Timeout"}
    assert httpx.post(f"{server.address}/invocations", json={"instances": ROWS[:1]}).status_code == 200


def _until_closed(connection: socket.socket) -> bytes:
    with connection:
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_a_head_without_end_and_too_many_connections_are_refused(start: Callable[..., Server]) -> None:
    server = start(max_connections=3)
    kept = [server.connect() for _ in range(3)]
    for connection in kept:  # accepted, and idle
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert _read_answer(connection).startswith(b"HTTP/1.1 200")
    assert _until_closed(server.connect()).startswith(b"HTTP/1.1 503 Service Unavailable")
    kept[0].sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n")
    for _ in range(3):
        kept[0].sendall(b"x-filler: " + b"a" * 30_000 + b"\r\n")
        time.sleep(0.1)
    assert _until_closed(kept[0]).startswith(b"HTTP/1.1 431 Request Header Fields Too Large")
    for connection in kept[1:]:
        connection.close()


def test_tokens_by_role_and_their_rotation(start: Callable[..., Server], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    old, new, admin = "old-token-of-a-client", "new-token-of-a-client", "token-of-the-deployer"
    file.write_text(f"predict {old}\nadmin sha256:{hashlib.sha256(admin.encode()).hexdigest()}\n", encoding="utf-8")
    server = start(tokens=str(file))

    def ask(token: str, path: str = "/invocations") -> int:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.post(f"{server.address}{path}", json={"instances": ROWS[:1]}, headers=headers).status_code

    assert [ask(""), ask("wrong-token-of-nobody"), ask(old), ask(new)] == [401, 401, 200, 401]
    load = "/v2/repository/models/shop/load"
    assert [ask(old, load), ask(admin, load)] == [403, 200]
    assert httpx.get(f"{server.address}/v2/health/ready").status_code == 200
    assert httpx.get(f"{server.address}/metrics").status_code == 401
    file.write_text(f"predict {old}\npredict {new}\n", encoding="utf-8")
    wait_until(lambda: ask(new) == 200)
    file.write_text(f"predict {new}\n", encoding="utf-8")
    wait_until(lambda: ask(old) == 401)
    assert [ask(old), ask(new)] == [401, 200]
    file.write_text("predict short\n", encoding="utf-8")  # a mistake locks nobody out
    time.sleep(1.5)
    assert ask(new) == 200
    assert old not in server.said()


def test_tls_and_a_renewed_certificate(start: Callable[..., Server], tmp_path: Path) -> None:
    cert, key = write_certificate(tmp_path, 1001)
    server = start(tls_cert=str(cert), tls_key=str(key))
    assert server.address.startswith("https://")
    context = ssl.create_default_context(cafile=str(cert))
    assert httpx.post(f"{server.address}/invocations", json={"instances": ROWS[:1]}, verify=context).status_code == 200
    assert _serial(server) == 1001
    write_certificate(tmp_path, 1002)
    wait_until(lambda: _serial(server) == 1002)
    assert _serial(server) == 1002
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError, match=r"(?i)ssl|version|reset"), socket.create_connection(("127.0.0.1", server.port)) as raw:
        old.wrap_socket(raw)


def _serial(server: Server) -> int:
    return serial_of(ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", server.port))))


def test_a_wrong_certificate_is_said(start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_text("no certificate", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"are no certificate with its key"):
        start(tls_cert=str(tmp_path / "tls.crt"), tls_key=str(tmp_path / "tls.crt"))


def test_metrics_tell_what_was_answered_by_whom_and_how_long_each_part_took(start: Callable[..., Server]) -> None:
    server = start()
    for _ in range(3):
        httpx.post(f"{server.address}/invocations", json={"instances": ROWS})
    text = httpx.get(f"{server.address}/metrics").text
    for line in (
        'mlops_predictions_total{kind="answer",role="champion",version="1"} 3.0',
        f'mlops_rows_total{{role="champion",version="1"}} {3.0 * len(ROWS)}',
        'mlops_scoring_seconds_count{role="champion",version="1"} 3.0',
        'mlops_stage_seconds_count{stage="decode"} 3.0',
        'mlops_stage_seconds_count{stage="record"} 3.0',
        'mlops_swap_pause_seconds_count{mode="hot"} 1.0',
        'mlops_serving_version{role="champion"} 1.0',
        "mlops_waiting_requests 0.0",
        "process_resident_memory_bytes",
    ):
        assert line in text


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes spans as an OpenTelemetry collector does."""

    spans: list[Any] = []  # noqa: RUF012 - of the class, as the server makes an instance for each request

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest  # noqa: PLC0415

        body = self.rfile.read(int(self.headers["content-length"]))
        request = ExportTraceServiceRequest.FromString(body)
        self.spans += [span for r in request.resource_spans for scope in r.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


def test_traces_go_on_from_the_callers(start: Callable[..., Server]) -> None:
    collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    server = start(environ={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"})
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    httpx.post(f"{server.address}/invocations", json={"instances": ROWS[:1]}, headers=headers)
    wait_until(lambda: any(span.name == "POST /invocations" for span in Collector.spans))
    collector.shutdown()
    spans = {span.name: span for span in Collector.spans}
    root = spans["POST /invocations"]
    assert root.trace_id.hex() == trace
    assert {"decode", "score", "record"} <= spans.keys()
    assert spans["score"].parent_span_id == root.span_id
    attributes = {item.key: item.value for item in root.attributes}
    assert attributes["mlops.model.version"].int_value == 1
    assert attributes["http.response.status_code"].int_value == 200


def test_log_lines_are_json_objects_when_asked_for(start: Callable[..., Server]) -> None:
    server = start(log_format="json")
    lines = [json.loads(line) for line in server.said().splitlines()]
    assert "model shop: version 1 serves" in [line["message"] for line in lines]
    assert all(line["time"] and line["logger"] == "mlops.serve" for line in lines)


def test_the_shipper_and_what_ends_the_server_speak_json_too(start: Callable[..., Server], tmp_path: Path) -> None:
    environ = {
        "MLOPS_REQUEST_LOG": str(tmp_path / "requests"),
        "MLOPS_STORE": "ftp://nowhere",
        "MLOPS_HASH_KEY": "a secret for tests, long enough",
    }
    server = start(environ=environ, log_format="json", request_log=True)
    wait_until(lambda: "mlops.ship" in server.said())
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    *lines, last = server.said().splitlines()
    assert last == "ended"
    said = [json.loads(line) for line in lines]
    assert any(line["logger"] == "mlops.ship" and line["message"].startswith("SpecError: ") for line in said)


HOSTILE = {
    "//v2/repository/models/shop/load": 404,
    "/v2/repository%2Fmodels/shop/load": 403,
    "/v2/repositor%79/models/shop/load": 403,
    "http://elsewhere/v2/repository/models/shop/load": 403,
    "/v2/repository/models/shop/load%00": 403,
    "/./v2/repository/models/shop/load": 404,
    "/v2/health/../repository/models/shop/load": 404,
    "*": 404,
}


def test_no_spelling_of_a_path_gets_past_the_tokens(start: Callable[..., Server], tmp_path: Path) -> None:
    token, others = "a-token-of-a-client", "authorization: Bearer another-token-of-nobody"
    (tmp_path / "tokens").write_text(f"predict {token}\nadmin the-token-of-a-deployer\n", encoding="utf-8")
    server = start(tokens=str(tmp_path / "tokens"), body_s=1.0)
    mine = f"authorization: Bearer {token}"

    def ask(path: str, *headers: str) -> int:
        head = [f"POST {path} HTTP/1.1", "host: x", "connection: close", "content-type: application/json", *headers]
        with server.connect() as connection:
            connection.sendall("\r\n".join([*head, f"content-length: {len(BODY)}", "", ""]).encode() + BODY)
            return int(_until_closed(connection).split(b" ", 2)[1])

    assert {path: ask(path, mine) for path in HOSTILE} == HOSTILE
    assert {ask(path) for path in ("//metrics", "/%6detrics", "/v2/health/ready/", "*")} == {401}
    assert [ask("/invocations", mine), ask("/invocations", others, mine), ask("/invocations")] == [200, 401, 401]
    with server.connect() as connection:  # refused before the body came, which never does
        connection.sendall(b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n")
        assert _until_closed(connection).startswith(b"HTTP/1.1 401")
    text = httpx.get(f"{server.address}/metrics", headers={"authorization": f"Bearer {token}"}).text
    assert 'mlops_http_responses_total{route="load",status="403"}' in text
    assert 'mlops_http_responses_total{route="invocations",status="401"} 3.0' in text
