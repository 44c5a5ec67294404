"""The launcher that demo and tests share: starts, is healthy, runs a task, ends without a trace."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil
import pytest
from rich.console import Console

from demo import DemoError
from demo.airflow_process import PARTS, Airflow
from demo.following import follow_run, follow_windows
from demo.processes import Processes
from demo.rest import AirflowApi

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(180)]

DAG_FILE = """
import time
from datetime import UTC, datetime
from airflow.sdk import DAG, CronDataIntervalTimetable, task

with DAG(
    "probe", schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"), start_date=datetime(2013, 1, 1, tzinfo=UTC),
    catchup=False,
):
    @task
    def work(dag_run=None):
        wanted = dag_run.conf or {}
        if wanted.get("fail"):
            raise ValueError("broken on purpose")
        time.sleep(wanted.get("sleep", 0))

    work()
"""


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("launcher")
    for name in ("dags", "plugins"):
        (folder / name).mkdir()
    (folder / "dags" / "probe.py").write_text(DAG_FILE)
    with Airflow(folder / "airflow", dags=folder / "dags", plugins=folder / "plugins") as airflow:
        yield airflow


@pytest.fixture(scope="module")
def api(launched: Airflow) -> Iterator[AirflowApi]:
    with launched.api() as client:
        deadline = time.monotonic() + 60
        while "probe" not in client.dag_ids():
            assert time.monotonic() < deadline, client.import_errors()
            time.sleep(0.2)
        client.unpause("probe")
        yield client


def test_it_listens_on_loopback_alone(launched: Airflow) -> None:
    addresses = {
        connection.laddr.ip
        for processes in launched.processes.alive().values()
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_the_password_is_private_and_needed(launched: Airflow) -> None:
    assert stat.S_IMODE(launched.password_file.stat().st_mode) == 0o600
    assert len(launched.password) >= 16
    assert httpx.get(f"{launched.url}/api/v2/dags", trust_env=False).status_code == 401
    refused = AirflowApi(launched.url, "admin", "guess", patience_s=1)
    with pytest.raises(DemoError, match="refused the generated password"):
        refused.dag_ids()


def test_databases_and_secrets_are_private(launched: Airflow) -> None:
    for name in ("airflow.db", "airflow.cfg"):
        assert stat.S_IMODE((launched.home / name).stat().st_mode) == 0o600


def test_starting_again_changes_nothing(launched: Airflow) -> None:
    before = {name: launched.processes.find(name) for name in PARTS}
    launched.start()
    assert {name: launched.processes.find(name) for name in PARTS} == before


def test_a_run_is_triggered_once_under_its_id_and_followed(api: AirflowApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert api.trigger("probe", "once", {})
    assert not api.trigger("probe", "once", {})
    follow_run(api, "probe", "once", Console())
    assert "work: success" in capsys.readouterr().out


def test_a_failed_task_is_explained_by_its_page_and_log(api: AirflowApi, launched: Airflow) -> None:
    api.trigger("probe", "broken", {"fail": True})
    with pytest.raises(DemoError) as raised:
        follow_run(api, "probe", "broken", Console())
    assert f"{launched.url}/dags/probe/runs/broken/tasks/work" in str(raised.value)
    assert "ValueError: broken on purpose" in str(raised.value)


def test_a_backfill_is_followed_to_its_last_window(api: AirflowApi) -> None:
    days = [datetime(2013, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(3)]
    backfill = api.backfill("probe", days[0], days[-1], max_active_runs=2, conf={})
    runs = follow_windows(api, "probe", days, Console(), ended=lambda: api.backfill_done(backfill))
    assert sorted(run["data_interval_start"][:10] for run in runs) == ["2013-01-01", "2013-01-02", "2013-01-03"]
    assert {run["state"] for run in runs} == {"success"}
    assert api.running_backfill("probe") is None


def test_stop_ends_tasks_that_left_their_process_group(launched: Airflow, api: AirflowApi) -> None:
    api.trigger("probe", "long", {"sleep": 600})
    deadline = time.monotonic() + 60
    while [task["state"] for task in api.tasks("probe", "long")] != ["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    groups = {json.loads(path.read_text())["pid"] for path in launched.processes.folder.glob("*.pid")}
    assert groups == {process.pid for name in PARTS if (process := launched.processes.find(name))}
    ended = launched.stop()
    assert set(ended) >= set(PARTS)
    assert not [
        group for group in groups if psutil.pid_exists(group) and psutil.Process(group).status() != psutil.STATUS_ZOMBIE
    ]
    assert launched.processes.alive() == {}
    assert launched.stop() == {}


def test_stop_leaves_a_process_alone_whose_id_was_reused(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    processes = Processes(tmp_path)
    started = psutil.Process(stranger.pid).create_time() - 3600
    (tmp_path / "old.pid").write_text(json.dumps({"pid": stranger.pid, "started": started, "command": ["x"]}))
    assert processes.find("old") is None
    assert processes.stop() == {}
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_part_that_can_not_start_is_reported_with_its_log(launched: Airflow, tmp_path: Path) -> None:
    for name in ("airflow.db", "migrated"):  # making a database takes long and is not what is looked at
        shutil.copy(launched.home / name, tmp_path)
    broken = Airflow(tmp_path, dags=tmp_path, plugins=tmp_path, env={"AIRFLOW__CORE__EXECUTOR": "NoSuchExecutor"})
    with pytest.raises(DemoError, match=r"ended; its log .*scheduler\.log ends with:[\s\S]*NoSuchExecutor"):
        broken.start()
    broken.stop()
