"""One window's comparison with what is known to words, JSON and a self-contained HTML page."""

from mlops_tasks.core.drift_report.backtest_page import render_backtest
from mlops_tasks.core.drift_report.comparison import Comparison, describe_drift, say_judged
from mlops_tasks.core.drift_report.kept import find_reports, keep_report, kept_reports, report_key
from mlops_tasks.core.drift_report.page import render_drift

__all__ = [
    "Comparison",
    "describe_drift",
    "find_reports",
    "keep_report",
    "kept_reports",
    "render_backtest",
    "render_drift",
    "report_key",
    "say_judged",
]
