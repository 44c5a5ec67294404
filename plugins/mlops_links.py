"""What a stage's outcome points at to links on its task in Airflow's UI."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink, conf

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

FILES_PREFIX = "/mlops/files"


class _StageLink(BaseOperatorLink):
    """A button that opens one entry of `operator.links`; greyed out where the outcome has none."""

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the address, or nothing."""
        links: dict[str, str] = getattr(operator, "links", {})
        found = {_normal(name): target for name, target in links.items()}.get(_normal(self.name))
        return address_of(found, dag_id=ti_key.dag_id) if found else ""


class MlflowRunLink(_StageLink):
    """The training's run in MLflow: parameters, curves, model."""

    name = "MLflow run"


class DataDocsLink(_StageLink):
    """Great Expectations' page on what was checked."""

    name = "Data Docs"


class ReportLink(_StageLink):
    """The evaluation's or the monitor's report."""

    name = "Report"


class TrainingRunLink(_StageLink):
    """The run of `.train` that a monitor started."""

    name = "Training run"


class AcknowledgeLink(BaseOperatorLink):
    """The DAG by which a person calls an alarmed window in order."""

    name = "Acknowledge"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address."""
        return f"{_base_path()}/dags/{quote(ti_key.dag_id.rpartition('.')[0])}.acknowledge"


def address_of(target: str, *, dag_id: str) -> str:
    """Turn a URL, an MLflow run's URI or a key of the store into what a browser opens."""
    if re.match(r"https?://", target):
        return _for_browsers(target)
    run = re.search(r"\bruns:?/(?P<run>[0-9a-f]{32})|#(?P<fragment>[0-9a-f]{32})$", target)
    if run:
        return _mlflow_page(run["run"] or run["fragment"])
    return f"{_base_path()}{FILES_PREFIX}/{quote(dag_id)}/{quote(target)}"


def run_page(dag_id: str, run_id: str) -> str:
    """Return the address of a DAG run in Airflow's UI."""
    return f"{_base_path()}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"


def _for_browsers(url: str) -> str:
    """Lead to MLflow by MLFLOW_UI_URL where tasks know it by another name."""
    tasks, people = (os.environ.get(name, "").rstrip("/") for name in ("MLFLOW_TRACKING_URI", "MLFLOW_UI_URL"))
    return people + url.removeprefix(tasks) if people and tasks and url.startswith(f"{tasks}/") else url


def _mlflow_page(run_id: str) -> str:
    server = os.environ.get("MLFLOW_UI_URL", "").rstrip("/")
    return f"{server}/#/runs/{run_id}" if server else ""


def _base_path() -> str:
    return urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")


def _normal(name: str) -> str:
    return name.replace("_", " ").casefold()
