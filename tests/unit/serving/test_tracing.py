"""What spans hold of an error."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mlops_tasks.serving.slot import Slot
from mlops_tasks.serving.tracing import TracedMetrics

SECRET = "a value of a request"


def test_a_stage_that_fails_is_traced_by_its_kind_and_not_by_what_the_error_quotes() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = TracedMetrics(Slot("shop"), provider.get_tracer("tests"))
    with pytest.raises(ValueError, match=SECRET), metrics.stage("decode"):
        raise ValueError(SECRET)
    with metrics.stage("score"):
        pass
    failed, whole = exporter.get_finished_spans()
    assert failed.attributes == {"error.type": "ValueError"}
    assert whole.attributes == {}
    assert SECRET not in failed.to_json()
