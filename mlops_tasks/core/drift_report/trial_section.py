"""What was tried in a window to what the report's section shows of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.metrics import METRICS

if TYPE_CHECKING:
    from mlops_tasks.core.rollout import Measured, Side, Tried


def show_trial(tried: Tried) -> dict[str, Any]:
    """Return what the template shows."""
    trial, seen = tried.trial, tried.seen
    metric = METRICS[seen.metric].title
    sides = [_figures(side) for side in (seen.champion, seen.challenger)]
    names = ("Requests", "Failures", "Latency, 95th percentile", "Mean score", "Labelled rows", metric)
    differences = (
        ("Latency ratio", seen.latency_ratio),
        ("PSI of the scores", seen.score_psi),
        (f"{metric}, by how much the challenger's is worse", seen.worse),
    )
    return {
        "champion": trial.champion,
        "challenger": trial.challenger,
        "since": f"{trial.start:%Y-%m-%d %H:%M} UTC",
        "until": f"{trial.end:%Y-%m-%d %H:%M} UTC" if trial.end else "",
        "outcome": trial.outcome,
        "rows": list(zip(names, *sides, strict=True)),
        "differences": "; ".join(_say(name, found) for name, found in differences),
    }


def _figures(side: Side) -> tuple[str, ...]:
    return (
        f"{side.requests:,}",
        f"{side.failures:,}",
        _number(side.p95_ms, " ms"),
        _number(side.mean_score),
        f"{side.labelled:,}",
        _number(side.metric),
    )


def _say(name: str, found: Measured) -> str:
    if math.isnan(found.value):
        return f"{name}: too little to say"
    if math.isnan(found.at_least):
        return f"{name}: {found.value:.3g}"
    return f"{name}: {found.value:.3g}, at least {found.at_least:.3g} when chance is taken off"


def _number(value: float, unit: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:.4g}{unit}"
