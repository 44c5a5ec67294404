"""An evaluation and its details to a model card in Markdown (Mitchell et al. 2019, Model Cards for Model Reporting)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.core.metrics import METRICS
from mlops_tasks.core.report.html import environment, headline_sentence, order_contenders

if TYPE_CHECKING:
    from mlops_tasks.core.evaluation import Evaluation
    from mlops_tasks.core.report.details import Details


def render_model_card(evaluation: Evaluation, details: Details) -> str:
    """Render the card; its sections are the paper's, in its order (section 4)."""
    return (
        environment()
        .get_template("model_card.md.j2")
        .render(
            e=evaluation,
            d=details,
            contenders=order_contenders(evaluation),
            metrics=METRICS,
            headline_sentence=headline_sentence(evaluation),
            caveats=find_caveats(evaluation),
        )
    )


def find_caveats(evaluation: Evaluation) -> list[str]:
    """Name what this evaluation itself shows to be weak or unknown."""
    found = [f"A rule did not hold: {j.reason}." for j in evaluation.judgements if not j.passed]
    for table in evaluation.slices:
        small = [value for value in table.groups if value.rows < table.min_rows]
        count = len(small) + table.unlisted_values
        if count:
            found.append(
                f"{count} values of `{table.column}` have fewer than {table.min_rows:,} test rows: quality there is unknown."
            )
    for name, rows in evaluation.class_rows.items():
        if rows < 0.05 * evaluation.rows:
            found.append(f"Class `{name}` is rare: {rows:,} of {evaluation.rows:,} test rows.")
    found += [f"Not compared with {name}: {why}." for name, why in evaluation.absent.items()]
    days = (evaluation.test.end - evaluation.test.start).days
    found.append(f"Judged on {days} days of later data only; other seasons may differ, which drift monitoring watches.")
    return found
