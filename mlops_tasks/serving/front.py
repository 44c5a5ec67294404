"""What every request passes first: it is let in or told to come again, and its answer is counted."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from mlops_tasks.serving.auth import refuse
from mlops_tasks.serving.metrics import route_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mlops_tasks.serving.metrics import Metrics

PROBES = "/v2/health/"
"""Are answered however much is under way."""


class Front:
    """ASGI middleware: refuses what is too much, and counts answers by route and status, whoever gives them.

    One object for both, since each one that a request passes costs it microseconds.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int) -> None:
        """Let at most `most` requests in at the same time."""
        self._app, self._metrics, self._most, self._now = app, metrics, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through or answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]

        def counting(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self._metrics.responded(route_of(path), message["status"])
            return send(message)

        taken = 0 if path.startswith(PROBES) else 1
        if taken and self._now >= self._most:
            message = f"{self._now} requests are under way here: try again in a moment"
            await refuse(counting, HTTPStatus.SERVICE_UNAVAILABLE, message, (b"retry-after", b"1"))
            return
        self._now += taken
        try:
            await self._app(scope, receive, counting)
        except Exception:
            self._metrics.responded(route_of(path), HTTPStatus.INTERNAL_SERVER_ERROR)
            raise
        finally:
            self._now -= taken
