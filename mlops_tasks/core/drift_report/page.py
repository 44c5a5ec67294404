"""A comparison to a self-contained HTML page: headline, history, a plot per alarmed column, all columns, method."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mlops_tasks.core.drift import missing_shares
from mlops_tasks.core.drift_report.charts import draw_categories, draw_history, draw_numeric
from mlops_tasks.core.drift_report.comparison import unit_of
from mlops_tasks.core.drift_report.performance_section import describe_performance
from mlops_tasks.core.drift_report.trial_section import show_trial
from mlops_tasks.core.sketches import QUANTA_PER_SD, NumericBins

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Window
    from mlops_tasks.core.drift import ColumnScore
    from mlops_tasks.core.drift_report.comparison import Comparison
    from mlops_tasks.core.sketches import ColumnSketch, Layout

MOST_PLOTS = 12
OTHERS = {"season": "the same season a year before", "acknowledged": "what was acknowledged"}
WORDS = {"ok": "Like the history", "alarm": "Drift", "warming_up": "Warming up"}


def render_drift(comparison: Comparison) -> str:
    """Return the page of one window; the same comparison gives the same bytes."""
    score, reference = comparison.score, comparison.reference
    page: str = open_template("drift.html.j2").render(
        comparison=comparison,
        score=score,
        word=WORDS[score.status],
        finite=math.isfinite(score.threshold),
        reference_rows=int(reference.merged.rows[0]),
        others=[OTHERS[other.windows[0]] for other in reference.others],
        history_chart=draw_history(reference.history.windows, comparison.calibration, comparison.item.window.label, score),
        plots=[_plot(comparison, column) for column in score.alarmed[:MOST_PLOTS]],
        rows=[_row(comparison, column) for column in score.columns],
        unplotted=max(0, len(score.alarmed) - MOST_PLOTS),
        performance=describe_performance(comparison),
        trials=[show_trial(tried) for tried in comparison.tried],
    )
    return page


@cache
def open_template(name: str) -> Template:
    """Load one of this package's templates."""
    environment = Environment(
        loader=PackageLoader("mlops_tasks.core.drift_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:+.1%}" if round(share, 3) else "0"
    environment.filters["period"] = _period
    return environment.get_template(name)


def _period(window: Window) -> str:
    whole_days = window.start.hour == window.end.hour == 0
    style = "%Y-%m-%d" if whole_days else "%Y-%m-%d %H:%M"
    return f"{window.start:{style}} to {window.end:{style}} UTC"


def _plot(comparison: Comparison, column: ColumnScore) -> dict[str, object]:
    layout, merged = comparison.reference.layouts[column.column], comparison.reference.merged.columns[column.column]
    current = comparison.sketch.columns[column.column]
    svg = draw_numeric(layout, current, merged) if isinstance(layout, NumericBins) else draw_categories(layout, current, merged)
    return {
        "column": column,
        "unit": unit_of(layout),
        "svg": svg,
        "missing": (float(missing_shares(merged)[0]), float(missing_shares(current)[0])),
        "summary": (_summary(layout, merged), _summary(layout, current)),
    }


def _row(comparison: Comparison, column: ColumnScore) -> dict[str, object]:
    layout = comparison.reference.layouts[column.column]
    current = comparison.sketch.columns.get(column.column)
    limit = column.standardised / comparison.score.threshold if math.isfinite(comparison.score.threshold) else 0.0
    return {
        "column": column,
        "kind": layout.kind,
        "label": column.column == comparison.reference.label,
        "prediction": column.column in comparison.reference.optional - {comparison.reference.label},
        "then": _summary(layout, comparison.reference.merged.columns[column.column]),
        "now": _summary(layout, current) if current is not None else "-",
        "bar": f"{min(max(limit, 0.0), 2.0) * 50:.0f}",
    }


def _summary(layout: Layout, sketch: ColumnSketch) -> str:
    """Say a column's mean, or its most frequent category."""
    known = int(sketch.counts.sum())
    if not known:
        return "-"
    if isinstance(layout, NumericBins):
        mean = layout.centre + layout.sd * int(sketch.sums.sum()) / known / QUANTA_PER_SD
        return f"{mean:,.4g}"
    top = int(sketch.counts[0].argmax())
    name = layout.names[top] if top < len(layout.names) else "(other)"
    return f"{name} {sketch.counts[0, top] / known:.0%}"
