from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlops_links import MlflowRunLink, ReportLink, address_of, run_page

RUN = "0123456789abcdef" * 2
KEY: Any = SimpleNamespace(dag_id="nyc_flights.train")


def test_a_stored_report_opens_in_airflow() -> None:
    operator = SimpleNamespace(links={"Report": "nyc_flights/verdict/x/report.html"})
    assert ReportLink().get_link(operator, ti_key=KEY) == "/mlops/files/nyc_flights.train/nyc_flights/verdict/x/report.html"


def test_a_link_without_a_target_is_empty() -> None:
    assert ReportLink().get_link(SimpleNamespace(), ti_key=KEY) == ""


@pytest.mark.parametrize("uri", [f"sqlite:////data/mlflow.db#runs/{RUN}", f"runs:/{RUN}"])
def test_a_run_in_a_database_opens_where_its_ui_is(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    operator = SimpleNamespace(links={"MLflow run": uri})
    assert MlflowRunLink().get_link(operator, ti_key=KEY) == ""
    monkeypatch.setenv("MLFLOW_UI_URL", "http://127.0.0.1:5000/")
    assert MlflowRunLink().get_link(operator, ti_key=KEY) == f"http://127.0.0.1:5000/#/runs/{RUN}"


def test_an_address_is_left_as_it_is() -> None:
    page = f"https://mlflow.example/#/experiments/1/runs/{RUN}"
    assert address_of(page, dag_id="x.train") == page


def test_a_server_that_tasks_know_by_another_name_opens_by_the_name_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_UI_URL", "https://mlflow.example/")
    page = f"/#/experiments/1/runs/{RUN}"
    assert address_of(f"http://mlflow:5000{page}", dag_id="x.train") == f"https://mlflow.example{page}"
    assert address_of("http://mlflow:50001/x", dag_id="x.train") == "http://mlflow:50001/x"


def test_run_ids_are_quoted() -> None:
    assert run_page("a.train", "manual__2013-01-01T00:00:00+00:00") == (
        "/dags/a.train/runs/manual__2013-01-01T00%3A00%3A00%2B00%3A00"
    )
