"""What happens in the server to Prometheus metrics."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from functools import lru_cache
from itertools import accumulate
from time import perf_counter
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
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import Receive, Scope, Send

    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.slot import Slot

LATENCY_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
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
        self._requests = _Requests()
        self._registry.register(self._requests)
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

    def _metric(self, kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
        return kind(f"mlops_{name}", text, labels, registry=self._registry, **more)

    def responded(self, route: str, status: int) -> None:
        """Count an HTTP answer by its route's name, which is never a path: clients make those up."""
        counted = self._requests.responses
        counted[route, status] = counted.get((route, status), 0) + 1

    def stage(self, name: str) -> Timer:
        """Time a part of a request."""
        return Timer(self._requests.stages[name])

    def answered(self, prediction: Prediction) -> None:
        """Count a prediction."""
        kind = "shadow" if prediction.shadow else "fallback" if prediction.fallback else "answer"
        requests, key = self._requests, (prediction.model.version, prediction.role)
        of_version = requests.versions.get(key) or requests.begin(key)
        of_version.answers[kind] = of_version.answers.get(kind, 0) + 1
        of_version.rows += len(prediction.scores)
        of_version.scoring.observe(prediction.latency_s)

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


class Durations:
    """A histogram of seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_S) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(LATENCY_S, seconds)] += 1
        self.sum += seconds

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """How many took at most so long, as Prometheus has them."""
        ends = [*map(floatToGoString, LATENCY_S), "+Inf"]
        return list(zip(ends, accumulate(self.counts), strict=True))


class _OfVersion:
    """What one version answered in one role."""

    __slots__ = ("answers", "rows", "scoring")

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        self.rows = 0
        self.scoring = Durations()


class _Requests(Collector):
    """What is counted of each request, by the event loop alone, so without the lock that the client's own metrics have.

    A locked histogram takes twice as long, and a request passes seven.
    """

    def __init__(self) -> None:
        self.responses: dict[tuple[str, int], int] = {}
        """(route, status) -> answers."""
        self.stages: dict[str, Durations] = defaultdict(Durations)
        self.versions: dict[tuple[int, str], _OfVersion] = {}

    def begin(self, key: tuple[int, str]) -> _OfVersion:
        """Count for one more version and role, and no more for those that served longest ago."""
        self.versions[key] = _OfVersion()
        known = list(dict.fromkeys(version for version, _ in self.versions))
        kept = set(known[-VERSIONS_KEPT:])
        self.versions = {key: counted for key, counted in self.versions.items() if key[0] in kept}
        return self.versions[key]

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Give them to Prometheus' client."""
        of_model = ["version", "role"]
        answers = CounterMetricFamily("mlops_predictions", "Answered requests, by outcome.", labels=[*of_model, "kind"])
        rows = CounterMetricFamily("mlops_rows", "Rows scored.", labels=of_model)
        scoring = HistogramMetricFamily("mlops_scoring_seconds", "The model's call for one request.", labels=of_model)
        for (version, role), counted in self.versions.items():
            labels = [str(version), role]
            rows.add_metric(labels, counted.rows)
            scoring.add_metric(labels, counted.scoring.buckets, counted.scoring.sum)
            for kind, count in counted.answers.items():
                answers.add_metric([*labels, kind], count)
        stages = HistogramMetricFamily("mlops_stage_seconds", "Parts of a request.", labels=["stage"])
        for stage, durations in self.stages.items():
            stages.add_metric([stage], durations.buckets, durations.sum)
        text = "HTTP answers; route `connection`: to what no application saw."
        responses = CounterMetricFamily("mlops_http_responses", text, labels=["route", "status"])
        for (route, status), count in self.responses.items():
            responses.add_metric([route, str(status)], count)
        yield from (answers, rows, scoring, stages, responses)


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


@lru_cache(256)
def route_of(path: str) -> str:
    """Return the name of the route that a path takes; `other` where there is none."""
    known = ROUTES.get(path)
    if known is not None:
        return known
    found = _OF_MODEL.fullmatch(path)
    return "other" if found is None else found[1] or found[2] or "model"


class Exposition:
    """ASGI application: the metrics in Prometheus' text format."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        del scope, receive  # whatever is asked
        body = self._metrics.text()
        headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Timer:
    """Times what happens inside `with`; an object, since a generator would cost every stage microseconds."""

    __slots__ = ("_durations", "_started")

    def __init__(self, durations: Durations) -> None:
        self._durations = durations

    def __enter__(self) -> None:
        """Begin."""
        self._started = perf_counter()

    def __exit__(self, *_: object) -> None:
        """End, with or without an error."""
        self._durations.observe(perf_counter() - self._started)
