"""HTTP requests to predictions: Open Inference Protocol v2 and MLflow's `/invocations`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from mlops_tasks.serve_specs import ServeSpec
from mlops_tasks.serving.batching import Batcher
from mlops_tasks.serving.endpoints import Endpoints
from mlops_tasks.serving.exchange import INVOCATIONS, Call, Endpoint, refusal
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.predictions import NoRecorder
from mlops_tasks.serving.router import Router
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mlops_tasks.serving.decoding import Arrays, Layout
    from mlops_tasks.serving.exchange import Reply
    from mlops_tasks.serving.predictions import Recorder
    from mlops_tasks.serving.slot import Slot
    from mlops_tasks.serving.telemetry import Telemetry
    from mlops_tasks.serving.watcher import Watcher


@dataclass
class Parts:
    """What a server is made of; a test or a small server leaves out what it does not need."""

    slot: Slot
    spec: ServeSpec = field(default_factory=ServeSpec)
    entity_key: tuple[str, ...] = ()
    """Columns that name the entity, where requests hold them and do not name it themselves."""
    gate: Gate = field(default_factory=Gate)
    recorder: Recorder = field(default_factory=NoRecorder)
    telemetry: Telemetry = field(default_factory=NoTelemetry)
    watcher: Watcher | None = None
    """Follows the registry as long as the application runs; None: the slot stays as it is."""
    under_way: Callable[[], int] = lambda: 1
    """Tells how many requests have come and are not answered."""
    max_body_bytes: int = 32 << 20
    prepare: Callable[[Arrays, Layout], Arrays] | None = None
    """What decoded rows go through before anything sees them, such as hashing; None: nothing."""

    def __post_init__(self) -> None:
        """Make the router."""
        self.router = Router(self.slot, self.spec.challenger, self.recorder, self.telemetry, Batcher(self.under_way))


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer what no route takes."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    hint = "GET / lists what there is" if status == 404 else "see GET /v2 and the Open Inference Protocol"  # noqa: PLR2004 - HTTP's
    message = f"{request.method} {request.url.path} is not answered here: {hint}"
    reply = refusal(request.url.path, Call(request.scope, request.receive).id, message, status)
    headers = dict(getattr(error, "headers", None) or {})
    return Response(reply.body, status, headers | {name.decode(): value.decode() for name, value in reply.headers})


class _HotPaths:
    """The paths that nearly all requests take, found in a dictionary instead of by a router's patterns."""

    def __init__(self, routed: ASGIApp, hot: dict[str, Endpoint]) -> None:
        self._routed, self._hot = routed, hot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to its handler."""
        hot = self._hot.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (hot or self._routed)(scope, receive, send)


def make_app(parts: Parts, metrics: ASGIApp | None = None) -> ASGIApp:
    """Return the ASGI application of a server's parts; its watcher runs as long as it does.

    `metrics` answers `/metrics`. What a proxy on the same host says of the client is believed, except where it does not matter:
    on the paths that nearly all requests take.
    """
    at, watcher = Endpoints(parts), parts.watcher

    @asynccontextmanager
    async def watching(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(watcher.follow()) if watcher else None
        try:
            yield
        finally:
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            await parts.router.drain()

    handlers: dict[Any, Any] = {HTTPException: _unrouted}
    routes = [*_routes(at), *([Route("/metrics", metrics)] if metrics else [])]
    routed: Any = ProxyHeadersMiddleware(Starlette(routes=routes, exception_handlers=handlers, lifespan=watching))  # type: ignore[arg-type]  # uvicorn has types of its own
    hot = {f"/v2/models/{parts.slot.name}/infer": Endpoint(at.infer), INVOCATIONS: Endpoint(at.invocations)}
    return _HotPaths(routed, hot)


def _routes(at: Endpoints) -> list[Route]:
    one = "/v2/models/{name}"
    version, models = f"{one}/versions/{{version}}", "/v2/repository/models/{name}"
    posted: dict[str, Callable[[Call], Awaitable[Reply]]] = {
        f"{one}/infer": at.infer,
        f"{version}/infer": at.infer,
        INVOCATIONS: at.invocations,
        "/v2/repository/index": at.repository,
        f"{models}/load": at.load,
        f"{models}/unload": at.unload,
    }
    got: dict[str, Callable[[Call], Awaitable[Reply]]] = {
        "/": at.index,
        "/openapi.json": at.openapi,
        "/v2": at.server,
        "/v2/health/live": at.live,
        **dict.fromkeys(("/v2/health/ready", "/ping", "/health", f"{one}/ready", f"{version}/ready"), at.ready),
        one: at.model,
        version: at.model,
        "/version": at.version,
    }
    return [
        *(Route(path, Endpoint(answer), methods=["POST"]) for path, answer in posted.items()),
        *(Route(path, Endpoint(answer), methods=["GET"]) for path, answer in got.items()),
    ]
