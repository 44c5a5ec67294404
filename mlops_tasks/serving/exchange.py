"""One HTTP request and its answer, in plain ASGI: a framework's objects would cost a row as much as its model does."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from mlops_tasks.serving.decoding import BadRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.types import Receive, Scope, Send

    Headers = Iterable[tuple[bytes, bytes]]
    """Names in lower case, and values."""

log = logging.getLogger(__name__)

JSON_TYPE, BINARY_TYPE = "application/json", "application/octet-stream"
HTML_TYPE, TEXT_TYPE = "text/html; charset=utf-8", "text/plain; charset=utf-8"
MAX_ID = 128
ID_PATTERN = f"^[!-~]{{1,{MAX_ID}}}$"
"""Ids go into headers and logs."""
INVOCATIONS = "/invocations"
_MLFLOW_CODES = {
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}


class ClientGone(Exception):
    """The client went away while it sent: nobody waits for an answer."""


class Call:
    """A request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.scope, self._receive = scope, receive
        self.path: str = scope["path"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path_params: dict[str, str] = scope.get("path_params") or {}

    def header(self, name: bytes, default: str = "") -> str:
        """Return a header by its lower-case name."""
        value = self.headers.get(name)
        return default if value is None else value.decode("latin-1")

    @cached_property
    def id(self) -> str:
        """The client's `x-request-id` if it can be one, or a new one."""
        given = self.header(b"x-request-id")
        return given if is_id(given) else uuid4().hex

    async def body(self, limit: int) -> bytes:
        """Read the body; one that says it is too large is refused before it is read. Raises: BadRequest, ClientGone."""
        length = self.header(b"content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            raise _too_large(limit)
        message = await self._receive()
        first: bytes = message.get("body", b"")
        if message["type"] == "http.request" and not message.get("more_body") and len(first) <= limit:
            return first
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self._receive()


def _too_large(limit: int) -> BadRequest:
    return BadRequest(f"the body is larger than {limit} bytes: send fewer rows a request", 413)


def is_id(text: str) -> bool:
    """Tell whether a text can be a request's id, as `ID_PATTERN` has it."""
    return 0 < len(text) <= MAX_ID and text.isascii() and text.isprintable() and " " not in text


class Reply:
    """An answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes, headers: Headers = (), media_type: str = JSON_TYPE, status: int = 200) -> None:
        """Make an answer with headers beside its type and length."""
        self.body, self.status = body, status
        self.headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body)), *headers]

    async def send(self, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


def json_reply(value: Any, headers: Headers, status: int = 200) -> Reply:
    """Return a JSON answer; numpy's arrays are written without a detour over lists."""
    return Reply(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), headers, status=status)


def id_header(request_id: str) -> tuple[bytes, bytes]:
    """Return the header that names an answer's request."""
    return b"x-request-id", request_id.encode("latin-1")


def refusal(path: str, request_id: str, message: str, status: int) -> Reply:
    """Say what went wrong in the shape that the called protocol has."""
    message = message.encode(errors="replace").decode()
    body = {"error": message}
    if path == INVOCATIONS:
        body = {"error_code": _MLFLOW_CODES.get(status, "BAD_REQUEST"), "message": message}
    headers = [id_header(request_id)]
    if status == 503:  # noqa: PLR2004 - HTTP's: what is refused now may be answered in a moment
        headers.append((b"retry-after", b"1"))
    return json_reply(body, headers, status)


class Endpoint:
    """A handler as an ASGI application: what it raises becomes an answer."""

    def __init__(self, answer: Callable[[Call], Awaitable[Reply]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        call = Call(scope, receive)
        try:
            reply = await self._answer(call)
        except BadRequest as error:
            reply = refusal(call.path, call.id, str(error), error.status)
        except ClientGone:
            return
        except Exception:
            log.exception("request %s to %s failed", call.id, call.path)
            message = f"the server failed, which is not the request's fault; its log says why, under request {call.id}"
            reply = refusal(call.path, call.id, message, 500)
        await reply.send(send)
