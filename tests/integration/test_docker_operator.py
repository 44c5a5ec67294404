"""Stages in real containers: what they give, what they may use, and what becomes of them when something dies."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from docker import APIClient
from mlops_container import LABEL, plan
from mlops_docker import ContainerLost, DockerStageOperator, StageCrashed
from mlops_operator import StageOperator
from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.caching import package_digest
from mlops_tasks.errors import StoreUnavailable
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner.assignment import assign, read_answer
from tests.integration import containers
from tests.integration.containers import DEPLOYMENT, LIBRARIES, build, context, operator, ours, wait
from tests.integration.tiny_pipeline import NAME, write_pipeline
from tests.requirements import give_up

pytestmark = [pytest.mark.docker, pytest.mark.slow]

FIRST = "0001/assignment.json"
SECRET = "hunter2-and-more"


@pytest.fixture(scope="module")
def client() -> APIClient:
    found = containers.engine()
    if found is None:
        give_up("no Docker engine answers at DOCKER_HOST")
    return found


@pytest.fixture(scope="module")
def puppet(client: APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    image = containers.puppet_image(client, tmp_path_factory.mktemp("puppet"))
    yield image
    client.remove_image(image, force=True)


@pytest.fixture(scope="module")
def real(client: APIClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An image that runs stages, and the mounts that it needs."""
    name = os.environ.get("MLOPS_IMAGE_SPARK") or "mlops-tasks/spark:latest"
    if client.images(name=name):
        labels = client.inspect_image(name)["Config"]["Labels"] or {}
        if labels.get(f"{LABEL}code") == package_digest():
            yield name, ""
            return
    image = containers.stage_image(client, tmp_path_factory.mktemp("stage"))
    yield image, LIBRARIES
    client.remove_image(image, force=True)


@dataclass
class Recorder:
    """A task's log: when each line came, its level and its text."""

    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def __getattr__(self, level: str) -> Any:
        def log(text: str, *values: object, **more: object) -> None:
            self.lines.append((time.monotonic(), level, text % values + "".join(f" {value}" for value in more.values())))

        return log

    @property
    def text(self) -> str:
        return "\n".join(text for _, _, text in self.lines)

    def has(self, text: str) -> bool:
        return any(line == text for _, _, line in self.lines)


@dataclass
class World:
    """The small pipeline, a store of its own and the environment of its tasks."""

    folder: Path
    patch: pytest.MonkeyPatch
    log: Recorder = field(default_factory=Recorder)

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "store")

    @property
    def state(self) -> Path:
        return self.folder / "state.json"

    def set(self, **variables: str) -> None:
        for name, value in variables.items():
            self.patch.setenv(name, value)

    def script(self, text: str) -> None:
        self.set(PUPPET=text)

    def grant(self, resources: str) -> None:
        file = self.folder / "pipelines" / NAME / "pipeline.yaml"
        file.write_text(file.read_text() + f"\nresources: {{collect: {{{resources}}}}}\n")

    def go(self) -> None:
        """Give the first try's container the sign that it waits for."""
        (self.folder / "store" / NAME / "tries" / "ingest-manual__r" / "collect" / "0001" / "go").touch()

    def context(self, number: int = 1, **given: Any) -> Any:
        return context(self.state, number, **given)


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: APIClient, puppet: str, request: pytest.FixtureRequest
) -> Iterator[World]:
    write_pipeline(tmp_path)
    world = World(tmp_path, monkeypatch)
    monkeypatch.setattr(DockerStageOperator, "log", world.log, raising=False)
    world.set(
        MLOPS_STORE=str(tmp_path / "store"),
        MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}",
        MLOPS_PIPELINES=str(tmp_path / "pipelines"),
        MLOPS_CODE_VERSION="test",
        MLOPS_DEPLOYMENT=DEPLOYMENT,
        MLOPS_IMAGE_SPARK=puppet,
        MLOPS_DOCKER_NETWORK="none",
        MLOPS_DOCKER_ENV="PUPPET",
        PUPPET="answer()",
    )
    yield world
    left = ours(client)
    for found in left:
        client.remove_container(found["Id"], force=True, v=True)
    assert not left, request.node.name


class Running:
    """A task that runs beside the test."""

    def __init__(self, given: Any) -> None:
        self.operator, self.context = operator(), given
        self.result: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self.operator.execute(self.context)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.result = error

    def join(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.result


def test_a_container_gives_the_bytes_of_the_process(
    world: World, real: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image, mounts = real
    data = f"{tmp_path / 'data'}:{tmp_path / 'data'}:ro"
    world.set(MLOPS_IMAGE_SPARK=image, MLOPS_DOCKER_MOUNTS=",".join(filter(None, (mounts, data))))
    handle = operator().execute(given := world.context())
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path / "other"))
    task = StageOperator(stage="collect", pipeline=load_pipeline(NAME), task_id="collect")
    alone = world.context()
    alone["ti"].start_date = given["ti"].start_date
    assert task.execute(alone) == handle
    assert given["ti"].pushed == alone["ti"].pushed == {"facts": {"windows": 3, "rows": 500, "duplicates": 0}}
    made = {f.relative_to(tmp_path / "store"): f.read_bytes() for f in (tmp_path / "store").rglob("*.parquet")}
    assert made
    assert made == {f.relative_to(tmp_path / "other"): f.read_bytes() for f in (tmp_path / "other").rglob("*.parquet")}
    assert "collect: 3 computed, 0 cached" in world.log.text


def test_a_failure_of_the_stage_ends_the_task_as_in_the_process(world: World, real: tuple[str, str], tmp_path: Path) -> None:
    """The container sees no data: they are not mounted."""
    image, mounts = real
    world.set(MLOPS_IMAGE_SPARK=image, MLOPS_DOCKER_MOUNTS=mounts)
    with pytest.raises((AirflowFailException, StoreUnavailable)) as caught:
        operator().execute(world.context())
    assert f"{tmp_path / 'data'}" in str(caught.value)


def test_lines_are_logged_as_they_come(world: World) -> None:
    world.script(
        "print('Zürich 1'); sys.stderr.write('on stderr\\n')\n"
        "while not os.path.exists(folder + '/go'): time.sleep(0.02)\n"
        "print('then'); answer()"
    )
    task = Running(world.context())
    wait(lambda: world.log.has("Zürich 1") and world.log.has("on stderr"))
    assert not world.log.has("then")
    world.go()
    assert task.join() == {"uri": "k", "digest": "d" * 64}
    assert world.log.has("then")
    assert {level for _, level, text in world.log.lines if text in {"Zürich 1", "on stderr", "then"}} == {"info"}


def test_long_lines_stay_whole(world: World) -> None:
    world.script("print('ä' * 20000); answer()")
    operator().execute(world.context())
    assert world.log.has("ä" * 20000)


def test_a_container_may_use_what_the_spec_grants_and_no_more(world: World, client: APIClient) -> None:
    world.grant("cpus: 1.5, memory: 96m, shm: 32m")
    world.set(MLOPS_DOCKER_MOUNTS=f"{world.folder / 'data'}:/in:ro")
    world.script("time.sleep(60)")
    task = Running(world.context())
    (found,) = wait(lambda: [c for c in ours(client) if c["State"]["Running"]])
    task.operator.on_kill()
    task.join()
    host, config = found["HostConfig"], found["Config"]
    assert (host["CpuQuota"], host["CpuPeriod"]) == (150_000, 100_000)
    assert host["Memory"] == host["MemorySwap"] == 96 << 20
    assert host["ShmSize"] == 32 << 20
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"], host["Init"]) == (True, ["ALL"], False, True)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["NetworkMode"] == "none"
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "3"}}
    assert config["User"] == f"{os.getuid()}:{os.getgid()}"
    mounted = {m["Destination"]: (m["Type"], m["RW"]) for m in found["Mounts"]}
    store, mlflow = str(world.folder / "store"), str(world.folder / "mlflow")
    expected = {store: ("bind", True), mlflow: ("bind", True), "/in": ("bind", False), "/tmp": ("volume", True)}
    assert mounted == expected | ({"/etc/passwd": ("bind", False)} if os.getuid() else {})
    labels = {name.removeprefix(LABEL): value for name, value in config["Labels"].items()}
    assert labels == {
        "code": package_digest(),
        "deployment": DEPLOYMENT,
        "dag": f"{NAME}.ingest",
        "run": "manual__r",
        "task": "collect",
        "try": "1",
        "map_index": "-1",
        "pipeline": NAME,
        "stage": "collect",
    }


def test_a_user_of_ours_has_a_name_and_a_place_to_write(world: World) -> None:
    world.set(MLOPS_DOCKER_USER="1234:1234")
    (world.folder / "store").mkdir()
    world.script(
        "import pwd, tempfile; print(pwd.getpwuid(os.getuid()).pw_name, os.path.expanduser('~'), os.getuid())\n"
        "tempfile.TemporaryFile().write(b'x'); sys.exit(1)"
    )
    with pytest.raises(StageCrashed, match=r"collect: crashed \(exit code 1\); the traceback is in the log above"):
        operator().execute(world.context())
    assert world.log.has("mlops /tmp 1234")


def test_secrets_arrive_and_are_seen_nowhere_else(world: World, client: APIClient) -> None:
    world.set(MLOPS_HASH_KEY=SECRET, AWS_SECRET_ACCESS_KEY=SECRET, DATABASE=SECRET, MLOPS_DOCKER_SECRETS="DATABASE")
    world.script(
        "while not os.path.exists(folder + '/go'): time.sleep(0.02)\n"
        "got = {os.environ[name] for name in ('MLOPS_HASH_KEY', 'AWS_SECRET_ACCESS_KEY', 'DATABASE')}\n"
        "answer() if got == {'hunter2' + '-and-more'} else sys.exit(9)"
    )
    task = Running(world.context())
    (found,) = wait(lambda: [c for c in ours(client) if c["State"]["Running"]])
    world.go()
    assert task.join() == {"uri": "k", "digest": "d" * 64}
    assert SECRET not in world.log.text
    assert SECRET not in str(found["Config"]["Labels"]) + found["Name"] + str(found["Config"]["Cmd"])
    assert not [file for file in (world.folder / "store").rglob("*") if file.is_file() and SECRET in file.read_text()]


def test_a_retry_takes_up_the_container_of_a_killed_task(world: World, client: APIClient) -> None:
    marker = world.folder / "store" / "go"
    world.script(f"print('first')\nwhile not os.path.exists('{marker}'): time.sleep(0.05)\nprint('last'); answer()")
    task = multiprocessing.get_context("fork").Process(target=lambda: operator().execute(world.context()))
    task.start()
    wait(lambda: [c for c in ours(client) if c["State"]["Running"]], 60)
    task.kill()
    task.join()
    (before,) = ours(client)
    retry = Running(world.context(2))
    wait(lambda: world.log.has("first"))
    (during,) = ours(client)
    assert during["Id"] == before["Id"]
    marker.touch()
    assert retry.join() == {"uri": "k", "digest": "d" * 64}
    assert world.log.has("last")
    assert not (world.folder / "store" / NAME / "tries/ingest-manual__r/collect/0002").exists()


def abandon(world: World) -> str:
    """Leave a container behind, as a killed task does; return its id."""
    return str(operator().submit_job(world.context())["container"])


def test_a_retry_takes_the_answer_of_a_container_that_ended_meanwhile(world: World, client: APIClient) -> None:
    world.script("print('done alone'); answer()")
    client.wait(abandon(world))
    world.script("sys.exit(9)")
    assert operator().execute(world.context(2)) == {"uri": "k", "digest": "d" * 64}
    assert world.log.has("done alone")


@pytest.mark.parametrize(
    "script", ["sys.exit(1)", "answer(failure={'error': 'StoreUnavailable', 'message': 'm'}); sys.exit(5)"]
)
def test_a_retry_after_a_failure_starts_anew(world: World, client: APIClient, script: str) -> None:
    world.script(script)
    client.wait(abandon(world))
    world.script("print('anew'); answer()")
    operator().execute(world.context(2))
    assert world.log.has("anew")


def test_a_retry_whose_container_is_gone_starts_anew(world: World, client: APIClient) -> None:
    world.script("time.sleep(60)")
    client.remove_container(abandon(world), force=True)
    world.script("print('anew'); answer()")
    operator().execute(world.context(2))
    assert world.log.has("anew")


def test_a_cleared_task_starts_anew_though_an_answer_is_there(world: World, client: APIClient) -> None:
    world.script("answer()")
    client.wait(abandon(world))
    world.script("print('anew'); answer()")
    operator().execute(world.context(2, cleared=1))
    assert world.log.has("anew")


def test_a_cleared_finished_task_starts_anew(world: World) -> None:
    for number, text in ((1, "one"), (2, "two")):
        world.script(f"print('{text}'); answer()")
        operator().execute(world.context(number, cleared=number - 1))
        assert world.log.has(text)


def test_a_zombie_publishes_nothing_once_a_later_try_exists(
    world: World, real: tuple[str, str], client: APIClient, tmp_path: Path
) -> None:
    image, mounts = real
    world.set(MLOPS_IMAGE_SPARK=image, MLOPS_DOCKER_MOUNTS=",".join(filter(None, (mounts, f"{tmp_path}/data:{tmp_path}/data"))))
    task, given, spec = operator(), world.context(), load_pipeline(NAME)
    old = assign(world.store, task.invocation(given), spec, 1)
    later = assign(world.store, task.invocation(world.context(2)), spec, 2)
    zombie = task._create(old, plan("spark", os.environ), {}, {f"{LABEL}deployment": DEPLOYMENT})
    client.start(zombie)
    assert client.wait(zombie)["StatusCode"] == 7
    client.remove_container(zombie, v=True)
    kept = [key for key in world.store.list(f"{NAME}/") if "/runs/" in key or "/cache/" in key or key.endswith("answer.json")]
    assert kept == []
    assert read_answer(world.store, later) is None


@pytest.mark.parametrize("deaf", [False, True])
def test_a_stopped_task_leaves_no_container(world: World, client: APIClient, deaf: bool) -> None:
    world.script(("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else "") + "print('up'); time.sleep(60)")
    task = Running(world.context())
    wait(lambda: world.log.has("up"))
    started = time.monotonic()
    task.operator.on_kill()
    assert time.monotonic() - started < 5, "Airflow kills the task then"
    wait(lambda: ours(client) == [], 5)
    assert isinstance(task.join(), Exception)


def test_what_needs_more_memory_fails_with_the_limit_and_the_knob(world: World) -> None:
    world.grant("memory: 64m")
    world.script("hog = [os.urandom(1 << 20) for _ in range(500)]")
    with pytest.raises(AirflowFailException) as caught:
        operator().execute(world.context())
    assert str(caught.value) == (
        "SpecError: collect: out of memory: its container needed more than its limit of 64m and was killed (exit code 137); "
        f"raise resources.collect.memory in pipelines/{NAME}/pipeline.yaml"
    )


def test_a_kill_from_outside_is_worth_a_retry(world: World, client: APIClient) -> None:
    world.script("print('up'); time.sleep(60)")
    task = Running(world.context())
    wait(lambda: world.log.has("up"))
    client.kill(ours(client)[0]["Id"], signal.SIGKILL)
    assert isinstance(error := task.join(), ContainerLost)
    assert str(error).startswith("collect: its container ended without an answer: killed from outside, not for its memory")
    world.script("answer()")
    operator().execute(world.context(2))


def test_a_container_that_someone_removes_is_worth_a_retry(world: World, client: APIClient) -> None:
    world.script("print('up'); time.sleep(60)")
    task = Running(world.context())
    wait(lambda: world.log.has("up"))
    client.remove_container(ours(client)[0]["Id"], force=True)
    assert isinstance(error := task.join(), ContainerLost)
    assert re.search(
        r"its container (is gone, removed by someone else|ended without an answer: killed from outside)", str(error)
    )


def test_a_missing_image_says_what_to_do(world: World) -> None:
    world.set(MLOPS_IMAGE_SPARK="mlops-tasks-test/absent:latest")
    with pytest.raises(AirflowFailException) as caught:
        operator().execute(world.context())
    message = str(caught.value)
    assert message.startswith("SpecError: image mlops-tasks-test/absent:latest: the engine has none and can't pull it: ")
    assert message.endswith("; build it (make images), or name another in MLOPS_IMAGE_SPARK")


def test_an_image_of_another_version_is_refused(world: World, client: APIClient, tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    image = build(tmp_path / "image", "other", f"FROM {containers.base_image(client)}\n", "f" * 64)
    world.set(MLOPS_IMAGE_SPARK=image)
    with pytest.raises(AirflowFailException, match="holds the package's code ffffffffffff, the scheduler has"):
        operator().execute(world.context())
    client.remove_image(image)


def test_an_image_without_the_package_is_refused(world: World, client: APIClient) -> None:
    world.set(MLOPS_IMAGE_SPARK=containers.base_image(client))
    with pytest.raises(AirflowFailException, match=r"has no label io\.mlops-tasks\.code, so it holds no mlops-tasks"):
        operator().execute(world.context())


def test_a_full_disk_is_named_and_leaves_nothing_partial(world: World, real: tuple[str, str], tmp_path: Path) -> None:
    """Where there is no room for the answer either, the exit code stands for it."""
    image, mounts = real
    world.set(MLOPS_IMAGE_SPARK=image, MLOPS_DOCKER_MOUNTS=",".join(filter(None, (mounts, f"{tmp_path}/data:{tmp_path}/data"))))
    disk = tmp_path / "store"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(
            StoreUnavailable, match=r"No space left on device|exit code 5 and could leave no answer; its log says why"
        ):
            operator().execute(world.context())
        assert "No space left on device" in world.log.text
        assert [key for key in world.store.list(f"{NAME}/") if "/runs/" in key] == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        operator().execute(world.context(2))
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_gpus_are_asked_for_and_missing_ones_named(world: World) -> None:
    world.grant("gpus: 1")
    with pytest.raises(AirflowFailException) as caught:
        operator().execute(world.context())
    message = str(caught.value)
    assert message.startswith(
        f"SpecError: pipelines/{NAME}/pipeline.yaml: resources.collect.gpus is 1, and the engine has none to give"
    )
    assert "could not select device driver" in message
    assert message.endswith("or set resources.collect.on_missing_gpu: cpu")


def test_without_gpus_it_goes_on_where_the_spec_says_so(world: World) -> None:
    world.grant("gpus: 1, on_missing_gpu: cpu")
    operator().execute(world.context())
    assert any(level == "warning" and "goes on without" in text for _, level, text in world.log.lines)


def test_an_engine_that_is_not_there_is_worth_a_retry(world: World) -> None:
    world.set(DOCKER_HOST=f"unix://{world.folder}/none.sock")
    with pytest.raises(ContainerLost, match=r"Docker engine unix://.*none.sock: does not answer as it should"):
        operator().execute(world.context())


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[Engine]:
    if os.getuid() or not shutil.which("dockerd"):
        pytest.skip("an engine of one's own needs root and dockerd")
    engine = Engine(tmp_path)
    engine.start()
    yield engine
    engine.stop(signal.SIGTERM)


class Engine:
    """A Docker engine of this test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"unix://{folder}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        own = [f"--data-root={self.folder}/data", f"--exec-root={self.folder}/exec", f"--pidfile={self.folder}/pid"]
        spaces = [f"--containerd-namespace={DEPLOYMENT}", f"--containerd-plugins-namespace={DEPLOYMENT}-plugins"]
        # In a network namespace of its own: with --bridge=none an engine deletes the machine's docker0.
        command = ["unshare", "--net", "dockerd", "-H", self.url, "--bridge=none", "--iptables=false", *own, *spaces]
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait(
            lambda: subprocess.run(["docker", "-H", self.url, "version"], check=False, capture_output=True).returncode == 0, 60
        )

    def stop(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(30)

    def take(self, image: str) -> None:
        subprocess.run(f"docker save {image} | docker -H {self.url} load", shell=True, check=True, capture_output=True)


def test_an_engine_that_restarts_in_mid_stage_costs_a_try(world: World, puppet: str, own_engine: Engine) -> None:
    own_engine.take(puppet)
    world.set(DOCKER_HOST=own_engine.url)
    world.script("print('up'); time.sleep(60)")
    task = Running(world.context())
    wait(lambda: world.log.has("up"))
    own_engine.stop(signal.SIGTERM)
    assert isinstance(error := task.join(), ContainerLost), error
    own_engine.start()
    world.script("print('again'); answer()")
    assert operator().execute(world.context(2)) == {"uri": "k", "digest": "d" * 64}
    assert world.log.has("again")
    assert ours(APIClient(own_engine.url)) == []
