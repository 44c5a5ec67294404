"""Errors of a model's windows, held out and watched, to inline SVG in the page's own colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from mlops_tasks.core.drift_report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDE,
    WIDTH,
    draw_axis_y,
    draw_text,
    make_svg,
    ticks,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_tasks.core.performance import PerformanceRecord
    from mlops_tasks.core.window_errors import Kind, WindowError

ESTIMATED: dict[Kind, str] = {"error": "log_loss", "ranking": "roc_auc"}
"""Measure -> the metric that estimates it without labels."""
MARGIN = 0.08


def draw_performance(held_out: Sequence[WindowError], records: Sequence[PerformanceRecord], kind: Kind) -> Markup:
    """Draw a measure of each held-out window and each watched one, its estimate and what it must exceed to alarm.

    Args:
        held_out: what is ordinary, grey.
        records: watched windows in order of time; the last one is the report's own.
        kind: the measure; the ranking is drawn as the ROC AUC.

    """
    past = [(e.window, e.measures[kind].mean) for e in held_out if kind in e.measures]
    low, high = _range([value for _, value in past], records, kind)
    if not high > low:
        return Markup("")
    width = WIDE if kind == "error" else WIDTH
    step = (width - RIGHT - LEFT - 24) / max(len(past) + len(records), 1)

    def at_x(at: int) -> float:
        return LEFT + 12 + at * step

    def at_y(value: float) -> float:
        share = (value - low) / (high - low)
        return TOP + (HEIGHT - TOP - BOTTOM) * (share if kind == "ranking" else 1 - share)

    def show(value: float) -> str:
        return f"{1 - value if kind == 'ranking' else value:.4g}"

    parts = [_axis(low, high, at_y, width, kind)]
    parts += [_dot("past", at_x(at), at_y(v), 3, f"{label}: {show(v)}, held out") for at, (label, v) in enumerate(past)]
    first = len(past) + 1
    limits = ((at_x(first + at), _highest(record, kind)) for at, record in enumerate(records))
    parts.append(_limit([(x, at_y(limit)) for x, limit in limits if limit is not None], step))
    for at, record in enumerate(records):
        parts += _window(record, kind, at_x(first + at), at_y, show, last=record is records[-1])
    parts += _names([label for label, _ in past], records, at_x, width)
    return make_svg(width, HEIGHT, parts, "By window: held out, watched, estimated without labels, and the alarm's limit")


def _axis(low: float, high: float, at_y: Callable[[float], float], width: int, kind: Kind) -> str:
    if kind != "ranking":
        return draw_axis_y(ticks(low, high), at_y, width, "g")
    return draw_axis_y(ticks(1 - high, 1 - low), lambda auc: at_y(1 - auc), width, "g")


def _window(
    record: PerformanceRecord, kind: Kind, x: float, at_y: Callable[[float], float], show: Callable[[float], str], *, last: bool
) -> list[str]:
    """Draw one watched window: estimated, measured, or both."""
    parts, label = [], record.window.label
    estimate = _estimate(record, kind)
    if estimate is not None:
        parts.append(_dot("estimate", x, at_y(estimate), 4, f"{label}: {show(estimate)}, estimated without labels"))
    if record.error is not None and kind in record.error.measures and record.status != "awaiting_labels":
        value = record.error.measures[kind].mean
        colour = "alarm" if record.status == "alarm" and value > record.highest.get(kind, value) else "now"
        parts.append(_dot(colour, x, at_y(value), 6 if last else 3.5, f"{label}: {show(value)}"))
    return parts


def _names(past: Sequence[str], records: Sequence[PerformanceRecord], at_x: Callable[[int], float], width: int) -> list[str]:
    """Write the labels of the first and the last windows."""
    parts = [draw_text(at_x(0), HEIGHT - 8, past[0], "tick", "start")] if past else []
    last = records[-1].window.label
    if len(records) > len(past) / 3:  # else it would stand on the last one's name
        parts.append(draw_text(at_x(len(past) + 1), HEIGHT - 8, records[0].window.label, "tick", "middle"))
    return [*parts, draw_text(width - RIGHT, HEIGHT - 8, last, "now-text", "end")]


def _estimate(record: PerformanceRecord, kind: Kind) -> float | None:
    value = record.estimated.get(ESTIMATED.get(kind, ""))
    return 1 - value if value is not None and kind == "ranking" else value


def _highest(record: PerformanceRecord, kind: Kind) -> float | None:
    """Return what a window must exceed; None where there is no limit, or one that no ROC AUC can pass, as of a few rows."""
    value = record.highest.get(kind)
    return None if value is None or (kind == "ranking" and value > 1) else value


def _range(values: list[float], records: Sequence[PerformanceRecord], kind: Kind) -> tuple[float, float]:
    values = list(values)
    for record in records:
        values += [record.error.measures[kind].mean] if record.error is not None and kind in record.error.measures else []
        values += [value for value in (_highest(record, kind), _estimate(record, kind)) if value is not None]
    if not values:
        return 0.0, 0.0
    margin = MARGIN * (max(values) - min(values)) or abs(max(values)) or 1.0
    low = min(values) - margin
    return low if kind == "excess" else max(0.0, low), max(values) + margin


def _limit(points: Sequence[tuple[float, float]], step: float) -> str:
    """Draw what each window must exceed: small ones more."""
    half = min(step / 2, 20.0)
    lines = (f'<line class="limit" x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' for x, y in points)
    return "".join(lines)


def _dot(kind: str, x: float, y: float, radius: float, tip: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(tip)}</title></circle>'
