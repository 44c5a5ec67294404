"""Errors of a model's windows, held out and watched, to inline SVG in the page's own colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from mlops_tasks.core.drift_report.charts import BOTTOM, LEFT, RIGHT, TOP, WIDE, draw_axis_y, draw_text, make_svg, ticks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.core.performance import PerformanceRecord
    from mlops_tasks.core.window_errors import WindowError

TALL = 250
ESTIMATED = "log_loss"
"""The estimated metric that is the error itself."""
MARGIN = 0.08


def draw_performance(held_out: Sequence[WindowError], records: Sequence[PerformanceRecord]) -> Markup:
    """Draw the error of each held-out window and each watched one, its estimate and what it must exceed to alarm.

    Args:
        held_out: what is ordinary, grey.
        records: watched windows in order of time; the last one is the report's own.

    """
    low, high = _range(held_out, records)
    if not high > low:
        return Markup("")
    count = len(held_out) + len(records) + 1
    step = (WIDE - RIGHT - LEFT - 24) / max(count - 1, 1)

    def at_x(at: int) -> float:
        return LEFT + 12 + at * step

    def at_y(value: float) -> float:
        return TOP + (TALL - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [draw_axis_y(ticks(low, high), at_y, WIDE, "g")]
    parts += [_dot("past", at_x(at), at_y(e.mean), 3, f"{e.window}: {e.mean:.4g}, held out") for at, e in enumerate(held_out)]
    first = len(held_out) + 1
    parts.append(_limit([(at_x(first + at), at_y(r.highest)) for at, r in enumerate(records) if r.highest is not None], step))
    for at, record in enumerate(records):
        x, label, last = at_x(first + at), record.window.label, record is records[-1]
        if ESTIMATED in record.estimated:
            value = record.estimated[ESTIMATED]
            parts.append(_dot("estimate", x, at_y(value), 4, f"{label}: {value:.4g}, estimated without labels"))
        if record.error is not None and record.status != "awaiting_labels":
            kind = "alarm" if record.status == "alarm" else "now"
            parts.append(_dot(kind, x, at_y(record.error.mean), 6 if last else 3.5, f"{label}: {record.error.mean:.4g}"))
    if held_out:
        parts.append(draw_text(at_x(0), TALL - 8, held_out[0].window, "tick", "start"))
    parts.append(draw_text(at_x(first), TALL - 8, records[0].window.label, "tick", "middle"))
    if len(records) > 1:
        parts.append(draw_text(WIDE - RIGHT, TALL - 8, records[-1].window.label, "now-text", "end"))
    return make_svg(WIDE, TALL, parts, "Error by window: held out, watched, estimated without labels, and the alarm's limit")


def _range(held_out: Sequence[WindowError], records: Sequence[PerformanceRecord]) -> tuple[float, float]:
    values = [error.mean for error in held_out]
    for record in records:
        values += [record.error.mean] if record.error is not None else []
        values += [record.highest] if record.highest is not None else []
        values += [record.estimated[ESTIMATED]] if ESTIMATED in record.estimated else []
    if not values:
        return 0.0, 0.0
    margin = MARGIN * (max(values) - min(values)) or abs(max(values)) or 1.0
    return max(0.0, min(values) - margin), max(values) + margin


def _limit(points: Sequence[tuple[float, float]], step: float) -> str:
    """Draw what each window must exceed: small ones more."""
    half = min(step / 2, 20.0)
    lines = (f'<line class="limit" x1="{x - half:.1f}" x2="{x + half:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' for x, y in points)
    return "".join(lines)


def _dot(kind: str, x: float, y: float, radius: float, tip: str) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(tip)}</title></circle>'
