"""A matrix and its summary to one HTML page that loads nothing else."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mlops_tasks.core.metrics import METRICS
from mlops_tasks.core.walk_forward.charts import draw_ages, draw_heat_map, draw_paths
from mlops_tasks.core.walk_forward.matrix import measure_ages
from mlops_tasks.core.walk_forward.policies import served_periods

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_tasks.artifacts import Window
    from mlops_tasks.core.walk_forward.matrix import By, Matrix, Summary
    from mlops_tasks.core.walk_forward.policies import Played, Recommendation

UNITS: dict[By, str] = {"window": "windows", "week": "weeks", "month": "months"}


def render_walk_forward(matrix: Matrix, summary: Summary) -> str:
    """Return the page; the same matrix gives the same bytes."""
    labels = [label_of(period, matrix.by) for period in matrix.periods]
    compared = {period: at for at, period in enumerate(summary.periods)}

    def along(values: tuple[float, ...]) -> list[float | None]:
        return [values[compared[p]] if p in compared else None for p in matrix.periods]

    paths = [(path.name, along(path.values)) for path in (summary.retrained, summary.frozen)]
    page: str = template("walk_forward.html.j2").render(
        matrix=matrix,
        summary=summary,
        title=METRICS[matrix.metric].title,
        unit=UNITS[matrix.by],
        label_of=lambda period: label_of(period, matrix.by),
        paths_chart=draw_paths(paths, labels, METRICS[matrix.metric].title),
        path_names=[name for name, _ in paths],
        heat_map=draw_heat_map(matrix, labels),
        ages_chart=draw_ages(summary.ages, UNITS[matrix.by]),
    )
    return page


def render_policies(
    matrix: Matrix, policies: Sequence[Played], controller: Played, recommendation: Recommendation, facts: Mapping[str, object]
) -> str:
    """Return the page of policies, the pipeline's own among them; `facts`: `alarms`, `waited` and `within`."""
    periods = served_periods(matrix)
    labels = [label_of(period, matrix.by) for period in periods]
    best = min(policies, key=lambda played: played.behind)
    wanted = dict.fromkeys([controller.name, "never", recommendation.policy, best.name])
    by_name = {played.name: played for played in policies}
    drawn = [by_name[name] for name in wanted]
    page: str = template("policy.html.j2").render(
        matrix=matrix,
        periods=periods,
        policies=policies,
        controller=controller,
        recommendation=recommendation,
        title=METRICS[matrix.metric].title,
        unit=UNITS[matrix.by],
        label_of=lambda period: label_of(period, matrix.by),
        drawn=[played.name for played in drawn],
        paths_chart=draw_paths([(p.name, p.path.values) for p in drawn], labels, METRICS[matrix.metric].title),
        ages_chart=draw_ages(list(measure_ages(matrix)), UNITS[matrix.by]),
        **facts,
    )
    return page


def label_of(period: Window, by: By) -> str:
    """Name a period for people."""
    return f"{period.start:%Y-%m}" if by == "month" else period.label


@cache
def template(name: str) -> Template:
    """Return a template of this package: HTML escaped, an unknown name is an error."""
    environment = Environment(
        loader=PackageLoader("mlops_tasks.core.walk_forward"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
