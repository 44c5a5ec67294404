"""What two versions answered to figures that a rule, a report and a person look at."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.rollout.answers import read_answers
from mlops_tasks.core.rollout.differences import (
    Measured,
    choose_all,
    measure_labelled,
    measure_latency,
    measure_scores,
    slow_ms,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    import pyarrow as pa

    from mlops_tasks.core.rollout.answers import Answers
    from mlops_tasks.core.scoring import ModelSignature


@dataclass(frozen=True)
class Side:
    """What one version did."""

    version: int
    requests: int
    rows: int
    """Rows that are compared: in shadow those that both scored."""
    failures: int
    """Requests in which it failed."""
    p95_ms: float
    """NaN without rows."""
    mean_score: float
    """Mean of the scores, for classes the mean of the greatest; NaN without rows."""
    labelled: int
    metric: float
    """On rows whose label is known; NaN without any on both sides, or where it is undefined there."""


@dataclass(frozen=True)
class Comparison:
    """Champion and challenger since the challenger is tried."""

    champion: Side
    challenger: Side
    units: int
    """Entities on the smaller side."""
    metric: str
    """By which labelled rows are compared."""
    latency_ratio: Measured
    """The challenger's 95th percentile to the champion's."""
    score_psi: Measured
    """Population stability index of the challenger's scores against the champion's."""
    worse: Measured
    """By how much the challenger's metric is worse."""
    age: timedelta
    """How long it is tried."""


def compare(
    log: pa.Table,
    versions: tuple[int, int],
    *,
    age: timedelta,
    metric: str,
    signatures: tuple[ModelSignature, ModelSignature],
    labels: Mapping[str, object],
    paired: bool = False,
    planned: int = 1000,
) -> Comparison:
    """Measure what a request log says of two versions.

    Args:
        log: rows since the challenger is tried, with `LOG_COLUMNS`; a prediction that is there twice counts once.
        versions: champion, challenger.
        age: how long the challenger is tried.
        metric: by which both are compared where labels are known.
        signatures: the versions' tasks, classes and thresholds.
        labels: prediction id -> label, as far as they are known.
        paired: only predictions that both scored are compared, as in shadow.
        planned: entities at which what chance explains is least; it must not depend on what was seen.

    """
    both = read_answers(log, versions, paired=paired)
    labelled = measure_labelled(both, labels, signatures, metric, planned)
    chosen = choose_all(both)
    champion, challenger = (
        _side(version, side, labelled.rows[at], labelled.values[at])
        for at, (version, side) in enumerate(zip(versions, both.sides, strict=True))
    )
    return Comparison(
        champion,
        challenger,
        units=chosen.units,
        metric=metric,
        latency_ratio=measure_latency(both, planned),
        score_psi=measure_scores(both, chosen, planned),
        worse=labelled.worse,
        age=age,
    )


def _side(version: int, side: Answers, labelled: int, metric: float) -> Side:
    return Side(
        version=version,
        requests=side.requests,
        rows=side.rows.num_rows,
        failures=side.failures,
        p95_ms=slow_ms(side),
        mean_score=float(side.flat.mean()) if side.rows.num_rows else math.nan,
        labelled=labelled,
        metric=metric,
    )


def describe_comparison(seen: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON has it: what is not known is null."""
    found = {**dataclasses.asdict(seen), "age_s": seen.age.total_seconds()}
    return {key: _nullable(value) for key, value in found.items() if key != "age"}


def _nullable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nullable(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
