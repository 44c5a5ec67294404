"""The handlers of both protocols' requests, around one slot."""

from __future__ import annotations

import asyncio
from importlib import metadata
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from mlops_tasks.serving.binary import HEADER_LENGTH, split_body
from mlops_tasks.serving.decoding import BadRequest, parse_json
from mlops_tasks.serving.encoding import encode_answer, tensor_metadata, wanted_outputs
from mlops_tasks.serving.exchange import (
    BINARY_TYPE,
    HTML_TYPE,
    JSON_TYPE,
    MAX_ID,
    TEXT_TYPE,
    Call,
    Reply,
    id_header,
    is_id,
    json_reply,
)
from mlops_tasks.serving.frames import decode_csv, decode_frame
from mlops_tasks.serving.openapi import openapi_document
from mlops_tasks.serving.page import index_page
from mlops_tasks.serving.predictions import Query
from mlops_tasks.serving.repository import load_model, loaded_versions, repository_index, unload_refusal
from mlops_tasks.serving.tensors import decode_tensors

if TYPE_CHECKING:
    from mlops_tasks.serving.app import Parts
    from mlops_tasks.serving.decoding import Arrays, Layout
    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import LoadedModel

EXTENSIONS = ["binary_tensor_data", "model_repository"]
CONTROL_BYTES = 64 << 10
"""More than any request holds that asks for no prediction."""
CSV_TYPE = "text/csv"
LARGE_BYTES = 1 << 20
"""Larger bodies are decoded in a thread, one at a time: 30 MB take seconds, in which nobody else would be answered."""


class Endpoints:
    """The handlers, around one slot."""

    def __init__(self, parts: Parts) -> None:
        self._parts, self._slot, self._max_body_bytes = parts, parts.slot, parts.max_body_bytes
        self._large = asyncio.Lock()

    def _model(self, call: Call) -> LoadedModel:
        """Return the model that a request's path names."""
        self._require_name(call)
        return self._slot.require(call.path_params.get("version"))

    def _require_name(self, call: Call) -> None:
        name = call.path_params.get("name", self._slot.name)
        if name != self._slot.name:
            msg = f"model {name!r} is not served here: this server has {self._slot.name!r}"
            raise BadRequest(msg, 404)

    async def _answer(self, call: Call, model: LoadedModel, arrays: Arrays, given: str) -> Prediction:
        """Score and log a decoded request."""
        parts = self._parts
        arrays = parts.prepare(arrays, model.layout) if parts.prepare else arrays
        entity = call.header(b"x-entity-key") or _entity(parts.entity_key, model.layout, arrays) or given
        query = Query(given, entity, arrays, model, pinned="version" in call.path_params)
        with parts.telemetry.stage("score"):
            prediction = await parts.router.answer(query)
        with parts.telemetry.stage("record"):
            if prediction.together:
                await parts.recorder.record_together(prediction)
            else:
                parts.recorder.record(prediction)
        parts.telemetry.answered(prediction)
        return prediction

    async def _wait(self, size: int) -> None:
        with self._parts.telemetry.stage("wait"):
            await self._parts.gate.wait(size)

    async def infer(self, call: Call) -> Reply:
        """Answer an Open Inference Protocol v2 request."""
        header_length = call.header(HEADER_LENGTH) if HEADER_LENGTH in call.headers else None
        accepted = (JSON_TYPE,) if header_length is None else (BINARY_TYPE, JSON_TYPE)
        _require_type(call, accepted)
        raw = await call.body(self._max_body_bytes)
        if len(raw) <= LARGE_BYTES:
            return await self._infer(call, raw, header_length)
        async with self._large:
            return await self._infer(call, raw, header_length)

    async def _infer(self, call: Call, raw: bytes, header_length: str | None) -> Reply:
        if not self._parts.gate.try_enter():
            await self._wait(len(raw))
        try:
            model = self._model(call)
            with self._parts.telemetry.stage("decode"):
                if len(raw) <= LARGE_BYTES:
                    given, wanted, arrays = _read_tensors(call, raw, header_length, model)
                else:
                    given, wanted, arrays = await asyncio.to_thread(_read_tensors, call, raw, header_length, model)
            prediction = await self._answer(call, model, arrays, given)
        finally:
            self._parts.gate.leave()
        with self._parts.telemetry.stage("encode"):
            answer, length = encode_answer(prediction, wanted)
        if length is None:
            return Reply(answer, _headers(prediction))
        return Reply(answer, [(HEADER_LENGTH, b"%d" % length), *_headers(prediction)], BINARY_TYPE)

    async def invocations(self, call: Call) -> Reply:
        """Answer a request of MLflow's clients."""
        kind = _require_type(call, (JSON_TYPE, CSV_TYPE))
        raw = await call.body(self._max_body_bytes)
        if len(raw) <= LARGE_BYTES:
            return await self._invoke(call, raw, kind)
        async with self._large:
            return await self._invoke(call, raw, kind)

    async def _invoke(self, call: Call, raw: bytes, kind: str) -> Reply:
        if not self._parts.gate.try_enter():
            await self._wait(len(raw))
        try:
            model = self._model(call)
            with self._parts.telemetry.stage("decode"):
                given = _id(None, call)
                if len(raw) <= LARGE_BYTES:
                    arrays = _read_frame(raw, kind, model)
                else:
                    arrays = await asyncio.to_thread(_read_frame, raw, kind, model)
            prediction = await self._answer(call, model, arrays, given)
        finally:
            self._parts.gate.leave()
        with self._parts.telemetry.stage("encode"):
            return json_reply({"predictions": prediction.scores}, _headers(prediction))

    async def repository(self, call: Call) -> Reply:
        """List what is loaded."""
        return _plain(call, repository_index(await call.body(CONTROL_BYTES), self._slot))

    async def load(self, call: Call) -> Reply:
        """Look at the registry now, and say what serves then."""
        self._require_name(call)
        return _plain(call, await load_model(await call.body(CONTROL_BYTES), self._slot, self._parts.watcher))

    async def unload(self, call: Call) -> Reply:
        """Refuse."""
        self._require_name(call)
        raise unload_refusal(self._slot)

    async def server(self, call: Call) -> Reply:
        """Describe the server."""
        return _plain(call, {"name": "mlops-tasks", "version": _installed("mlops-tasks"), "extensions": EXTENSIONS})

    async def live(self, call: Call) -> Reply:
        """Tell that the process answers."""
        return _plain(call, {"live": True})

    async def ready(self, call: Call) -> Reply:
        """Tell whether requests should be sent here."""
        slot, parts = self._slot, self._parts
        refusing = slot.not_ready or parts.gate.refusing or parts.recorder.refusing
        if refusing:
            raise BadRequest(refusing, 503)
        self._require_name(call)
        # In a single-slot swap there is no model for a moment, but requests wait for it: it is ready.
        model = None if slot.swapping else self._model(call)
        version = "" if model is None else str(model.version)
        return _plain(call, {"name": slot.name, "ready": True, "model_version": version, "problem": slot.problem})

    async def model(self, call: Call) -> Reply:
        """Describe the model's inputs and outputs."""
        return _plain(call, tensor_metadata(self._model(call), loaded_versions(self._slot)))

    async def version(self, call: Call) -> Reply:
        """Return MLflow's version, which its clients ask for."""
        return Reply(_installed("mlflow").encode(), [id_header(call.id)], TEXT_TYPE)

    async def openapi(self, call: Call) -> Reply:
        """Return the OpenAPI document of the model that serves."""
        return _plain(call, openapi_document(self._slot.require(), loaded_versions(self._slot), self._max_body_bytes))

    async def index(self, call: Call) -> Reply:
        """Show people what serves."""
        address = str(Request(call.scope).base_url).rstrip("/")
        return Reply(index_page(self._slot, address).encode(), [id_header(call.id)], HTML_TYPE)


def _require_type(call: Call, accepted: tuple[str, ...]) -> str:
    """Return the body's content type. Raises: BadRequest, unless it is accepted and not compressed."""
    kind = call.header(b"content-type", accepted[0]).partition(";")[0].strip().lower()
    if kind not in accepted:
        msg = f"content type {kind!r} is not read here: send {' or '.join(accepted)}"
        raise BadRequest(msg, 415)
    if call.header(b"content-encoding", "identity").lower() != "identity":
        msg = "compressed bodies are not read: send the body as it is, without content-encoding"
        raise BadRequest(msg, 415)
    return kind


def _read_tensors(call: Call, raw: bytes, header_length: str | None, model: LoadedModel) -> tuple[str, dict[str, bool], Arrays]:
    """Return an Open Inference Protocol body's id, the outputs that it asks for, and its rows. Raises: BadRequest."""
    text, binary = split_body(raw, header_length)
    body = parse_json(text)
    given = _id(body.get("id"), call)
    return given, wanted_outputs(body, model.signature), decode_tensors(body, model.layout, binary)


def _read_frame(raw: bytes, kind: str, model: LoadedModel) -> Arrays:
    """Return the rows of MLflow's formats. Raises: BadRequest."""
    return decode_csv(raw, model.layout) if kind == CSV_TYPE else decode_frame(parse_json(raw), model.layout)


def _plain(call: Call, value: Any) -> Reply:
    return json_reply(value, [id_header(call.id)])


def _headers(prediction: Prediction) -> list[tuple[bytes, bytes]]:
    return [id_header(prediction.query.id), (b"x-model-version", b"%d" % prediction.model.version)]


def _id(given: object, call: Call) -> str:
    """Return the id that a request has from its client, or a new one. Raises: BadRequest."""
    chosen = given if given is not None and given != "" else call.header(b"x-request-id") or call.id
    if isinstance(chosen, str) and is_id(chosen):
        return chosen
    msg = f"the request's id must be a text of 1 to {MAX_ID} visible ASCII characters: labels are joined by it"
    raise BadRequest(msg)


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
