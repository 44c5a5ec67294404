"""Sketches and scores to inline SVG in the page's own colours; drawn by hand because matplotlib takes a second to import."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from mlops_tasks.core.drift import missing_shares, shares
from mlops_tasks.core.drift_report.bars import rebin

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_tasks.core.drift import Calibration, WindowScore
    from mlops_tasks.core.sketches import Categories, ColumnSketch, NumericBins

WIDE, WIDTH, HEIGHT = 1000, 500, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 12, 30
MOST_CATEGORIES = 12
ROW = 30
NAME_WIDTH = 120
FINE = 0.05
"""Axes that end below this share get a decimal."""


def draw_history(labels: Sequence[str], calibration: Calibration, window: str, score: WindowScore) -> Markup:
    """Draw the largest standardised distance of each training window, the threshold, and this window."""
    width, height = WIDE, HEIGHT
    maxima = calibration.maxima.tolist()
    limit = score.threshold if math.isfinite(score.threshold) else 0.0
    top = 1.08 * float(max([*maxima, score.maximum, limit, 1.0]))
    here = width - RIGHT - 10
    step = (here - LEFT - 50) / max(len(maxima), 1)

    def at_y(value: float) -> float:
        return TOP + (height - TOP - BOTTOM) * (1 - max(value, 0.0) / top)

    parts = [draw_axis_y(ticks(0, top), at_y, width, "g")]
    for k, value in enumerate(maxima):
        kind = "over" if value > limit > 0 else "past"
        tip = f"<title>{escape(labels[k])}: {value:.1f}</title>"
        parts.append(f'<circle class="{kind}" cx="{LEFT + 8 + k * step:.1f}" cy="{at_y(value):.1f}" r="3">{tip}</circle>')
    named = [k for k in (0, len(maxima) // 2) if k < len(maxima)]
    parts += [draw_text(LEFT + 8 + k * step, height - 8, labels[k], "tick", "middle" if k else "start") for k in named]
    if limit:
        y = at_y(limit)
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(draw_text(LEFT + 6, y - 5, f"alarm above {limit:.1f}", "limit-text", "start"))
    kind = "alarm" if score.status == "alarm" else "now"
    parts.append(f'<circle class="{kind}" cx="{here}" cy="{at_y(score.maximum):.1f}" r="6"/>')
    beside = at_y(score.maximum) + 4
    parts.append(draw_text(here - 12, beside, f"{score.maximum:.1f}", f"{kind}-text", "end"))
    parts.append(draw_text(width - RIGHT, height - 8, window, f"{kind}-text", "end"))
    return make_svg(width, height, parts, f"History of the largest standardised distance; this window: {score.maximum:.1f}")


def draw_numeric(layout: NumericBins, current: ColumnSketch, merged: ColumnSketch) -> Markup:
    """Draw shares of rows by value: training data as filled bars, the window as an outline."""
    found = rebin(layout, current, merged)
    if found is None:
        return Markup("")
    edges, then, now = found
    top = max(float(then.max()), float(now.max()), 1e-9) * 1.08
    low, high = float(edges[0]), float(edges[-1])

    def at_x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)

    def at_y(share: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - share / top)

    base = at_y(0)
    parts = [draw_axis_y(ticks(0, top), at_y, WIDTH, ".0%" if top > FINE else ".1%")]
    for k, share in enumerate(then.tolist()):
        x, wide = at_x(edges[k]), at_x(edges[k + 1]) - at_x(edges[k])
        y = at_y(share)
        parts.append(f'<rect class="then" x="{x + 0.5:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{base - y:.1f}"/>')
    path = [f"M{at_x(edges[0]):.1f} {base:.1f}"]
    for k, share in enumerate(now.tolist()):
        path.append(f"V{at_y(share):.1f}H{at_x(edges[k + 1]):.1f}")
    parts.append(f'<path class="now-line" d="{"".join(path)}V{base:.1f}"/>')
    parts += [draw_text(at_x(v), HEIGHT - 10, f"{v:,.6g}", "tick", "middle") for v in ticks(low, high)]
    return make_svg(WIDTH, HEIGHT, parts, "Shares of rows by value: training data and window")


def draw_categories(layout: Categories, current: ColumnSketch, merged: ColumnSketch) -> Markup:
    """Draw shares of the categories that differ most, training data above window, plus others and nulls where there are any."""
    names = [*layout.names, "(other)", "(null)"]
    now, then = (_with_null(sketch) for sketch in (current, merged))
    ranked = sorted(np.flatnonzero((now > 0) | (then > 0)).tolist(), key=lambda k: -abs(now[k] - then[k]))[:MOST_CATEGORIES]
    ranked.sort(key=lambda k: -then[k])
    top = max([float(max(now[k], then[k])) for k in ranked], default=1.0) * 1.02
    room = WIDTH - NAME_WIDTH - 60
    parts = []
    for row, k in enumerate(ranked):
        y = TOP + row * ROW
        parts.append(draw_text(NAME_WIDTH - 8, y + 16, _short(names[k]), "name", "end"))
        for kind, share, shift in (("then", then[k], 2), ("now-bar", now[k], 13)):
            wide = room * share / top
            parts.append(f'<rect class="{kind}" x="{NAME_WIDTH}" y="{y + shift}" width="{wide:.1f}" height="10" rx="2"/>')
            parts.append(draw_text(NAME_WIDTH + wide + 6, y + shift + 9, f"{share:.1%}", "value", "start"))
    return make_svg(WIDTH, TOP * 2 + ROW * max(len(ranked), 1), parts, "Shares of categories: training data and window")


def _with_null(sketch: ColumnSketch) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    null = float(missing_shares(sketch)[0])
    return np.append(shares(sketch)[0] * (1 - null), null)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round values within a range."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    raw = span / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next((m * size for m in (1, 2, 2.5, 5) if m * size >= raw), 10 * size)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step) + 1)]


def draw_axis_y(values: Sequence[float], at_y: Callable[[float], float], width: int, style: str) -> str:
    """Return grid lines with their values."""
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at_y(v):.1f}" y2="{at_y(v):.1f}"/>'
        + draw_text(LEFT - 8, at_y(v) + 4, f"{v:{style}}", "tick", "end")
        for v in values
    ]
    return "".join(lines)


def draw_text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    """Return a text of a class of the style sheet; `anchor`: start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def make_svg(width: int, height: int, parts: Sequence[str], label: str) -> Markup:
    """Return a drawing of parts whose texts are escaped; `label` is for those who don't see it."""
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')  # noqa: S704 - every text above is escaped
