"""Plot points to inline SVG whose colours and fonts are the page's own, so that it is right in light and dark.

Matplotlib draws with the placeholder colours of `TOKENS`; each is then replaced by a CSS variable.
"""

from __future__ import annotations

import io
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from mlops_tasks.core.curves import CalibrationBin, Curve, Grid, Histogram
    from mlops_tasks.core.importance import Importance
    from mlops_tasks.core.slices import Period, SliceTable

TOKENS = {
    "ink": "#010101",
    "muted": "#020202",
    "line": "#030303",
    "candidate": "#040404",
    "hgb": "#050505",
    "champion": "#060606",
    "constant": "#070707",
    "good": "#080808",
    "bad": "#090909",
    "surface": "#0a0a0a",
}
ORDER = ("candidate", "champion", "hgb", "constant")
TITLES = {"candidate": "Candidate", "hgb": "Gradient boosting", "champion": "Champion", "constant": "Constant"}
DASHES = {"candidate": "-", "hgb": (0, (5, 2)), "champion": (0, (1, 1.2)), "constant": (0, (3, 2, 1, 2))}
"""Models differ by dash as well as by colour, for those who don't see the colours."""

STYLE = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": TOKENS["line"],
    "axes.labelcolor": TOKENS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": TOKENS["line"],
    "grid.linewidth": 0.6,
    "xtick.color": TOKENS["line"],
    "ytick.color": TOKENS["line"],
    "xtick.labelcolor": TOKENS["muted"],
    "ytick.labelcolor": TOKENS["muted"],
    "text.color": TOKENS["ink"],
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
WIDTH, HEIGHT, WIDE = 5.2, 3.9, 10.8
ROW_HEIGHT = 0.27
MOST_SLICES = 24


class Drawing:
    """A figure being drawn and, afterwards, its SVG."""

    def __init__(self, width: float, height: float, name: str) -> None:
        """Open a figure of `width` x `height` inches; `name` keeps its ids apart from other figures'."""
        self.name = name
        self.figure = Figure(figsize=(width, height), layout="constrained")
        self.axes: Axes = self.figure.subplots()
        self.svg = ""

    def finish(self) -> None:
        """Write the SVG with CSS variables for colours."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        for token, placeholder in TOKENS.items():
            text = text.replace(placeholder, f"var(--{token})")
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text.replace("\n", " "), count=1)
        text = re.sub(r'(<svg[^>]*?) height="[^"]*pt"', r"\1", text, count=1)
        text = re.sub(r'(<svg[^>]*?) width="[^"]*pt"', r'\1 role="img"', text, count=1)
        text = re.sub(r'\bid="(?!m[0-9a-f]{8})([a-z]+(?:2d|3d)?_\d+)"', "", text)
        self.svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)


@contextmanager
def drawing(name: str, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Drawing]:
    """Open a figure in the report's style; its SVG is there when the block ends."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        made = Drawing(width, height, name)
        yield made
        made.finish()


def _models(points: Mapping[str, object]) -> list[str]:
    return [name for name in ORDER if name in points]


def draw_lines(name: str, lines: Mapping[str, Curve], x: str, y: str, *, diagonal: bool, labels: Mapping[str, str]) -> str:
    """Draw one curve per model in the unit square."""
    with drawing(name) as made:
        axes = made.axes
        if diagonal:
            axes.plot([0, 1], [0, 1], color=TOKENS["constant"], linewidth=1, linestyle=(0, (2, 3)))
        for model in reversed(_models(lines)):
            axes.plot(lines[model].x, lines[model].y, color=TOKENS[model], linestyle=DASHES[model], label=labels[model])
        axes.set(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.02))
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], texts[::-1], loc="lower right" if diagonal else "best")
    return made.svg


def draw_calibration(bins: Mapping[str, Sequence[CalibrationBin]], x: str, y: str) -> str:
    """Draw predicted against observed share, with 95% intervals for the candidate."""
    with drawing("calibration") as made:
        axes = made.axes
        axes.plot([0, 1], [0, 1], color=TOKENS["constant"], linewidth=1, linestyle=(0, (2, 3)))
        for model in reversed(_models(bins)):
            points = bins[model]
            predicted, observed = [b.predicted for b in points], [b.observed for b in points]
            if model == "candidate":
                spread = [[b.observed - b.low for b in points], [b.high - b.observed for b in points]]
                axes.errorbar(predicted, observed, yerr=spread, fmt="none", ecolor=TOKENS[model], elinewidth=1.2, alpha=0.7)
            marker = "o" if model == "candidate" else None
            axes.plot(
                predicted,
                observed,
                color=TOKENS[model],
                linestyle=DASHES[model],
                marker=marker,
                markersize=4.5,
                label=TITLES[model],
            )
        top = min(1.0, 1.08 * max(max(b.predicted, b.high) for points in bins.values() for b in points))
        axes.set(xlabel=x, ylabel=y, xlim=(0, top), ylim=(0, top))
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], texts[::-1], loc="upper left")
    return made.svg


def draw_histogram(name: str, histogram: Histogram, x: str, threshold: float | None = None) -> str:
    """Draw counts per bin as shares of each series, so that a rare class is as visible as a common one."""
    colors = [TOKENS["constant"], TOKENS["candidate"], TOKENS["hgb"]]
    with drawing(name) as made:
        axes = made.axes
        colors = colors if len(histogram.counts) > 1 else [TOKENS["candidate"]]
        for (label, counts), color in zip(histogram.counts.items(), colors, strict=False):
            total = sum(counts) or 1
            shares = [count / total for count in counts]
            axes.stairs(shares, histogram.edges, fill=True, color=color, alpha=0.28)
            axes.stairs(shares, histogram.edges, color=color, linewidth=1.6, label=f"{label} ({sum(counts):,} rows)")
        if threshold is not None:
            axes.axvline(
                threshold, color=TOKENS["ink"], linewidth=1.1, linestyle=(0, (3, 2)), label=f"threshold {threshold:.3f}"
            )
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(xlabel=x, ylabel="share of rows", xlim=(histogram.edges[0], histogram.edges[-1]), ylim=(0, None))
        axes.legend(loc="best")
    return made.svg


def draw_periods(periods: Sequence[Period], unit: str, metric: str) -> str:
    """Draw one metric over the test range, with rows a period below it."""
    with drawing("periods", WIDE, 3.3) as made:
        axes = made.axes
        at = list(range(len(periods)))
        for model in reversed([name for name in ORDER if name in periods[0].by_model and name != "constant"]):
            values = [float("nan") if (v := p.by_model[model]) is None else v for p in periods]
            axes.plot(
                at,
                values,
                color=TOKENS[model],
                linestyle=DASHES[model],
                marker="o",
                markersize=3.2,
                label=TITLES[model],
                zorder=3,
            )
        rows = axes.twinx()
        rows.bar(at, [p.rows for p in periods], color=TOKENS["constant"], alpha=0.18, width=0.72, linewidth=0)
        rows.set_ylim(0, max(p.rows for p in periods) * 4)
        rows.set_axis_off()
        step = max(1, len(periods) // 10)
        axes.set_xticks(
            at[::step], [p.start[5:16].replace("T", " ") if unit == "hour" else p.start[:10] for p in periods[::step]]
        )
        axes.set(ylabel=metric, xlim=(-0.7, len(periods) - 0.3))
        axes.grid(visible=False, axis="x")
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], texts[::-1], loc="upper center", bbox_to_anchor=(0.5, 1.16), ncols=4)
    return made.svg


def draw_importance(found: Sequence[Importance], metric: str, verb: str) -> str:
    """Draw how much the metric worsens without each column."""
    shown = list(found)[:MOST_SLICES][::-1]
    with drawing("importance", WIDTH, max(1.6, 0.75 + ROW_HEIGHT * len(shown))) as made:
        axes = made.axes
        axes.barh([i.column for i in shown], [i.worsening for i in shown], color=TOKENS["candidate"], height=0.62, alpha=0.85)
        axes.errorbar(
            [i.worsening for i in shown],
            range(len(shown)),
            xerr=[i.spread for i in shown],
            fmt="none",
            ecolor=TOKENS["ink"],
            elinewidth=1,
        )
        axes.axvline(0, color=TOKENS["muted"], linewidth=0.8)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0, labelcolor=TOKENS["ink"])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel=f"{metric} {verb} by, when shuffled")
    return made.svg


def draw_slice(table: SliceTable) -> str:
    """Draw each group's metric with its interval, and the floor."""
    shown = [v for v in table.groups if v.estimate.value is not None][:MOST_SLICES][::-1]
    with drawing(f"slice-{table.column}", WIDTH, max(1.5, 0.8 + ROW_HEIGHT * len(shown))) as made:
        axes = made.axes
        for at, value in enumerate(shown):
            point, low, high = value.estimate.value, value.estimate.low, value.estimate.high
            color = (
                TOKENS["bad"] if not value.ok else TOKENS["candidate"] if value.rows >= table.min_rows else TOKENS["constant"]
            )
            if low is not None and high is not None:
                axes.plot([low, high], [at, at], color=color, linewidth=2.2, alpha=0.55)
            if point is not None:
                axes.plot([point], [at], marker="o", markersize=6, color=color)
        if table.floor is not None:
            axes.axvline(table.floor, color=TOKENS["bad"], linewidth=1.2, linestyle=(0, (4, 2)))
        axes.set_yticks(range(len(shown)), [f"{v.value}  ({v.rows:,})" for v in shown])
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.tick_params(axis="y", length=0, labelcolor=TOKENS["ink"])
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set(xlabel=table.metric)
    return made.svg


def draw_grid(grid: Grid, x: str, y: str) -> str:
    """Draw counts by two values as cells, darker with more rows."""
    most = max(max(row) for row in grid.counts)
    cells, colors = [], []
    for row, counts in enumerate(grid.counts):
        for column, count in enumerate(counts):
            if count:
                left, right = grid.x_edges[column : column + 2]
                low, high = grid.y_edges[row : row + 2]
                cells.append([(left, low), (right, low), (right, high), (left, high)])
                colors.append(to_rgba(TOKENS["candidate"], 0.12 + 0.88 * (count / most) ** 0.5))
    with drawing("grid") as made:
        axes = made.axes
        axes.add_collection(PolyCollection(cells, facecolors=colors, linewidths=0))
        axes.plot(
            grid.x_edges[:: len(grid.x_edges) - 1],
            grid.y_edges[:: len(grid.y_edges) - 1],
            color=TOKENS["ink"],
            linewidth=1,
            linestyle=(0, (4, 3)),
        )
        axes.set(xlabel=x, ylabel=y, xlim=(grid.x_edges[0], grid.x_edges[-1]), ylim=(grid.y_edges[0], grid.y_edges[-1]))
    return made.svg
