"""One contract, three runners: the same results, byte for byte, in one process, in a process a stage and in containers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN
from mlops_tasks.runner import Handle, Invocation, Outcome, Runner
from mlops_tasks.runner.assignment import assign, read_answer
from mlops_tasks.wiring import Adapters
from tests.mlflow_database import fresh_uri

pytestmark = [pytest.mark.docker, pytest.mark.slow]
NAME = "nyc_flights"
PIPELINES = Path(__file__).resolve().parents[2] / "dags" / "pipelines"
START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 3, 1, tzinfo=UTC)
OVERRIDES: dict[str, Any] = {
    "train.model": "mlp",
    "train.max_epochs": 2,
    "train.refit": False,
    "train.threads": 1,
    "snapshot.test": "7d",
    "evaluate.bootstrap": 20,
    "evaluate.gates": [{"metric": "roc_auc", "min": 0.5}],
    "evaluate.slices": [],
}
"""What makes two months of flights quick; everything else is as shipped."""
OF_THEIR_TIME = ("training.json", "report.html", "evaluation.json", "model_card.md", "data_docs.html", "manifest.json")
"""Files that say when or where they were made; a result's digest does not count them."""
HANDED_ON_AS = dict(
    zip((*INGEST, *TRAIN), ("raw", "raw", "features", "features", "dataset", "candidate", "verdict", "-"), strict=True)
)

Perform = Callable[["Home", Invocation], Outcome]


@dataclass(frozen=True)
class Home:
    """A store and an MLflow of one runner's own."""

    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "MLOPS_STORE": str(self.folder / "store"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow' / 'mlflow.db'}",
            "MLOPS_SPARK": "local[2]",
            "MLOPS_CODE_VERSION": "test",
        }

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "store")


def in_process(home: Home, invocation: Invocation) -> Outcome:
    pipeline = apply_overrides(load_pipeline(NAME, PIPELINES), invocation.overrides)
    return Runner(pipeline, Adapters(home.environ)).invoke(invocation)


def in_own_process(home: Home, invocation: Invocation) -> Outcome:
    return answered(home, invocation, [sys.executable, "-m", "mlops_tasks"], {**os.environ, **home.environ})


def in_container(home: Home, invocation: Invocation) -> Outcome:
    image = f"mlops-tasks/{BY_NAME[invocation.stage].image}:latest"
    names = [part for name, value in home.environ.items() for part in ("--env", f"{name}={value}")]
    mount = ["--volume", f"{home.folder}:{home.folder}", "--user", f"{os.getuid()}:{os.getgid()}", "--network", "none"]
    return answered(home, invocation, ["docker", "run", "--rm", *mount, *names, image], dict(os.environ))


def answered(home: Home, invocation: Invocation, mlops: list[str], environ: dict[str, str]) -> Outcome:
    key = assign(home.store, invocation, load_pipeline(NAME, PIPELINES), 1)
    ended = subprocess.run([*mlops, "perform", key], check=False, env=environ, capture_output=True, text=True, timeout=600)
    outcome = read_answer(home.store, key)
    assert outcome is not None, ended.stderr[-3000:]
    return outcome


def results(home: Home, perform: Perform) -> dict[str, str]:
    """Run the loop; return every digest that it gave: `stage, result, what` -> digest."""
    handles: dict[str, Handle] = {}
    found: dict[str, str] = {}
    (home.folder / "store").mkdir(parents=True)
    fresh_uri(home.folder / "mlflow")
    reader = Runner(load_pipeline(NAME, PIPELINES), Adapters(home.environ))
    for name in (*INGEST, *TRAIN):
        stage = BY_NAME[name]
        invocation = Invocation(
            stage=name,
            pipeline=NAME,
            run_id="r",
            intent="manual",
            start=START,
            end=END,
            inputs={key: handles[key] for key in stage.consumes if key in handles},
            overrides=OVERRIDES,
            now=datetime(2026, 1, 1, tzinfo=UTC),
        )
        outcome = perform(home, invocation)
        handles[HANDED_ON_AS[name]] = outcome.handle
        found |= dict(digests(name, reader.results(stage, outcome.handle)))
    return found


def digests(stage: str, artifacts: list[Any]) -> Iterator[tuple[str, str]]:
    for number, artifact in enumerate(artifacts):
        where = f"{stage}, {getattr(artifact, 'window', number)}"
        yield f"{where}, digest", artifact.digest
        for ref in artifact.files:
            name = ref.key.rsplit("/", 1)[-1]
            if not name.endswith(OF_THEIR_TIME):
                yield f"{where}, {name}", ref.sha256


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return results(Home(tmp_path_factory.mktemp("in_process")), in_process)


@pytest.mark.parametrize("perform", [in_own_process, in_container])
@pytest.mark.usefixtures("images")
def test_every_runner_gives_the_same_results(perform: Perform, expected: dict[str, str], tmp_path: Path) -> None:
    found = results(Home(tmp_path), perform)
    assert found.keys() == expected.keys()
    assert [where for where in expected if found[where] != expected[where]] == []
    assert len(expected) > 4 * 59  # windows of January and February, with the one looked back to
