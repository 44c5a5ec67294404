"""A backtest of the monitor to a self-contained HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.core.drift_report.page import open_template
from mlops_tasks.core.drift_report.replay_chart import draw_replay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_tasks.core.drift_backtest import Replayed


def render_backtest(found: Mapping[str, Any], judged: Sequence[Replayed]) -> str:
    """Return the page of what `mlops backtest drift --json` says; the same figures give the same bytes."""
    page: str = open_template("backtest.html.j2").render(found=found, chart=draw_replay(judged))
    return page
