"""HTTP requests to predictions: Open Inference Protocol v2 and MLflow's `/invocations`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlops_tasks.serving.decoding import BadRequest, parse_json
from mlops_tasks.serving.encoding import outputs_of, tensor_metadata, wanted_outputs
from mlops_tasks.serving.frames import decode_csv, decode_frame
from mlops_tasks.serving.page import index_page
from mlops_tasks.serving.tensors import decode_tensors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import numpy as np
    import numpy.typing as npt

    from mlops_tasks.serving.decoding import Arrays
    from mlops_tasks.serving.slot import LoadedModel, Slot
    from mlops_tasks.serving.watcher import Watcher

THREAD_ABOVE_ROWS = 64
"""Smaller batches are scored where they arrive: a thread's hand-over costs more than they do."""


class JSON(Response):
    """A JSON response by orjson, which writes numpy arrays without a detour over lists."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Write the body."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class Endpoints:
    """The handlers, around one slot."""

    def __init__(self, slot: Slot, max_body_bytes: int) -> None:
        self._slot, self._max_body_bytes = slot, max_body_bytes

    def _model(self, request: Request) -> LoadedModel:
        """Return the model that a request's path names."""
        name, version = request.path_params.get("name", self._slot.name), request.path_params.get("version")
        if name != self._slot.name:
            msg = f"model {name!r} is not served here: this server has {self._slot.name!r}"
            raise BadRequest(msg, 404)
        model = self._slot.model
        if model is None:
            raise BadRequest(self._slot.problem or f"model {name} is being loaded: try again in a moment", 503)
        if version is not None and version != str(model.version):
            msg = f"model {name} version {version!r} is not loaded: version {model.version} serves"
            raise BadRequest(msg, 404)
        return model

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
        body = parse_json(raw)
        model = self._model(request)
        wanted = wanted_outputs(body, model.signature)
        scores = await _score(model, decode_tensors(body, model.layout))
        answer = {
            "model_name": model.name,
            "model_version": str(model.version),
            "outputs": [tensor for tensor in outputs_of(scores, model.signature) if tensor["name"] in wanted],
        }
        if isinstance(body.get("id"), str):
            answer["id"] = body["id"]
        return JSON(answer)

    async def invocations(self, request: Request) -> Response:
        """Answer a request of MLflow's clients."""
        raw, kind = await self._body(request, "application/json", "text/csv")
        model = self._model(request)
        decoded = decode_csv(raw, model.layout) if kind == "text/csv" else decode_frame(parse_json(raw), model.layout)
        return JSON({"predictions": await _score(model, decoded)}, headers={"x-model-version": str(model.version)})

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


async def _score(model: LoadedModel, arrays: Arrays) -> npt.NDArray[np.float32]:
    first = arrays[0] if arrays[0] is not None else arrays[1]
    if first is not None and len(first) > THREAD_ABOVE_ROWS:
        return await asyncio.to_thread(model.scorer.score_arrays, *arrays)
    return model.scorer.score_arrays(*arrays)


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


def make_app(slot: Slot, watcher: Watcher | None = None, *, max_body_bytes: int = 32 << 20) -> Starlette:
    """Return the ASGI application that serves the slot; the watcher runs as long as it does."""
    at = Endpoints(slot, max_body_bytes)

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
