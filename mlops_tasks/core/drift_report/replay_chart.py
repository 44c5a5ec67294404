"""A replayed history to inline SVG in the page's own colours."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from mlops_tasks.core.drift_report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDE, draw_axis_y, draw_text, make_svg, ticks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mlops_tasks.core.drift_backtest import Replayed

SHOWN = 3.0
"""Times the highest threshold: points beyond it are drawn at the top."""


def draw_replay(judged: Sequence[Replayed]) -> Markup:
    """Draw each window's largest standardised distance and, as a line, what it had to exceed to alarm."""
    limits = [item.score.threshold for item in judged if math.isfinite(item.score.threshold)]
    highest = max([1.0, *(item.score.maximum for item in judged)])
    top = 1.08 * min(highest, SHOWN * max(limits)) if limits else 1.08 * highest
    step = (WIDE - RIGHT - LEFT - 16) / max(len(judged), 1)

    def at_x(at: int) -> float:
        return LEFT + 8 + at * step

    def at_y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(value, 0.0), top) / top)

    parts = [draw_axis_y(ticks(0, top), at_y, WIDE, "g"), _line(judged, at_x, at_y)]
    for at, item in enumerate(judged):
        kind, size = ("alarm", 4) if item.record.alarm else ("past", 3)
        named = f": {item.score.alarmed[0].column}" if item.score.alarmed else ""
        tip = f"<title>{escape(item.record.window.label)}{escape(named)}, {item.score.maximum:.1f}</title>"
        parts.append(
            f'<circle class="{kind}" cx="{at_x(at):.1f}" cy="{at_y(item.score.maximum):.1f}" r="{size}">{tip}</circle>'
        )
    for at in sorted({0, len(judged) // 2, len(judged) - 1} & set(range(len(judged)))):
        anchor = "start" if at == 0 else "end" if at == len(judged) - 1 else "middle"
        parts.append(draw_text(at_x(at), HEIGHT - 8, judged[at].record.window.label, "tick", anchor))
    return make_svg(WIDE, HEIGHT, parts, "Largest standardised distance of each window, and what alarms")


def _line(judged: Sequence[Replayed], at_x: Callable[[int], float], at_y: Callable[[float], float]) -> str:
    """Draw the threshold, which moves with what is accepted."""
    points = [
        f"{at_x(at):.1f},{at_y(item.score.threshold):.1f}"
        for at, item in enumerate(judged)
        if math.isfinite(item.score.threshold)
    ]
    return f'<polyline class="limit" fill="none" points="{" ".join(points)}"/>' if points else ""
