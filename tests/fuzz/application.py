"""Any request through the whole application: paths, headers, ids and bodies; no answer is the server's fault."""

from __future__ import annotations

import asyncio
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.exchange import is_id
from mlops_tasks.serving.slot import Slot, load_folder
from tests.judged_models import write_model

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LIMIT = 4096
PATHS = [
    *(f"/v2/models/shop{rest}" for rest in ("", "/infer", "/ready", "/versions/1", "/versions/1/infer", "/versions/2/ready")),
    *("/invocations", "/v2", "/v2/health/ready", "/openapi.json", "/", "/version", "/ping", "/v2/models/other/infer"),
    *(f"/v2/repository/{rest}" for rest in ("index", "models/shop/load", "models/shop/unload")),
]
HEADERS = [
    b"content-type", b"content-length", b"content-encoding", b"inference-header-content-length",
    b"x-request-id", b"x-entity-key", b"host", b"accept",
]  # fmt: skip


@lru_cache
def _served() -> tuple[asyncio.AbstractEventLoop, ASGIApp]:
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder))
        model = load_folder(Path(folder), "shop", 1, tags={}, promotion={})
    loop = asyncio.new_event_loop()
    return loop, make_app(Parts(Slot("shop", model), entity_key=("shop",), max_body_bytes=LIMIT))


def application(data: bytes) -> None:
    """Send a request: `path method lines-of-headers, an empty line, body`; bytes choose among what there is."""
    head, _, body = data.partition(b"\n\n")
    choice, *lines = head.split(b"\n")
    number = choice[0] if choice else 0
    path = PATHS[number % len(PATHS)] + choice[2:].decode("latin-1")
    headers = [(HEADERS[line[0] % len(HEADERS)], line[1:].strip()) for line in lines if line]
    scope = {
        "type": "http",
        "method": "POST" if number >= 128 else "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "headers": headers,
    }
    loop, app = _served()
    _require_answer(loop.run_until_complete(_ask(app, scope, body)), dict(headers))


async def _ask(app: ASGIApp, scope: dict[str, Any], body: bytes) -> list[Any]:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def _require_answer(sent: list[Any], headers: dict[bytes, bytes]) -> None:
    """An answer is whole, HTTP can carry it, and no fault of the server's."""
    start, body = sent[0], b"".join(message.get("body", b"") for message in sent[1:])
    assert start["status"] < 500, body
    answered = dict(start["headers"])
    for name, value in answered.items():
        assert not set(name + value) & set(b"\r\n\0"), answered
    assert int(answered[b"content-length"]) == len(body)
    if start["status"] >= 400:
        told = orjson.loads(body)
        assert len(told.get("error") or told.get("message")) > 10, told
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    if is_id(given) and start["status"] >= 400:
        assert answered[b"x-request-id"] == given.encode()
