from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi.core_api import security
from fastapi.testclient import TestClient

import mlops_files
from mlops_plugin import LazyApp, MlopsPlugin
from mlops_tasks.adapters.local_store import LocalStore

REPORT = "nyc_flights/verdict/x/report.html"


class Manager:
    """An auth manager that lets its user see one pipeline."""

    def is_authorized_dag(self, *, method: str, details: Any, **_: Any) -> bool:
        return method == "GET" and details.id.startswith("nyc_flights.")


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    store = LocalStore(tmp_path / "store")
    store.write(REPORT, b"<h1>report</h1>")
    store.write("nyc_flights/features/x/features.parquet", b"rows")
    store.write("nyc_flights/models/x/golden.json", b"rows")
    store.write("other/verdict/x/report.html", b"other's")
    (tmp_path / "secret.html").write_text("outside the store")
    monkeypatch.setattr(security, "get_auth_manager", Manager)
    monkeypatch.setattr("airflow.models.dag.DagModel.get_team_name", lambda _: None)
    app = mlops_files.build_app()
    app.dependency_overrides[mlops_files.open_store] = lambda: store
    with TestClient(app) as found:
        yield found


@pytest.fixture
def user(client: TestClient) -> TestClient:
    client.app.dependency_overrides[security.get_user] = object  # type: ignore[attr-defined] # an ASGI app
    return client


def test_nobody_sees_a_report_without_logging_in(client: TestClient) -> None:
    assert client.get(f"/nyc_flights.train/{REPORT}").status_code == 401


def test_a_user_sees_a_report_that_cant_act_for_them(user: TestClient) -> None:
    answer = user.get(f"/nyc_flights.train/{REPORT}")
    assert (answer.status_code, answer.text) == (200, "<h1>report</h1>")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_user_who_may_not_see_the_dag_is_refused(user: TestClient) -> None:
    assert user.get("/other.train/other/verdict/x/report.html").status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "other/verdict/x/report.html",
        "nyc_flights/../other/verdict/x/report.html",
        "nyc_flights/%2e%2e/other/verdict/x/report.html",
        "nyc_flights/%2e%2e/%2e%2e/secret.html",
        "nyc_flights//etc/passwd.html",
        "nyc_flights/features/x/features.parquet",
        "nyc_flights/models/x/golden.json",
        "nyc_flights/verdict/absent/report.html",
        "nyc_flights",
    ],
)
def test_nothing_but_the_pipelines_own_reports_is_shown(user: TestClient, path: str) -> None:
    answer = user.get(f"/nyc_flights.train/{path}")
    assert answer.status_code in {403, 404}
    assert "rows" not in answer.text
    assert "outside" not in answer.text
    assert "other's" not in answer.text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_reports_are_read_only(user: TestClient, method: str) -> None:
    assert user.request(method, f"/nyc_flights.train/{REPORT}").status_code == 405


def test_the_app_is_built_at_its_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 - the ASGI signature
        built.append(scope["path"])

    monkeypatch.setattr(mlops_files, "build_app", lambda: app)
    (mounted,) = MlopsPlugin.fastapi_apps
    assert isinstance(mounted["app"], LazyApp)
    lazy = LazyApp()
    assert built == []
    asyncio.run(lazy({"path": "/x"}, None, None))  # type: ignore[arg-type] # the fake app calls neither
    assert built == ["/x"]
