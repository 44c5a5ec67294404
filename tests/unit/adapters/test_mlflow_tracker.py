from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mlops_tasks.adapters.mlflow_client import connect
from mlops_tasks.adapters.mlflow_tracker import MlflowTracker
from mlops_tasks.errors import RegistryUnavailable
from tests.mlflow_database import fresh_uri

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return fresh_uri(tmp_path / "mlflow")


def curve(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in connect(uri).get_metric_history(run_id, key))


def test_records_everything_of_a_run(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
    with MlflowTracker(uri).run("shop", "f1", "train 30d") as run:
        run.params({f"p{at}": at for at in range(150)})
        run.tags({"dataset": "d1"})
        for step in range(1200):
            run.metrics({"loss": 1 / (step + 1)}, step=step)
        run.metrics({"roc_auc": 0.7})
        run.artifact(tmp_path / "note.txt", "notes")
    client = connect(uri)
    found = client.get_run(run.run_id)
    assert (found.info.status, found.info.run_name, found.data.metrics["roc_auc"]) == ("FINISHED", "train 30d", 0.7)
    assert (len(found.data.params), found.data.tags["dataset"], found.data.tags["mlops.fingerprint"]) == (150, "d1", "f1")
    assert [item.path for item in client.list_artifacts(run.run_id, "notes")] == ["notes/note.txt"]
    assert curve(uri, run.run_id, "loss") == [(step, 1 / (step + 1)) for step in range(1200)]
    assert (tmp_path / "mlflow" / "mlflow-artifacts" / "shop" / run.run_id).is_dir()
    assert not (tmp_path / "mlruns").exists()


def test_a_retry_after_a_kill_goes_on_in_the_same_run_without_doubled_points(uri: str) -> None:
    code = f"""
import os, signal
from mlops_tasks.adapters.mlflow_tracker import MlflowTracker
with MlflowTracker({uri!r}).run("shop", "f1", "train") as run:
    run.params({{"width": 8, "threads": 2}})
    for step in range(10):
        run.metrics({{"loss": float(step)}}, step=step)
    run.flush()
    print(run.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    with MlflowTracker(uri).run("shop", "f1", "train") as run:
        run.params({"width": 8, "threads": 1})
        for step in range(5, 15):
            run.metrics({"loss": float(step)}, step=step)
    assert run.run_id == killed.stdout.strip()
    assert curve(uri, run.run_id, "loss") == [(step, float(step)) for step in range(15)]
    data = connect(uri).get_run(run.run_id).data
    assert (data.params, data.tags["retry.threads"]) == ({"width": "8", "threads": "2"}, "1")
    assert connect(uri).get_run(run.run_id).info.status == "FINISHED"


def test_a_failure_is_marked_and_raised(uri: str) -> None:
    tracker = MlflowTracker(uri)
    opened = []

    def fail() -> None:
        with tracker.run("shop", "f1", "train") as run:
            opened.append(run)
            msg = "loss is not a number"
            raise ValueError(msg)

    with pytest.raises(ValueError, match="loss is not a number"):
        fail()
    (run,) = opened
    assert connect(uri).get_run(run.run_id).info.status == "FAILED"
    with tracker.run("shop", "f1", "train") as again:
        pass
    assert again.run_id == run.run_id
    assert connect(uri).get_run(run.run_id).info.status == "FINISHED"


def test_other_fingerprints_get_other_runs_and_a_run_can_be_added_to(uri: str) -> None:
    tracker = MlflowTracker(uri)
    with tracker.run("shop", "f1", "a") as one, tracker.run("shop", "f2", "b") as two:
        pass
    assert one.run_id != two.run_id
    with tracker.resume(one.run_id) as run:
        run.metrics({"test_roc_auc": 0.71})
    with tracker.resume(one.run_id) as run:
        run.metrics({"test_roc_auc": 0.71})
    assert curve(uri, one.run_id, "test_roc_auc") == [(0, 0.71)]
    assert tracker.url(one.run_id) == f"{uri}#runs/{one.run_id}"


def test_resuming_what_is_not_there_is_said(uri: str) -> None:
    with pytest.raises(RegistryUnavailable, match="opening the run nothing failed"), MlflowTracker(uri).resume("nothing"):
        pass
