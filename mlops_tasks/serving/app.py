"""HTTP requests to predictions: Open Inference Protocol v2 and MLflow's `/invocations`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlops_tasks.serve_specs import ServeSpec
from mlops_tasks.serving.decoding import BadRequest, parse_json
from mlops_tasks.serving.encoding import outputs_of, tensor_metadata, wanted_outputs
from mlops_tasks.serving.frames import decode_csv, decode_frame
from mlops_tasks.serving.gate import Gate
from mlops_tasks.serving.page import index_page
from mlops_tasks.serving.predictions import NoRecorder, Query
from mlops_tasks.serving.router import Router
from mlops_tasks.serving.telemetry import NoTelemetry
from mlops_tasks.serving.tensors import decode_tensors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlops_tasks.serving.decoding import Arrays, Layout
    from mlops_tasks.serving.predictions import Prediction, Recorder
    from mlops_tasks.serving.slot import LoadedModel, Slot
    from mlops_tasks.serving.telemetry import Telemetry
    from mlops_tasks.serving.watcher import Watcher


class JSON(Response):
    """A JSON response by orjson, which writes numpy arrays without a detour over lists."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the body."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


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
    max_body_bytes: int = 32 << 20
    prepare: Callable[[Arrays, Layout], Arrays] | None = None
    """What decoded rows go through before anything sees them, such as hashing; None: nothing."""

    def __post_init__(self) -> None:
        """Make the router."""
        self.router = Router(self.slot, self.spec.challenger)


class Endpoints:
    """The handlers, around one slot."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._slot, self._max_body_bytes = parts, parts.slot, parts.max_body_bytes

    def _model(self, request: Request) -> LoadedModel:
        """Return the model that a request's path names."""
        name = request.path_params.get("name", self._slot.name)
        if name != self._slot.name:
            msg = f"model {name!r} is not served here: this server has {self._slot.name!r}"
            raise BadRequest(msg, 404)
        return self._slot.require(request.path_params.get("version"))

    async def _answer(self, request: Request, model: LoadedModel, arrays: Arrays, client_id: str | None) -> Prediction:
        """Score and log a decoded request."""
        parts = self._parts
        arrays = parts.prepare(arrays, model.layout) if parts.prepare else arrays
        given = client_id or request.headers.get("x-request-id") or uuid4().hex
        entity = request.headers.get("x-entity-key") or _entity(parts.entity_key, model.layout, arrays) or given
        query = Query(given, entity, arrays, model, pinned="version" in request.path_params)
        with parts.telemetry.stage("score"):
            prediction = await parts.router.answer(query)
        with parts.telemetry.stage("record"):
            parts.recorder.record(prediction)
        parts.telemetry.answered(prediction)
        return prediction

    async def _body(self, request: Request, *accepted: str) -> tuple[bytes, str]:
        """Read the body within the limit; return it with its content type."""
        kind = request.headers.get("content-type", accepted[0]).partition(";")[0].strip().lower()
        if kind not in accepted:
            msg = f"content type {kind!r} is not read here: send {' or '.join(accepted)}"
            raise BadRequest(msg, 415)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            msg = "compressed bodies are not read: send the body as it is, without content-encoding"
            raise BadRequest(msg, 415)
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._max_body_bytes:
                msg = f"the body is larger than {self._max_body_bytes} bytes: send fewer rows a request"
                raise BadRequest(msg, 413)
            parts.append(part)
        return b"".join(parts), kind

    async def infer(self, request: Request) -> Response:
        """Answer an Open Inference Protocol v2 request."""
        raw, _ = await self._body(request, "application/json")
        async with self._parts.gate.passing(len(raw)):
            model = self._model(request)
            with self._parts.telemetry.stage("decode"):
                body = parse_json(raw)
                wanted = wanted_outputs(body, model.signature)
                arrays = decode_tensors(body, model.layout)
            given = body.get("id")
            prediction = await self._answer(request, model, arrays, given if isinstance(given, str) else None)
        outputs = outputs_of(prediction.scores, prediction.model.signature)
        return JSON(
            {
                "model_name": prediction.model.name,
                "model_version": str(prediction.model.version),
                "id": prediction.query.id,
                "outputs": [tensor for tensor in outputs if tensor["name"] in wanted],
            }
        )

    async def invocations(self, request: Request) -> Response:
        """Answer a request of MLflow's clients."""
        raw, kind = await self._body(request, "application/json", "text/csv")
        async with self._parts.gate.passing(len(raw)):
            model = self._model(request)
            with self._parts.telemetry.stage("decode"):
                arrays = decode_csv(raw, model.layout) if kind == "text/csv" else decode_frame(parse_json(raw), model.layout)
            prediction = await self._answer(request, model, arrays, None)
        headers = {"x-model-version": str(prediction.model.version), "x-request-id": prediction.query.id}
        return JSON({"predictions": prediction.scores}, headers=headers)

    async def server(self, _: Request) -> Response:
        """Describe the server."""
        return JSON({"name": "mlops-tasks", "version": _installed("mlops-tasks"), "extensions": []})

    async def live(self, _: Request) -> Response:
        """Tell that the process answers."""
        return JSON({"live": True})

    async def ready(self, request: Request) -> Response:
        """Tell whether a model serves."""
        model = self._model(request)
        return JSON({"name": model.name, "ready": True, "model_version": str(model.version), "problem": self._slot.problem})

    async def model(self, request: Request) -> Response:
        """Describe the model's inputs and outputs."""
        return JSON(tensor_metadata(self._model(request)))

    async def version(self, _: Request) -> Response:
        """Return MLflow's version, which its clients ask for."""
        return PlainTextResponse(_installed("mlflow"))

    async def index(self, request: Request) -> Response:
        """Show people what serves."""
        return HTMLResponse(index_page(self._slot, str(request.base_url).rstrip("/")))


def _installed(distribution: str) -> str:
    """Return a distribution's version, `unknown` where it runs from its sources."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


def _entity(key: tuple[str, ...], layout: Layout, arrays: Arrays) -> str:
    """Return the first row's entity from its own columns; empty where they don't hold the whole key."""
    if not key or not layout.columns.issuperset(key):
        return ""
    cells = []
    for name in key:
        block, names = (arrays[0], layout.numeric) if name in layout.numeric else (arrays[1], layout.categorical)
        cells.append(str(block[0, names.index(name)]) if block is not None else "")
    return "\x1f".join(cells)


async def _refused(request: Request, error: Exception) -> Response:
    """Answer what the sender must mend, in the shape that the called protocol has."""
    if isinstance(error, BadRequest):
        status, message = error.status, str(error)
    else:
        status = error.status_code if isinstance(error, HTTPException) else 400
        hint = "GET / lists what there is" if status == 404 else "see GET /v2 and the Open Inference Protocol"  # noqa: PLR2004 - HTTP's
        message = f"{request.method} {request.url.path} is not answered here: {hint}"
    if request.url.path == "/invocations":
        codes = {413: "REQUEST_LIMIT_EXCEEDED", 503: "TEMPORARILY_UNAVAILABLE"}
        return JSON({"error_code": codes.get(status, "BAD_REQUEST"), "message": message}, status_code=status)
    return JSON({"error": message}, status_code=status)


async def _gone(_: Request, __: Exception) -> Response:
    """Answer nobody: the client went away while it sent."""
    return Response(status_code=400)


def make_app(parts: Parts) -> Starlette:
    """Return the ASGI application of a server's parts; its watcher runs as long as it does."""
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

    one = "/v2/models/{name}"
    routes = [
        Route(f"{one}/infer", at.infer, methods=["POST"]),
        Route("/invocations", at.invocations, methods=["POST"]),
        Route(f"{one}/versions/{{version}}/infer", at.infer, methods=["POST"]),
        Route("/", at.index),
        Route("/v2", at.server),
        Route("/v2/health/live", at.live),
        *(
            Route(path, at.ready)
            for path in ("/v2/health/ready", "/ping", "/health", f"{one}/ready", f"{one}/versions/{{version}}/ready")
        ),
        *(Route(path, at.model) for path in (one, f"{one}/versions/{{version}}")),
        Route("/version", at.version),
    ]
    handlers: dict[Any, Any] = {BadRequest: _refused, HTTPException: _refused, ClientDisconnect: _gone}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=watching)
