"""What was measured in a window, and what is ordinary, to its state and the sentence that says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.core.performance.chart import find_worse, needed_windows
from mlops_tasks.durations import format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from mlops_tasks.artifacts import Task, Window
    from mlops_tasks.core.performance.chart import Chart
    from mlops_tasks.core.performance.records import Measured, PerformanceRecord, Status
    from mlops_tasks.core.window_errors import Kind, WindowError
    from mlops_tasks.specs import MonitorSpec


def error_name(task: Task) -> str:
    """Name what a window's error is."""
    return "mean squared error" if task == "regression" else "log loss"


def is_mature(window: Window, as_of: datetime, spec: MonitorSpec) -> bool:
    """Tell whether a window's labels are due."""
    return window.end + spec.label_delay <= as_of


def lacks_labels(measured: Measured, spec: MonitorSpec) -> str:
    """Say why a window can't be judged yet; nothing when it can be, or has no rows."""
    rules, rows = spec.performance, measured.rows
    if not rows:
        return ""
    if not measured.mature:
        due = f"they are due {format_duration(spec.label_delay)} after its end"
        return f"awaits its labels: {due}, {measured.labelled:,} of {rows:,} are there"
    if measured.coverage < rules.min_coverage:
        known = f"the labels of {measured.labelled:,} of {rows:,} rows are known"
        return f"awaits labels: {known}, monitor.performance.min_coverage asks for {rules.min_coverage:.0%}"
    if measured.labelled < rules.min_labelled:
        return f"has {measured.labelled:,} labelled rows, monitor.performance.min_labelled asks for {rules.min_labelled:,}"
    return ""


def usable(held_out: Iterable[WindowError], spec: MonitorSpec) -> list[WindowError]:
    """Return the held-out windows that have as many rows as one that is judged."""
    return [error for error in held_out if error.rows >= spec.performance.min_labelled]


def choose_reference(
    held_out: Iterable[WindowError], records: Iterable[PerformanceRecord], training_end: datetime, spec: MonitorSpec
) -> list[WindowError]:
    """Return the windows that tell what is ordinary: those that were held out from training.

    Where these are too few, the first windows that were watched since fill them up; they are then no longer judged.
    """
    reference = usable(held_out, spec)
    short = needed_windows(spec) - len(reference)
    if short <= 0:
        return reference
    known = {error.window for error in reference}
    ordered = sorted(records, key=lambda record: record.window.start)
    watched = [
        record.error
        for record in ordered
        if record.error is not None
        and record.window.start >= training_end
        and record.window.label not in known
        and not lacks_labels(record.measured, spec)
    ]
    return reference + watched[:short]


def decide_state(
    window: Window, measured: Measured, chart: Chart, spec: MonitorSpec, *, task: Task, in_reference: bool
) -> tuple[Status, str]:
    """Return a window's state and why.

    Args:
        window: the window.
        measured: what its rows say.
        chart: what is ordinary.
        spec: when an error counts as worse.
        task: of the model.
        in_reference: whether the window itself is one of those that tell what is ordinary.

    """
    where, error = f"window {window.label}", measured.error
    lacking = lacks_labels(measured, spec)
    if lacking:
        return "awaiting_labels", f"{where} {lacking}"
    if error is None:
        return "ok", f"{where} has no rows that the model answered: nothing to measure"
    said = f"{error_name(task)} {error.mean:.4g}"
    if in_reference or not chart.warm:
        have = f"{chart.windows} windows of the {needed_windows(spec)} that an alarm needs"
        return "warming_up", f"{where}: {said}; warming up, {have}"
    worse = find_worse(chart, error, spec)
    if not worse:
        highest = chart.highest(error, spec)
        return "ok", f"{where}: {said} is ordinary ({chart.centre:.4g} on the windows before, alarm above {highest:.4g})"
    return "alarm", f"{where}: {'; '.join(_say_worse(kind, error, chart, spec, task) for kind in worse)}"


def _say_worse(kind: Kind, error: WindowError, chart: Chart, spec: MonitorSpec, task: Task) -> str:
    """Say of one measure how it was, is, and may be."""
    now, then, limit = error.measures[kind].mean, chart.measures[kind].centre, chart.highest(error, spec, kind)
    if kind == "ranking":
        return f"ROC AUC {1 - now:.4g} is below the {1 - then:.4g} of the windows before (alarm below {1 - limit:.4g})"
    if kind == "excess":
        promised = f"log loss is {now:.4g} above what the scores promise"
        return f"{promised}, {then:.4g} in the windows before (alarm above {limit:.4g})"
    rise = f"{now / then - 1:.0%} above" if then > 0 else "above"
    return f"{error_name(task)} {now:.4g} is {rise} the {then:.4g} of the windows before (alarm above {limit:.4g})"
