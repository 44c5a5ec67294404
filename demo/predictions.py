"""Real rows to requests at the model server, in both of its protocols."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from demo import DemoError
from mlops_tasks.loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from demo.services import Services
    from mlops_tasks.artifacts import FeatureSchema

ROWS = 200
PICKED_UP_S = 30


@dataclass(frozen=True)
class Answers:
    """What the server answered for real rows, beside what came true."""

    version: str
    scores: list[float]
    truth: list[bool]
    milliseconds: float
    """Median time of a request with one row."""

    def late_share(self, *, likely: bool) -> float:
        """Return the share that came true among the rows of the higher (or lower) half of scores."""
        ranked = sorted(zip(self.scores, self.truth, strict=True), reverse=likely)
        half = [came_true for _, came_true in ranked[: max(1, len(ranked) // 2)]]
        return sum(half) / len(half)


def ask(services: Services, pipeline: str, features: Path, *, version: int | None = None) -> Answers:
    """Send a table's rows to the model: all at once by protocol v2, then one by one as records.

    Given a version, wait until the server has picked it up by itself. Raises: DemoError.
    """
    schema = load_pipeline(pipeline, services.pipelines).features
    rows = _read_rows(features, schema)
    with httpx.Client(base_url=services.url("server"), timeout=30, trust_env=False) as http:
        answer = _answer(http, f"/v2/models/{pipeline}/infer", {"inputs": _tensors(rows, schema)}, version)
        scores = next(output["data"] for output in answer["outputs"] if output["name"] == "score")
        times = []
        for row in rows[:32]:
            began = time.perf_counter()
            _sent(http, "/invocations", {"dataframe_records": [_inputs_of(row, schema)]})
            times.append(time.perf_counter() - began)
    return Answers(
        version=str(answer.get("model_version", "?")),
        scores=[float(score) for score in scores],
        truth=[str(row[schema.label]) in {"True", "1", "1.0", str(schema.positive)} for row in rows],
        milliseconds=1000 * sorted(times)[len(times) // 2],
    )


def _answer(http: httpx.Client, path: str, body: object, version: int | None) -> dict[str, Any]:
    """Ask until the answer is of the version."""
    deadline = time.monotonic() + PICKED_UP_S
    while True:
        answer = _sent(http, path, body)
        if version is None or answer.get("model_version") == str(version):
            return answer
        if time.monotonic() > deadline:
            msg = f"the model server still serves version {answer.get('model_version')} after {PICKED_UP_S} s, not {version}"
            raise DemoError(msg)
        time.sleep(0.2)


def _read_rows(features: Path, schema: FeatureSchema) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - half a second that starting and stopping need not pay

    columns = [*schema.numeric, *schema.categorical, schema.label]
    rows: list[dict[str, Any]] = pq.read_table(features, columns=columns).slice(0, ROWS).to_pylist()
    return rows


def _inputs_of(row: dict[str, Any], schema: FeatureSchema) -> dict[str, Any]:
    return {column.name: _json_value(row[column.name]) for column in schema.columns}


def _tensors(rows: Sequence[dict[str, Any]], schema: FeatureSchema) -> list[dict[str, Any]]:
    """Make one tensor for each column, as the protocol asks."""
    return [
        {
            "name": column.name,
            "shape": [len(rows)],
            "datatype": "FP64" if column.kind == "numeric" else "BYTES",
            "data": [_json_value(row[column.name]) for row in rows],
        }
        for column in schema.columns
    ]


def _json_value(value: Any) -> Any:
    """JSON has no NaN: it means null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _sent(http: httpx.Client, path: str, body: object) -> dict[str, Any]:
    try:
        answer = http.post(path, json=body)
    except httpx.TransportError as error:
        msg = f"the model server at {http.base_url} does not answer: {error}; its log is .mlops/demo/server.log"
        raise DemoError(msg) from error
    if not answer.is_success:
        msg = f"the model server answered {path} with {answer.status_code}: {answer.text[:500]}"
        raise DemoError(msg)
    found: dict[str, Any] = answer.json()
    return found
