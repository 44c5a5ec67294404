"""Requests to OpenTelemetry spans, where the environment names a collector."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from mlops_tasks.serving.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import Slot

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
SERVER_ERROR = 500
NO_MESSAGES = {"record_exception": False, "set_status_on_exception": False}
"""An error's message may quote what a request holds, which no trace does."""


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Tell whether the standard variables name a collector and don't switch tracing off."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not off and any(environ.get(name) for name in ENDPOINTS)


def open_tracer(name: str) -> Any:
    """Return a provider that exports by OTLP over HTTP; what else there is to set, the standard OTEL_ variables set."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - only with a collector
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - likewise

    provider = TracerProvider(resource=Resource.create({"service.name": f"mlops-serve-{name}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class TracedMetrics(Metrics):
    """Metrics, and a span for each stage within the request's own."""

    def __init__(self, slot: Slot, tracer: Any) -> None:
        super().__init__(slot)
        self._tracer = tracer

    def stage(self, name: str) -> AbstractContextManager[object]:  # type: ignore[override]  # both are entered for nothing else
        """Time a part of a request."""
        both = ExitStack()
        span = both.enter_context(self._tracer.start_as_current_span(name, **NO_MESSAGES))
        both.push(lambda kind, *_: span.set_attribute("error.type", kind.__name__) if kind else None)
        both.enter_context(super().stage(name))
        return both

    def answered(self, prediction: Prediction) -> None:
        """Say in the request's span who answered how much."""
        from opentelemetry.trace import get_current_span  # noqa: PLC0415 - only with a collector

        super().answered(prediction)
        if not prediction.shadow:
            get_current_span().set_attributes(
                {
                    "mlops.model.name": prediction.model.name,
                    "mlops.model.version": prediction.model.version,
                    "mlops.model.role": prediction.role,
                    "mlops.rows": len(prediction.scores),
                    "mlops.fallback": bool(prediction.fallback),
                }
            )


class Tracing:
    """ASGI middleware: one span a request, within the caller's trace (W3C Trace Context)."""

    def __init__(self, app: ASGIApp, tracer: Any) -> None:
        self._app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request in a span; probes get none."""
        if scope["type"] != "http" or scope["path"].startswith("/v2/health/") or scope["path"] == "/metrics":
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode  # noqa: PLC0415 - only with a collector
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415 - likewise

        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        within = TraceContextTextMapPropagator().extract(carrier)
        about = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with self._tracer.start_as_current_span(
            f"{scope['method']} {scope['path']}", context=within, kind=SpanKind.SERVER, attributes=about, **NO_MESSAGES
        ) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, sending)
