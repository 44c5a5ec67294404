"""An evaluation and its details to the report's HTML: headline, reasons, figures, plots, method."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from mlops_tasks.artifacts import digest_of
from mlops_tasks.core.gates import figures, shown
from mlops_tasks.core.metrics import METRICS

if TYPE_CHECKING:
    from mlops_tasks.core.bootstrap import Estimate
    from mlops_tasks.core.evaluation import Contender, Evaluation
    from mlops_tasks.core.report.details import Details

TITLES = {"candidate": "Candidate", "hgb": "Gradient boosting", "champion": "Champion", "constant": "Constant"}
ORDER = ("candidate", "champion", "hgb", "constant")


def environment() -> Environment:
    """Return the templates' environment: HTML escaped, an unknown name is an error."""
    found = Environment(
        loader=PackageLoader("mlops_tasks.core.report"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["estimate"] = say_estimate
    found.filters["share"] = lambda part, whole: f"{part / whole:.1%}" if whole else "-"
    return found


def say_estimate(estimate: Estimate, *, signed: bool = False) -> str:
    """Write a value with its interval."""
    if estimate.value is None:
        return "-"
    text = figures(estimate.value)[0]
    if not signed:
        return shown(estimate, text)
    decimals = len(text.partition(".")[2]) + 1
    lead = f"{estimate.value:+,.{decimals}f}"
    return lead if estimate.low is None else f"{lead} [{estimate.low:+,.{decimals}f}, {estimate.high:+,.{decimals}f}]"


def order_contenders(evaluation: Evaluation) -> list[Contender]:
    """Return the models in the order of tables and legends."""
    return sorted(evaluation.contenders, key=lambda contender: ORDER.index(contender.name))


def better_class(contender: Contender, metric: str) -> str:
    """Tell whether the candidate is surely `better` or `worse` than a contender, or the interval spans zero (``)."""
    difference = contender.difference.get(metric)
    if difference is None or difference.low is None or difference.high is None:
        return ""
    low, high = difference.low, difference.high
    if not METRICS[metric].greater_is_better:
        low, high = -high, -low
    return "better" if low > 0 else "worse" if high < 0 else ""


def draw_plots(evaluation: Evaluation) -> dict[str, Markup]:
    """Draw every plot of the task; name -> SVG."""
    # Matplotlib takes a second to import, which only the report should cost.
    from mlops_tasks.core.report import charts  # noqa: PLC0415

    found = _draw_regression(evaluation) if evaluation.task == "regression" else _draw_classes(evaluation)
    found["periods"] = charts.draw_periods(evaluation.periods, evaluation.period_unit, evaluation.headline)
    verb = "falls" if METRICS[evaluation.headline].greater_is_better else "rises"
    if evaluation.importance:
        found["importance"] = charts.draw_importance(evaluation.importance, evaluation.headline, verb)
    for at, table in enumerate(evaluation.slices):
        if any(value.estimate.value is not None for value in table.groups):
            found[f"slice{at}"] = charts.draw_slice(table)
    return {name: Markup(svg) for name, svg in found.items()}  # noqa: S704 - our own drawing; texts in it are escaped by Matplotlib


def _draw_regression(evaluation: Evaluation) -> dict[str, str]:
    from mlops_tasks.core.report import charts  # noqa: PLC0415 - as above

    plots, found = evaluation.plots, {}
    if plots.residuals is not None and plots.predicted_actual is not None:
        found["residuals"] = charts.draw_histogram("residuals", plots.residuals, "predicted minus actual")
        found["predicted_actual"] = charts.draw_grid(plots.predicted_actual, "predicted", "actual")
    return found


def _draw_classes(evaluation: Evaluation) -> dict[str, str]:
    from mlops_tasks.core.report import charts  # noqa: PLC0415 - as above

    plots, several = evaluation.plots, evaluation.task == "multiclass"
    threshold = next(contender.threshold for contender in evaluation.contenders if contender.name == "candidate")
    axes = ("confidence", "share right") if several else ("predicted probability", "observed share")
    found = {"calibration": charts.draw_calibration(plots.calibration, *axes)}
    if plots.scores is not None:
        axis = "confidence in the decided class" if several else f"predicted probability of {evaluation.classes[1]}"
        found["scores"] = charts.draw_histogram("scores", plots.scores, axis, threshold)
    if not several:
        auc, precision = _legend(evaluation, "roc_auc", "AUC"), _legend(evaluation, "average_precision", "AP")
        rates = ("false positive rate", "true positive rate")
        found["roc"] = charts.draw_lines("roc", plots.roc, *rates, diagonal=True, labels=auc)
        found["precision_recall"] = charts.draw_lines(
            "pr", plots.precision_recall, "recall", "precision", diagonal=False, labels=precision
        )
    return found


def _legend(evaluation: Evaluation, metric: str, short: str) -> dict[str, str]:
    return {c.name: f"{TITLES[c.name]}, {short} {c.metrics[metric].value or 0.0:.3f}" for c in evaluation.contenders}


def render_report(evaluation: Evaluation, details: Details) -> str:
    """Render the report as one HTML file that loads nothing else."""
    style = files("mlops_tasks.core.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            e=evaluation,
            d=details,
            style=Markup(style),  # noqa: S704 - a file of this package
            plots=draw_plots(evaluation),
            contenders=order_contenders(evaluation),
            titles=TITLES,
            metrics=METRICS,
            better_class=better_class,
            headline_sentence=headline_sentence(evaluation),
        )
    )


def layout_digest() -> str:
    """Identify how reports look: the digest of this package's code and templates."""
    package = files("mlops_tasks.core.report")
    found = [*package.iterdir(), *package.joinpath("templates").iterdir()]
    return digest_of({entry.name: entry.read_text(encoding="utf-8") for entry in found if entry.is_file()})


def headline_sentence(evaluation: Evaluation) -> str:
    """Say the verdict in one sentence."""
    asked = len(evaluation.judgements)
    failed = sum(not judgement.passed for judgement in evaluation.judgements)
    if not asked:
        return "No gate is set, so nothing was asked of this model."
    if failed:
        return f"{failed} of {asked} rules failed."
    return f"All {asked} rules hold." if asked > 1 else "The one rule holds."
