"""What the Docker operator asks of an engine and makes of its answers; the real engine is asked in tests/integration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from airflow.sdk.exceptions import AirflowFailException
from docker.errors import APIError, ImageNotFound, NotFound

import mlops_docker
from mlops_container import LABEL
from mlops_dags import GPU_POOL, Stages, stage_operator
from mlops_docker import ContainerLost, DockerStageOperator, StageCrashed
from mlops_operator import StageOperator
from mlops_plugin import libraries_to_preload
from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.caching import package_digest
from mlops_tasks.errors import DataRejected, RegistryUnavailable, StoreUnavailable
from mlops_tasks.loading import load_pipeline
from mlops_tasks.resources import Resources
from mlops_tasks.runner.assignment import Answer, Failure
from mlops_tasks.runner.invocation import Handle, Outcome
from tests.unit.plugins.test_mlops_operator import context as make_context

ROOT = Path(__file__).parents[3]
SPEC = load_pipeline("nyc_flights", ROOT / "dags" / "pipelines")
OUTCOME = Outcome(
    handle=Handle(uri="k", digest="d" * 64), cached=0, computed=1, note="n", facts={"a": 1}, links={"Report": "r"}
)


def refusal(status: int, words: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("said no", response, words)


@dataclass
class FakeEngine:
    """An engine whose containers do what `work` says as soon as they are started."""

    store: LocalStore
    labels: dict[str, str] = field(default_factory=lambda: {f"{LABEL}code": package_digest()})
    images: set[str] = field(default_factory=lambda: {"mlops-tasks/train:latest"})
    pulls: list[dict[str, str]] = field(default_factory=list)
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    refuses: dict[str, Exception] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)
    answer: Answer | None = field(default_factory=lambda: Answer(outcome=OUTCOME))
    stopped: list[tuple[str, int]] = field(default_factory=list)

    def _maybe(self, call: str) -> None:
        if call in self.refuses:
            raise self.refuses[call]

    def inspect_image(self, name: str) -> dict[str, Any]:
        if name not in self.images:
            raise ImageNotFound(name, explanation="No such image: " + name)
        return {"Config": {"Labels": self.labels}}

    def pull(self, name: str, **_: Any) -> Iterator[dict[str, str]]:
        self._maybe("pull")
        yield from self.pulls
        if not self.pulls:
            self.images.add(name)

    def create_host_config(self, **given: Any) -> dict[str, Any]:
        return given

    def create_container(self, **given: Any) -> dict[str, str]:
        self._maybe("create")
        self.created.append(given)
        name = f"container{len(self.created)}"
        self.there[name] = {"Status": "created", "Running": False, "OOMKilled": False, "ExitCode": 0, **self.ends}
        return {"Id": name}

    def start(self, name: str) -> None:
        self._maybe("start")
        self.there[name]["Status"] = "exited"
        if self.answer is not None:
            folder = self.created[-1]["command"][1].rsplit("/", 1)[0]
            self.store.write(f"{folder}/answer.json", self.answer.model_dump_json().encode())

    def logs(self, _: str, **__: Any) -> Iterator[bytes]:
        yield b"2024-01-01T00:00:00.000000001Z a line\n"

    def containers(self, **_: Any) -> list[dict[str, str]]:
        return [{"Id": name} for name in self.there]

    def inspect_container(self, name: str) -> dict[str, Any]:
        self._maybe("inspect")
        if name not in self.there:
            raise NotFound(name, explanation="No such container: " + name)
        return {"State": self.there[name]}

    def remove_container(self, name: str, *, force: bool, v: bool) -> None:
        assert force
        assert v
        self._maybe("remove")
        del self.there[name]

    def stop(self, name: str, timeout: int) -> None:
        self.stopped.append((name, timeout))


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine(LocalStore(tmp_path / "store"))
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLOPS_PIPELINES", str(ROOT / "dags" / "pipelines"))
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")
    monkeypatch.setattr(DockerStageOperator, "cli", fake)
    monkeypatch.setattr(mlops_docker, "connect", lambda _: fake)
    return fake


@dataclass
class State(dict[str, Any]):
    """Airflow's store of a task's state."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


def context(number: int = 1, state: Any = None) -> Any:
    given = make_context()
    for name, value in {"dag_id": "nyc_flights.train", "task_id": "train", "run_id": "r", "map_index": -1}.items():
        setattr(given["ti"], name, value)
    given["ti"].try_number, given["ti"].stats_tags = number, {}
    return {**given, "task_state_store": State() if state is None else state}


def task() -> DockerStageOperator:
    return DockerStageOperator(stage="train", pipeline=SPEC, task_id="train")


def test_outcome_facts_and_links_are_those_of_the_process_runtime(engine: FakeEngine) -> None:
    operator, given = task(), context()
    assert operator.execute(given) == {"uri": "k", "digest": "d" * 64}
    assert given["ti"].pushed == {"facts": {"a": 1}}
    assert operator.links == {"Report": "r"}
    assert engine.there == {}
    assert given["task_state_store"] == {}


def test_the_container_is_told_its_assignment_and_nothing_else(engine: FakeEngine) -> None:
    task().execute(context(3))
    (created,) = engine.created
    assert created["command"] == ["perform", "nyc_flights/tries/train-r/train/0003/assignment.json"]
    assert created["image"] == "mlops-tasks/train:latest"
    assert set(created["environment"]) >= {"MLOPS_STORE", "MLFLOW_TRACKING_URI", "MLOPS_CODE_VERSION", "HOME"}
    assert not [name for name in created["environment"] if name.startswith(("AIRFLOW", "PYTHON", "PATH"))]


def test_an_absent_image_is_pulled_a_present_one_not(engine: FakeEngine) -> None:
    engine.refuses["pull"] = AssertionError("pulled though it is there")
    task().execute(context())
    engine.images.clear()
    del engine.refuses["pull"]
    task().execute(context(2))


@pytest.mark.parametrize("how", ["at once", "in the stream"])
def test_an_image_that_can_not_be_had_is_a_wrong_setting(engine: FakeEngine, how: str) -> None:
    engine.images.clear()
    if how == "at once":
        engine.refuses["pull"] = refusal(404, "pull access denied")
        words = "pull access denied"
    else:
        engine.pulls = [{"error": "manifest unknown"}]
        words = "manifest unknown"
    with pytest.raises(AirflowFailException) as caught:
        task().execute(context())
    assert str(caught.value) == (
        f"SpecError: image mlops-tasks/train:latest: the engine has none and can't pull it: {words}; "
        "build it (make images), or name another in MLOPS_IMAGE_TRAIN"
    )
    assert list(engine.store.list("")) == [], "no try is fenced off by one that could not start"


def test_what_the_engine_refuses_is_a_wrong_setting_and_its_faults_are_not(engine: FakeEngine) -> None:
    engine.refuses["create"] = refusal(400, "invalid mount config")
    with pytest.raises(
        AirflowFailException, match="train: the engine refuses its container: invalid mount config; see resources"
    ):
        task().execute(context())
    engine.refuses["create"] = refusal(500, "disk is on fire")
    with pytest.raises(ContainerLost, match="does not answer as it should: disk is on fire"):
        task().execute(context(2))


@pytest.mark.parametrize("error", [requests.ConnectionError("reset"), requests.ReadTimeout("timed out"), refusal(503, "busy")])
def test_a_lost_connection_keeps_the_container_for_the_retry(engine: FakeEngine, error: Exception) -> None:
    engine.refuses["inspect"] = error
    given = context()
    with pytest.raises(ContainerLost, match="Docker engine unix://"):
        task().execute(given)
    del engine.refuses["inspect"]
    assert list(engine.there) == ["container1"]
    assert task().execute(context(2, given["task_state_store"])) == {"uri": "k", "digest": "d" * 64}
    assert len(engine.created) == 1


def test_a_store_that_does_not_answer_keeps_the_container_for_the_retry(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        msg = "store: no answer"
        raise StoreUnavailable(msg)

    given = context()
    with monkeypatch.context() as patch:
        patch.setattr(mlops_docker, "find_answer", down)
        with pytest.raises(StoreUnavailable):
            task().execute(given)
    task().execute(context(2, given["task_state_store"]))
    assert len(engine.created) == 1


@pytest.mark.parametrize(
    ("code", "oom", "kind", "message"),
    [
        (1, False, StageCrashed, "the traceback is in the log above"),
        (137, False, ContainerLost, "killed from outside, not for its memory, exit code 137"),
        (143, False, ContainerLost, "killed from outside"),
        (139, False, ContainerLost, "ended without an answer: exit code 139"),
        (137, True, AirflowFailException, "out of memory: its container needed more than what its machine has and was killed"),
        (2, False, AirflowFailException, "SpecError: train: its container ended with exit code 2 and could leave no answer"),
        (6, False, RegistryUnavailable, "exit code 6 and could leave no answer"),
        (7, False, AirflowFailException, "Superseded: train: another try has taken over"),
    ],
)
def test_an_end_without_an_answer_says_why(
    engine: FakeEngine, code: int, oom: bool, kind: type[Exception], message: str
) -> None:
    engine.answer, engine.ends = None, {"ExitCode": code, "OOMKilled": oom}
    with pytest.raises(kind, match=message):
        task().execute(context())
    assert engine.there == {}


@pytest.mark.parametrize(
    ("oom", "message"), [(False, "DataRejected: 3 rows"), (True, "raise resources.train.memory in pipelines")]
)
def test_a_failure_that_came_of_too_little_memory_says_so(engine: FakeEngine, oom: bool, message: str) -> None:
    engine.answer, engine.ends = (
        Answer(failure=Failure(error="DataRejected", message="3 rows")),
        {"ExitCode": 3, "OOMKilled": oom},
    )
    with pytest.raises(AirflowFailException, match=message):
        task().execute(context())


def test_a_failure_worth_a_retry_stays_one(engine: FakeEngine) -> None:
    engine.answer = Answer(failure=Failure(error="StoreUnavailable", message="m"))
    with pytest.raises(StoreUnavailable, match="m"):
        task().execute(context())
    engine.answer = Answer(failure=Failure(error=DataRejected.__name__, message="m"))
    with pytest.raises(AirflowFailException, match="DataRejected: m"):
        task().execute(context(2))


def test_leftovers_of_earlier_tries_go_before_a_new_container_starts(engine: FakeEngine) -> None:
    engine.there["left"] = {}
    task().execute(context())
    assert engine.there == {}


def test_a_container_that_was_never_started_is_not_waited_for(engine: FakeEngine) -> None:
    engine.there["left"] = {"Status": "created", "Running": False}
    given = context(2)
    given["task_state_store"]["mlops_container"] = {"container": "left", "key": "k/assignment.json", "cleared": 0}
    assert task().execute(given)
    assert len(engine.created) == 1


@pytest.mark.parametrize("status", [404, 409])
def test_one_that_is_about_to_go_need_not_be_removed(engine: FakeEngine, status: int) -> None:
    engine.refuses["remove"] = refusal(status, "removal in progress")
    task().execute(context())
    engine.refuses["remove"] = refusal(500, "device busy")
    with pytest.raises(ContainerLost, match="device busy"):
        task().execute(context(2))


def test_being_stopped_before_there_is_a_container_does_nothing(engine: FakeEngine) -> None:
    task().on_kill()
    assert engine.stopped == []


def test_one_that_is_stopped_before_its_container_starts_starts_none(engine: FakeEngine) -> None:
    operator = task()
    operator.on_kill()
    with pytest.raises(ContainerLost, match="train: stopped because Airflow asked for it"):
        operator.execute(context())
    assert engine.there == {}


def test_what_a_container_that_is_taken_up_says_is_masked_too(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr(mlops_docker, "mask_secret", lambda value, _=None: masked.append(value))
    monkeypatch.setenv("WAREHOUSE", "postgresql://u:pass-1@db/x")
    monkeypatch.setenv("MLOPS_DOCKER_ENV", "WAREHOUSE")
    monkeypatch.delenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", raising=False)  # of a server that another test started here
    given = context()
    given["task_state_store"]["mlops_container"] = task().submit_job(given)
    assert task().execute(context(2, given["task_state_store"]))
    assert len(engine.created) == 1
    assert masked == ["postgresql://u:pass-1@db/x", "pass-1"]


def test_gpus_are_asked_for_and_done_without_where_the_spec_allows(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    granted = SPEC.model_copy(update={"resources": {"train": Resources(gpus=2, on_missing_gpu="cpu")}})
    monkeypatch.setattr(mlops_docker, "load_pipeline", lambda _: granted)
    start, tried = engine.start, list[str]()

    def refuse_once(name: str) -> None:
        tried.append(name)
        if len(tried) == 1:
            raise refusal(500, 'could not select device driver "" with capabilities: [[gpu]]')
        start(name)

    monkeypatch.setattr(engine, "start", refuse_once)
    task().execute(context())
    requests_made = [created["host_config"].get("device_requests") for created in engine.created]
    assert requests_made[0] == [{"Driver": "", "Count": 2, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}]
    assert requests_made[1] is None


def test_the_runtime_picks_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("docker", DockerStageOperator), ("process", StageOperator), ("dokcer", StageOperator)):
        monkeypatch.setenv("MLOPS_RUNTIME", name)
        assert stage_operator() is kind


def test_each_gpu_takes_a_slot_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLOPS_RUNTIME", raising=False)
    granted = SPEC.model_copy(update={"resources": {"train": Resources(gpus=2), "evaluate": Resources(gpus=1)}})
    slots = {name: (t.pool, t.pool_slots) for name in ("train", "evaluate", "snapshot") for t in [Stages(granted)(name)]}
    assert slots == {"train": (GPU_POOL, 2), "evaluate": (GPU_POOL, 1), "snapshot": ("default_pool", 1)}
    assert Stages(SPEC)("train").pool_slots == 1


def test_where_stages_run_in_containers_their_libraries_are_not_preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_RUNTIME", "docker")
    assert libraries_to_preload(["airflow", "scheduler"]) == ()


def test_the_templates_are_the_stages_own() -> None:
    assert task().template_fields == ("inputs",)
    assert SimpleNamespace(**vars(task())).image == "mlops-tasks/train:latest"
