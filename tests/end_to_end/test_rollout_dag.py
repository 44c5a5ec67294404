"""The DAG `.rollout` under a real Airflow: a person is asked once, and checks go on meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from demo.airflow_process import Airflow
from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.core.request_log import segment_key
from mlops_tasks.core.rollout.answers import empty_log
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.end_to_end.flights import ROOT, wait
from tests.fakes import make_ports
from tests.judged_models import make_verdict
from tests.mlflow_database import fresh_uri
from tests.served_pipeline import PIPELINE
from tests.unit.core.test_rollout import rows

if TYPE_CHECKING:
    from pathlib import Path

    from demo.rest import AirflowApi

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(900)]
DAG = "shop.rollout"


def write_pipeline(folder: Path) -> None:
    folder.mkdir(parents=True)
    spec = PIPELINE.model_dump(mode="json", include={"name", "schedule", "features", "collect"})
    spec["schedule"]["start"] = "2024-01-01T00:00:00Z"
    # No check by itself within a century: the test starts them.
    spec["serve"] = {"challenger": {"mode": "canary", "min_requests": 300, "min_age": "1s", "check": "36500d"}}
    spec["deploy"] = {"promote": "ask"}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(spec), encoding="utf-8")
    (folder / "features.sql").write_text("SELECT * FROM sales", encoding="utf-8")


def put_on_trial(folder: Path, registry: MlflowRegistry) -> None:
    ports = make_ports(folder, registry=registry)
    ports = replace(ports, run=replace(ports.run, trial=True))
    for days in (30, 60):
        verdict = make_verdict(ports.store, days=days, bias=days / 100)
        against = {"champion_version": registry.alias("shop", "champion")}
        deploy.run(DeploySpec(), verdict.model_copy(update=against), ports=ports)


def answer(store: LocalStore, records: list[dict[str, Any]]) -> None:
    now = datetime.now(UTC)
    table = pa.Table.from_pylist([row | {"prediction_time": now} for row in records], schema=empty_log().schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    assert store.create(segment_key("shop", now.date(), f"s{now:%H%M%S%f}"), sink.getvalue().to_pybytes())


def check(api: AirflowApi, run_id: str, wanted: dict[str, str]) -> None:
    """Start a check and wait until its tasks are as they should be."""
    at = datetime.now(UTC) - timedelta(days=1)
    assert api.trigger(DAG, run_id, {}, logical_date=at)
    wait(lambda: states(api, run_id) == wanted or "failed" in states(api, run_id).values(), 300)
    assert states(api, run_id) == wanted


def states(api: AirflowApi, run_id: str) -> dict[str, str]:
    return {task["task_id"]: task["state"] for task in api.tasks(DAG, run_id)}


def test_a_person_is_asked_once_and_a_bad_challenger_withdrawn_meanwhile(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "pipelines" / "shop")
    uri = fresh_uri(tmp_path / "mlflow")
    registry, store = MlflowRegistry(uri), LocalStore(tmp_path / "store")
    put_on_trial(tmp_path, registry)
    answer(store, rows(1, 1000) + rows(2, 400))
    env = {"MLOPS_STORE": str(tmp_path / "store"), "MLOPS_PIPELINES": str(tmp_path / "pipelines"), "MLFLOW_TRACKING_URI": uri}
    airflow = Airflow(tmp_path / "airflow", dags=ROOT / "dags", plugins=ROOT / "plugins", env=env, cwd=tmp_path)
    with airflow, airflow.api() as api:
        wait(lambda: DAG in api.dag_ids(), 120)
        api.unpause(DAG)
        check(api, "asks", {"judge": "success", "approve": "awaiting_input", "settle": None})  # type: ignore[dict-item]  # not begun
        check(api, "asks-not-again", {"judge": "success", "approve": "skipped", "settle": "skipped"})
        assert [registry.alias("shop", alias) for alias in ("champion", "challenger")] == [1, 2]
        answer(store, [row | {"prediction_id": f"slow{row['prediction_id']}"} for row in rows(2, 600, latency_ms=9.0)])
        check(api, "withdraws", {"judge": "success", "approve": "skipped", "settle": "success"})
        assert [registry.alias("shop", alias) for alias in ("champion", "challenger")] == [1, None]
        assert "its 95th percentile takes 9 ms" in registry.history("shop")[-1]["reason"]
        path = f"/dags/{DAG}/dagRuns/asks/taskInstances/approve/-1/hitlDetails"
        api.send("PATCH", path, {"chosen_options": ["Approve"], "params_input": {}})
        wait(lambda: states(api, "asks")["settle"] in {"success", "failed"}, 300)
        assert states(api, "asks")["settle"] == "success"
        assert registry.alias("shop", "champion") == 1, "who says yes too late promotes nobody"
