"""What the experiment tracker must do, on SQLite and behind MLflow's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mlops_tasks.adapters.mlflow_client import connect
from mlops_tasks.adapters.mlflow_tracker import MlflowTracker
from tests.mlflow_database import fresh_uri

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.slow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return fresh_uri(tmp_path) if request.param == "sqlite" else str(request.getfixturevalue("mlflow_server"))


def test_a_second_try_goes_on_in_the_first_ones_run(uri: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    tracker = MlflowTracker(uri)
    ids = set()
    for steps in (range(5), range(3, 8)):
        with tracker.run("shop", "fingerprint", "train") as run:
            run.params({"width": 8})
            run.tags({"dataset": "d1"})
            for step in steps:
                run.metrics({"loss": float(step)}, step=step)
            run.artifact(tmp_path / "report.html", "reports")
        ids.add(run.run_id)
    (run_id,) = ids
    client = connect(uri)
    assert sorted(point.step for point in client.get_metric_history(run_id, "loss")) == list(range(8))
    found = client.get_run(run_id)
    assert (found.info.status, found.data.params, found.data.tags["dataset"]) == ("FINISHED", {"width": "8"}, "d1")
    assert [item.path for item in client.list_artifacts(run_id, "reports")] == ["reports/report.html"]
    shown = f"#/experiments/{found.info.experiment_id}/runs/{run_id}" if uri.startswith("http") else f"#runs/{run_id}"
    assert tracker.url(run_id).removeprefix(uri).lstrip("/") == shown
