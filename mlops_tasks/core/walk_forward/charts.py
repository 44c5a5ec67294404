"""A matrix and its summary to inline SVG in the page's own colours, drawn by hand as the drift report's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_tasks.core.walk_forward.matrix import Age, Matrix

WIDTH, HEIGHT = 1000, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 16, 40
CELL_HEIGHT = 26
MOST_LABELS = 14
WIDE_ENOUGH = 44
"""Cells at least so wide show their figure."""


def draw_heat_map(matrix: Matrix, labels: Sequence[str]) -> Markup:
    """Draw a row a model, a column a period; darker is worse than the period's best model, by the same scale everywhere."""
    best = {p: _best(matrix, p) for p in matrix.periods}
    gaps = {(c.version, c.period): _gap(matrix, c.metrics.get(matrix.metric, math.nan), best[c.period]) for c in matrix.cells}
    scale = max((gap for gap in gaps.values() if math.isfinite(gap)), default=0.0) or 1.0
    wide = (WIDTH - LEFT - RIGHT) / max(len(matrix.periods), 1)
    parts = []
    for row, model in enumerate(matrix.models):
        y = TOP + row * CELL_HEIGHT
        parts.append(_text(LEFT - 8, y + 17, f"v{model.version} {model.as_of:%m-%d}", "tick", "end"))
        for column, period in enumerate(matrix.periods):
            gap = gaps.get((model.version, period), math.nan)
            if not math.isfinite(gap):
                continue
            value = matrix.value(model.version, period) or 0.0
            x, share = LEFT + column * wide, gap / scale
            tip = f"<title>version {model.version}, {escape(labels[column])}: {matrix.metric} {value:.4f}</title>"
            box = f'x="{x + 1:.1f}" y="{y + 1}" width="{wide - 2:.1f}" height="{CELL_HEIGHT - 2}" rx="3"'
            parts.append(f'<rect class="heat" {box} style="--share:{share:.3f}">{tip}</rect>')
            if wide >= WIDE_ENOUGH:
                parts.append(_text(x + wide / 2, y + 17, f"{value:.3f}", "cell", "middle"))
    bottom = TOP + len(matrix.models) * CELL_HEIGHT
    parts += [_text(LEFT + (k + 0.5) * wide, bottom + 18, labels[k], "tick", "middle") for k in _some(len(labels))]
    return _svg(WIDTH, bottom + 28, parts, "Each model on each later period")


def _best(matrix: Matrix, period: object) -> float:
    found = [c.metrics.get(matrix.metric, math.nan) for c in matrix.cells if c.period == period]
    known = [value for value in found if math.isfinite(value)]
    if not known:
        return math.nan
    return max(known) if matrix.greater_is_better else min(known)


def _gap(matrix: Matrix, value: float, best: float) -> float:
    return best - value if matrix.greater_is_better else value - best


def draw_paths(paths: Sequence[tuple[str, Sequence[float | None]]], labels: Sequence[str], metric: str) -> Markup:
    """Draw a line a path over the periods; a period without a value breaks the line."""
    known = [value for _, values in paths for value in values if value is not None]
    low, high = _padded(known)
    step = (WIDTH - LEFT - RIGHT) / max(len(labels) - 1, 1)

    def at_y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [_axis(low, high, at_y)]
    for number, (name, values) in enumerate(paths):
        points = [(LEFT + k * step, at_y(v)) for k, v in enumerate(values) if v is not None]
        line = " ".join(f"{'M' if at == 0 else 'L'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
        parts.append(f'<path class="line line{number % 6}" d="{line}"/>')
        parts += [f'<circle class="dot dot{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
        del name
    parts += [_text(LEFT + k * step, HEIGHT - 14, labels[k], "tick", "middle") for k in _some(len(labels))]
    return _svg(WIDTH, HEIGHT, parts, f"{metric} by period")


def draw_ages(ages: Sequence[Age], unit: str) -> Markup:
    """Draw the cost of a model's age, with a standard error each way."""
    low, high = _padded([0.0, *(a.cost - (a.error or 0.0) for a in ages), *(a.cost + (a.error or 0.0) for a in ages)])
    step = (WIDTH - LEFT - RIGHT) / max(len(ages), 1)

    def at_y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [
        _axis(low, high, at_y),
        f'<line class="zero" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at_y(0):.1f}" y2="{at_y(0):.1f}"/>',
    ]
    points = []
    for k, age in enumerate(ages):
        x, y = LEFT + (k + 0.5) * step, at_y(age.cost)
        points.append((x, y))
        if age.error:
            ends = at_y(age.cost - age.error), at_y(age.cost + age.error)
            parts.append(f'<line class="error" x1="{x:.1f}" x2="{x:.1f}" y1="{ends[0]:.1f}" y2="{ends[1]:.1f}"/>')
        tip = f"<title>{age.periods} {escape(unit)}: {age.cost:.4f}, {age.compared} comparisons</title>"
        parts.append(f'<circle class="dot dot0" cx="{x:.1f}" cy="{y:.1f}" r="4">{tip}</circle>')
    line = " ".join(f"{'M' if at == 0 else 'L'}{x:.1f} {y:.1f}" for at, (x, y) in enumerate(points))
    parts.insert(1, f'<path class="line line0" d="{line}"/>')
    parts += [_text(LEFT + (k + 0.5) * step, HEIGHT - 14, str(ages[k].periods), "tick", "middle") for k in _some(len(ages))]
    return _svg(WIDTH, HEIGHT, parts, f"What a model's age costs, by {unit}")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.08 or max(abs(high), 1.0) * 0.05
    return low - room, high + room


def _axis(low: float, high: float, at_y: Callable[[float], float]) -> str:
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next((m * size for m in (1, 2, 2.5, 5) if m * size >= raw), 10 * size)
    digits = max(0, -math.floor(math.log10(step)) + (1 if step / size == 2.5 else 0))  # noqa: PLR2004 - has one digit more
    lines = []
    for k in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = at_y(k * step)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 8, y + 4, f"{k * step:.{digits}f}", "tick", "end"))
    return "".join(lines)


def _some(count: int) -> range:
    """Return which of many labels are written."""
    return range(0, count, max(1, math.ceil(count / MOST_LABELS)))


def _text(x: float, y: float, text: str, kind: str, anchor: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, parts: Sequence[str], label: str) -> Markup:
    body = "".join(parts)
    return Markup(f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{body}</svg>')  # noqa: S704 - every text above is escaped
