"""What happens in the server to Prometheus metrics."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import Slot

LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
SERVER_ERROR = 500
PAUSE_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
VERSIONS_KEPT = 8
"""Label sets of versions that served longest ago are dropped: a server that lives for years must not grow."""


class Metrics:
    """Implements `Telemetry` by counters of its own registry, so that two servers in one process don't mix."""

    def __init__(self, slot: Slot) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._slot = slot
        self._answers = self._metric(Counter, "predictions_total", "Answered requests, by outcome.", "version", "role", "kind")
        self._rows = self._metric(Counter, "rows_total", "Rows scored.", "version", "role")
        self._latency = self._metric(
            Histogram, "scoring_seconds", "Scoring of one request.", "version", "role", buckets=LATENCY_S
        )
        self._stages = self._metric(Histogram, "stage_seconds", "Parts of a request.", "stage", buckets=LATENCY_S)
        self._waiting = self._metric(Gauge, "waiting_requests", "Requests that wait for a swap.")
        self._waiting_bytes = self._metric(Gauge, "waiting_bytes", "Bytes of requests that wait for a swap.")
        self._pauses = self._metric(Histogram, "swap_pause_seconds", "Waiting caused by a swap.", "mode", buckets=PAUSE_S)
        self._refused = self._metric(Counter, "refused_versions_total", "Versions that were not taken over.")
        self._dropped = self._metric(Counter, "log_dropped_total", "Answers that could not be logged.")
        self._segments = self._metric(Gauge, "log_waiting_segments", "Files of the request log that wait for upload.")
        self._log_bytes = self._metric(Gauge, "log_waiting_bytes", "Bytes of the request log that wait for upload.")
        self._lag = self._metric(Gauge, "log_lag_seconds", "Age of the oldest answer that waits for upload.")
        serving = self._metric(Gauge, "serving_version", "The version that serves; 0 is none.", "role")
        serving.labels("champion").set_function(lambda: slot.model.version if slot.model else 0)
        serving.labels("challenger").set_function(lambda: slot.challenger.version if slot.challenger else 0)
        problem = self._metric(Gauge, "problem", "1 while the server has a problem that its readiness page names.")
        problem.set_function(lambda: float(bool(slot.problem)))
        self._responses = _Responses()
        self._registry.register(self._responses)
        self._of_version: dict[tuple[int, str, str], tuple[Any, Any, Any]] = {}
        self._timers: dict[str, Any] = {}

    def _metric(self, kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
        return kind(f"mlops_{name}", text, labels, registry=self._registry, **more)

    def responded(self, route: str, status: int) -> None:
        """Count an HTTP answer by its route's name, which is never a path: clients make those up."""
        counted = self._responses.counted
        counted[route, status] = counted.get((route, status), 0) + 1

    def stage(self, name: str) -> Timer:
        """Time a part of a request."""
        histogram = self._timers.get(name)
        if histogram is None:
            histogram = self._timers[name] = self._stages.labels(name)
        return Timer(histogram)

    def answered(self, prediction: Prediction) -> None:
        """Count a prediction."""
        kind = "shadow" if prediction.shadow else "fallback" if prediction.fallback else "answer"
        key = (prediction.model.version, prediction.role, kind)
        bound = self._of_version.get(key) or self._bind(key)
        bound[0].inc()
        bound[1].inc(len(prediction.scores))
        bound[2].observe(prediction.latency_s)

    def _bind(self, key: tuple[int, str, str]) -> tuple[Any, Any, Any]:
        version, role, kind = str(key[0]), key[1], key[2]
        bound = (
            self._answers.labels(version, role, kind),
            self._rows.labels(version, role),
            self._latency.labels(version, role),
        )
        self._of_version[key] = bound
        versions = list(dict.fromkeys(known[0] for known in self._of_version))
        for old in versions[:-VERSIONS_KEPT]:
            self._forget(old)
        return bound

    def _forget(self, version: int) -> None:
        for known in [known for known in self._of_version if known[0] == version]:
            del self._of_version[known]
        for metric in (self._answers, self._rows, self._latency):
            metric.remove_by_labels({"version": str(version)})

    def queued(self, requests: int, size: int) -> None:
        """Say how many requests, and bytes of them, wait at the gate now."""
        self._waiting.set(requests)
        self._waiting_bytes.set(size)

    def swapped(self, mode: str, version: int, pause_s: float) -> None:
        """Count a swap and the time in which requests waited for it."""
        del version  # it shows as the version that serves
        self._pauses.labels(mode).observe(pause_s)

    def refused(self, version: int) -> None:
        """Count a version that was not taken over."""
        del version  # the problem names it
        self._refused.inc()

    def dropped(self, records: int) -> None:
        """Count answers that could not be logged."""
        self._dropped.inc(records)

    def log_waiting(self, segments: int, size: int, oldest_s: float) -> None:
        """Say what of the request log waits on disk for its upload."""
        self._segments.set(segments)
        self._log_bytes.set(size)
        self._lag.set(oldest_s)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Responses(Collector):
    """Answers by route and status, counted by the event loop alone, so without the lock that the client's counters have."""

    def __init__(self) -> None:
        self.counted: dict[tuple[str, int], int] = {}

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Give them to Prometheus' client."""
        text = "HTTP answers; route `connection`: to what no application saw."
        family = CounterMetricFamily("mlops_http_responses", text, labels=["route", "status"])
        for (route, status), count in self.counted.items():
            family.add_metric([route, str(status)], count)
        yield family


ROUTES = {
    "/": "index",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
    "/version": "version",
    "/invocations": "invocations",
    "/v2": "server",
    "/v2/health/live": "live",
    "/v2/repository/index": "repository",
    **dict.fromkeys(("/v2/health/ready", "/ping", "/health"), "ready"),
}
_OF_MODEL = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?(?:/(infer|ready))?|/v2/repository/models/[^/]+/(load|unload)")


def route_of(path: str) -> str:
    """Return the name of the route that a path takes; `other` where there is none."""
    known = ROUTES.get(path)
    if known is not None:
        return known
    found = _OF_MODEL.fullmatch(path)
    return "other" if found is None else found[1] or found[2] or "model"


class Counted:
    """ASGI middleware: counts answers by route and status, also those of what stands before the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, and look at the answer's status."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def counting(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                self._metrics.responded(route_of(scope["path"]), message["status"])
            return send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            self._metrics.responded(route_of(scope["path"]), SERVER_ERROR)
            raise


class Exposition:
    """ASGI middleware: answers `/metrics`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer for the metrics, or hand on."""
        if scope["type"] != "http" or scope["path"] != "/metrics":
            await self._app(scope, receive, send)
            return
        body = self._metrics.text()
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timer:
    """Times what happens inside `with`; an object, since a generator would cost every stage microseconds."""

    __slots__ = ("_histogram", "_started")

    def __init__(self, histogram: Any) -> None:
        self._histogram = histogram

    def __enter__(self) -> None:
        """Begin."""
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        """End, with or without an error."""
        self._histogram.observe(time.perf_counter() - self._started)
