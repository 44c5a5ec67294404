"""What is known of a model's performance up to a window to what the report's section shows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.core.drift_report.performance_chart import draw_performance
from mlops_tasks.core.metrics import METRICS
from mlops_tasks.core.performance.chart import needed_windows
from mlops_tasks.core.performance.deciding import error_name

if TYPE_CHECKING:
    from mlops_tasks.core.drift_report.comparison import Comparison
    from mlops_tasks.core.window_errors import Kind

WORDS = {
    "ok": "Performs as before",
    "alarm": "Performs worse",
    "warming_up": "Performance: warming up",
    "awaiting_labels": "Performance: awaiting labels",
}


def _title(kind: Kind, error: str) -> str:
    titles: dict[Kind, str] = {
        "error": error.capitalize(),
        "excess": "Log loss above what the scores promise",
        "ranking": "ROC AUC",
    }
    return titles[kind]


def describe_performance(comparison: Comparison) -> dict[str, Any] | None:
    """Return what the template shows; None where performance is not watched."""
    watched = comparison.performance
    if watched is None:
        return None
    records = watched.until(comparison.item.window.label)
    record, spec = records[-1], comparison.spec
    shown: list[Kind] = list(watched.chart.measures) or ["error"]
    return {
        "record": record,
        "word": WORDS[record.status],
        "charts": [
            (_title(kind, error_name(watched.task)), draw_performance(watched.held_out, records, kind)) for kind in shown
        ],
        "error": error_name(watched.task),
        "ordinary": watched.chart,
        "needed": needed_windows(spec),
        "rules": spec.performance,
        "no_estimate": watched.no_estimate,
        "rows": [
            (metric.title, record.metrics.get(name), record.estimated.get(name))
            for name, metric in METRICS.items()
            if name in record.metrics or name in record.estimated
        ],
    }
