"""What the loop achieved, as tables: data, model against its baselines, drift, addresses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table

from mlops_tasks.loading import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from demo.predictions import Answers
    from demo.rest import AirflowApi
    from demo.services import Services

FACTS = "facts"
RESULT = "return_value"
METRIC = "roc_auc"


@dataclass(frozen=True)
class Results:
    """What runs handed on, read through Airflow and from the store."""

    api: AirflowApi
    store: Path

    def facts(self, run: tuple[str, str], task: str) -> dict[str, Any]:
        """Return the figures that a task of a run handed on; nothing if it has none."""
        return self.api.xcom(*run, task, FACTS) or {}

    def records(self, run: tuple[str, str], task: str) -> list[dict[str, Any]]:
        """Return the artifacts that a task of a run published."""
        handle = self.api.xcom(*run, task, RESULT)
        found: list[dict[str, Any]] = json.loads((self.store / handle["uri"]).read_bytes())["results"] if handle else []
        return found

    def file(self, artifact: dict[str, Any], name: str) -> Path:
        """Return the path of one of an artifact's files."""
        keys: list[str] = [ref["key"] for ref in artifact["files"]]
        return self.store / next(key for key in keys if key.endswith(f"/{name}"))


def print_summary(
    services: Services,
    results: Results,
    console: Console,
    *,
    trained: Sequence[tuple[tuple[str, str], Answers]],
    ingested: Sequence[tuple[str, str]],
    monitored: Sequence[tuple[str, str]],
) -> None:
    """Print it all. Runs are given as DAG id and run id; trainings with what was served after each."""
    console.print()
    console.print(_data(results, [run for run, _ in trained], ingested))
    for run, answers in trained:
        console.print(_model(results, run, answers))
    ignored = load_pipeline(trained[0][0][0].partition(".")[0], services.pipelines).monitor.ignore
    console.print(_drift(results, monitored, ignored))
    console.print(_addresses(services, results, trained[-1][0]))
    console.print("All of it keeps running: [bold]make stop[/] ends it, [bold]make demo[/] goes on from here.")


def _data(results: Results, trainings: Sequence[tuple[str, str]], ingested: Sequence[tuple[str, str]]) -> Table:
    table = _table("Data", "windows", "rows", "rejected")
    sources = [
        ("first training", trainings[:1], "ingest.preprocess"),
        ("days after it", ingested, "preprocess"),
        ("the whole year", trainings[-1:], "ingest.preprocess"),
    ]
    for title, runs, task in sources:
        facts = [results.facts(run, task) for run in runs]
        sums = (sum(int(f.get(name, 0)) for f in facts) for name in ("windows", "rows", "rejected"))
        table.add_row(title, *(f"{value:,}" for value in sums))
    return table


def _model(results: Results, training: tuple[str, str], answers: Answers) -> Table:
    deployed = results.facts(training, "deploy")
    verdict = next(iter(results.records(training, "evaluate")), None)
    title = (
        f"Model {deployed.get('model', '?')} version {deployed.get('version', '?')} ({deployed.get('alias', 'not registered')})"
    )
    table = _table(title, "ROC AUC on held-out days", "95% interval")
    if verdict is not None:
        for contender in json.loads(results.file(verdict, "evaluation.json").read_bytes())["contenders"]:
            estimate = contender["metrics"].get(METRIC, {})
            table.add_row(contender["name"], _number(estimate.get("value")), _interval(estimate))
    served = f"{len(answers.scores)} real rows answered by version {answers.version}, {answers.milliseconds:.1f} ms a request"
    likely, unlikely = answers.late_share(likely=True), answers.late_share(likely=False)
    table.caption = f"{served}; of the half with higher scores {likely:.0%} came true, of the other {unlikely:.0%}"
    table.caption_justify = "left"
    return table


def _drift(results: Results, monitored: Sequence[tuple[str, str]], ignored: Sequence[str]) -> Table:
    table = _table("Drift", "status", "what moved most")
    for run in monitored:
        for report in results.records(run, "monitor")[-1:]:  # before it stand windows whose labels came meanwhile
            watched = [c for c in report["columns"] if c["column"] not in ignored]
            moved = max(watched, key=lambda c: c["standardised"], default=None)
            column = f"{moved['column']} ({moved['standardised']:.1f} robust sd)" if moved else ""
            table.add_row(report["window"]["start"][:10], report["status"], column)
    return table


def _addresses(services: Services, results: Results, training: tuple[str, str]) -> Table:
    table = _table("Addresses", "")
    table.add_row("Airflow", services.airflow.url)
    table.add_row("  password of admin", f"in {services.airflow.password_file}")
    table.add_row("the training run", f"{services.airflow.url}/dags/{training[0]}/runs/{training[1]}")
    table.add_row("MLflow", services.url("mlflow"))
    table.add_row("model server", services.url("server"))
    for verdict in results.records(training, "evaluate"):
        table.add_row("evaluation report", str(results.file(verdict, "report.html")))
    table.add_row("store", str(results.store))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table("", title=title, title_justify="left", title_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(estimate: dict[str, Any]) -> str:
    low, high = estimate.get("low"), estimate.get("high")
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
