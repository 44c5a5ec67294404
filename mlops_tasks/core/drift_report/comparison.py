"""Everything that a report on one window shows, in words and as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.rollout import describe_comparison
from mlops_tasks.core.sketches import NumericBins

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.artifacts import Deployment, ValidFeatures
    from mlops_tasks.core.drift import Baseline, Calibration, ColumnScore, Judged, WindowScore
    from mlops_tasks.core.performance import Watched
    from mlops_tasks.core.rollout import Tried
    from mlops_tasks.core.sketches import Layout, Sketches
    from mlops_tasks.specs import MonitorSpec

MOST_NAMED = 3


@dataclass(frozen=True)
class Comparison:
    """One window against what one model version was trained on and saw since."""

    pipeline: str
    item: ValidFeatures
    deployment: Deployment
    spec: MonitorSpec
    judged: Judged
    performance: Watched | None = None
    """How the model did, in this window and before; None: not watched."""
    tried: Sequence[Tried] = ()
    """Challengers that were tried in this window beside the champion of the time."""

    @property
    def reference(self) -> Baseline:
        """What the window is compared with."""
        return self.judged.baseline

    @property
    def calibration(self) -> Calibration:
        """What is ordinary."""
        return self.judged.calibration

    @property
    def sketch(self) -> Sketches:
        """The window's sketch."""
        return self.judged.sketch

    @property
    def score(self) -> WindowScore:
        """How far off the window is."""
        return self.judged.score

    @property
    def reason(self) -> str:
        """What was seen, in one sentence."""
        return say_judged(self.judged, self.spec)


def say_judged(judged: Judged, spec: MonitorSpec) -> str:
    """Say what was seen in a window: columns, figures, threshold."""
    window, score = judged.record.window, judged.score
    if not score.rows:
        return f"window {window.label} has no rows: nothing to compare"
    if score.status == "warming_up":
        need = max(spec.min_history, math.ceil(1 / spec.false_alarm_rate) - 1)
        have = judged.calibration.maxima.size
        return f"window {window.label}: warming up, {have} windows of history of the {need} that an alarm needs"
    if not score.alarmed:
        top = next((c for c in score.columns if c.decides), None)
        most = f"largest: {top.column}, robust z {top.standardised:.1f}" if top else "no column decides"
        return f"window {window.label} is like the history ({most}, threshold {score.threshold:.1f})"
    named = [say_column(c, spec.effect_size) for c in score.alarmed[:MOST_NAMED]]
    more = len(score.alarmed) - len(named)
    rest = f" and {more} more" if more > 0 else ""
    return f"window {window.label}: {', '.join(named)}{rest}, threshold {score.threshold:.1f}"


def say_column(column: ColumnScore, effect_size: float) -> str:
    """Say how an alarmed column differs: by its values, by its missing share, or both."""
    parts = []
    if column.distance >= effect_size:
        amount = f"{column.distance:.2f} sd" if column.kind == "numeric" else f"{column.distance:.0%} of its values"
        parts.append(f"moved by {amount}")
    if abs(column.missing) >= effect_size:
        parts.append(f"has {abs(column.missing):.0%} {'more' if column.missing > 0 else 'fewer'} missing values")
    return f"{column.column} {' and '.join(parts)} (robust z {column.standardised:.1f})"


def describe_drift(comparison: Comparison) -> dict[str, Any]:
    """Return the content of `drift.json`."""
    score, calibration, reference = comparison.score, comparison.calibration, comparison.reference
    return {
        "pipeline": comparison.pipeline,
        "window": comparison.item.window.model_dump(mode="json"),
        "model_version": comparison.deployment.version,
        "training": comparison.deployment.training.model_dump(mode="json"),
        "features": comparison.item.features.digest,
        "status": score.status,
        "rows": score.rows,
        "maximum": score.maximum,
        "threshold": _finite(score.threshold),
        "p_value": score.p_value,
        "false_alarm_rate": comparison.spec.false_alarm_rate,
        "effect_size": comparison.spec.effect_size,
        "history": {"windows": list(reference.history.windows), "maxima": calibration.maxima.tolist()},
        "columns": [asdict(c) for c in score.columns],
        "trials": [describe_trial(tried) for tried in comparison.tried],
        "reason": comparison.reason,
    }


def describe_trial(tried: Tried) -> dict[str, Any]:
    """Return champion and challenger in this window, and what became of the trial."""
    trial = tried.trial
    return {
        "since": trial.start.isoformat(),
        "until": trial.end.isoformat() if trial.end else None,
        "outcome": trial.outcome,
        "window": tried.window.model_dump(mode="json"),
        **describe_comparison(tried.seen),
    }


def unit_of(layout: Layout) -> str:
    """Name what a column's distance is."""
    return "Wasserstein / sd" if isinstance(layout, NumericBins) else "total variation"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
