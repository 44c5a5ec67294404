"""`mlops` as people call it: the whole loop on a small pipeline, again, changed, stage by stage, and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.tiny_pipeline import NAME, RANGE, write_pipeline

pytestmark = [pytest.mark.spark, pytest.mark.slow]
STAGES = ("collect", "validate_raw", "preprocess", "validate", "snapshot", "train", "evaluate", "deploy")


class Shell:
    """Runs `mlops` in a folder of its own."""

    def __init__(self, folder: Path, spark: str) -> None:
        folder.mkdir()
        write_pipeline(folder)
        self.folder = folder
        self.environ = {
            **os.environ,
            "MLOPS_PIPELINES": str(folder / "pipelines"),
            "MLOPS_STORE": str(folder / "store"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLOPS_SPARK": spark,
            "MLOPS_CODE_VERSION": "test",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, *argv: str, expect: int = 0) -> tuple[dict[str, Any], str]:
        """Return the one object on stdout and what people read on stderr."""
        command = [sys.executable, "-m", "mlops_tasks", *argv, "--json"]
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == expect, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result, done.stderr

    def run(self, *argv: str, expect: int = 0) -> dict[str, Any]:
        return self.call("run", NAME, *RANGE, *argv, expect=expect)[0]


def made(result: dict[str, Any]) -> dict[str, int]:
    return {name: stage["computed"] for name, stage in result["stages"].items() if stage["computed"]}


def test_the_loop(tmp_path: Path, spark_url: str) -> None:
    shell = Shell(tmp_path / "home", spark_url)
    first = _cold(shell)
    _unchanged(shell, first)
    _stage_by_stage(shell, first)
    _changed(shell)
    _told(shell)
    _back(shell)
    _failures(shell)


def _cold(shell: Shell) -> dict[str, Any]:
    first, told = shell.call("run", NAME, *RANGE)
    assert made(first) == dict(zip(STAGES, (13, 13, 12, 12, 1, 1, 1, 1), strict=True))
    assert (first["windows"], first["rows"] + first["rejected"], first["passed"]) == (12, 3000, True)
    assert (first["version"], first["alias"], first["start"]) == (1, "champion", "2024-01-01T00:00:00+00:00")
    assert {"roc_auc", "log_loss"} <= set(first["metrics"])
    assert [line.split()[0] for line in told.splitlines() if line.endswith(" s)")] == list(STAGES)
    assert "INFO" not in told, "libraries keep their chatter to themselves"
    return first


def _unchanged(shell: Shell, first: dict[str, Any]) -> None:
    again, told = shell.call("run", NAME, *RANGE)
    assert made(again) == {}
    assert {s["note"] for s in again["stages"].values()} <= {
        f"{count}cached: same inputs, spec and code" for count in ("", "12 ", "13 ")
    }
    assert "deploy        cached: same inputs, spec and code" in told
    same = ("dataset", "metrics", "version", "alias", "rows")
    assert {key: again[key] for key in same} == {key: first[key] for key in same}


def _stage_by_stage(shell: Shell, first: dict[str, Any]) -> None:
    """A container gets handles; from an empty cache it makes what the run made."""
    ranged = ("--run-id", "by-hand", *RANGE)
    handles: dict[str, str] = {}
    for stage, takes, gives in (
        ("collect", (), "raw"),
        ("validate_raw", ("raw",), "raw"),
        ("preprocess", ("raw",), "features"),
        ("validate", ("features",), "features"),
        ("snapshot", ("features",), "dataset"),
    ):
        inputs = [part for name in takes for part in ("--input", f"{name}={handles[name]}")]
        output = shell.folder / f"{stage}.json"
        outcome, _ = shell.call("stage", stage, NAME, *ranged, *inputs, "--recompute", "--output", str(output))
        assert outcome["cached"] == 0
        assert json.loads(output.read_text()) == outcome
        handles[gives] = f"{outcome['handle']['uri']}@{outcome['handle']['digest']}"
        mine, theirs = (
            (shell.folder / "store" / NAME / "runs" / run / f"{stage}.json").read_bytes()
            for run in ("by-hand", first["run_id"])
        )
        assert _digests(mine) == _digests(theirs), stage
    wrong, _ = shell.call("stage", "validate_raw", NAME, *ranged, "--input", f"raw={handles['raw']}0", expect=5)
    assert wrong["message"].endswith("was changed since it was handed on; run collect again")


def _digests(record: bytes) -> list[str]:
    return [item["digest"] for item in json.loads(record)["results"]]


def _changed(shell: Shell) -> None:
    changed = shell.run("--set", "train.max_epochs=4")
    assert made(changed) == {"train": 1, "evaluate": 1, "deploy": 1}
    assert changed["stages"]["train"]["note"] == "1 made: spec changed (max_epochs)"
    assert (changed["version"], changed["alias"]) == (2, "challenger"), "its training ends when the champion's does"
    anew = shell.run("--set", "train.max_epochs=4", "--recompute", "evaluate")
    assert made(anew) == {"evaluate": 1, "deploy": 1}
    assert anew["version"] == 2


def _told(shell: Shell) -> None:
    status, _ = shell.call("status", NAME)
    assert status["windows"]["preprocess"] == {"count": 12, "first": "2024-01-01", "last": "2024-01-12"}
    assert status["champion"]["version"] == 1
    assert status["runs"][-1]["stages"] == sorted(STAGES)
    models, _ = shell.call("models", NAME)
    assert [(v["version"], v["aliases"]) for v in models["versions"]] == [(2, ["challenger"]), (1, ["champion"])]
    assert [(p["alias"], p["to"]) for p in models["promotions"]] == [("champion", "1"), ("challenger", "2")]


def _back(shell: Shell) -> None:
    moved, _ = shell.call("rollback", NAME, "--to", "2", "--reason", "a test")
    assert (moved["from"], moved["to"], moved["reason"]) == (1, 2, "a test")
    back, _ = shell.call("rollback", NAME, "--reason", "it was a test")
    assert (back["from"], back["to"]) == (2, 1)
    assert made(shell.run()) == {}, "version 1 serves again and stands as it was judged"


def _failures(shell: Shell) -> None:
    wrong = shell.run("--set", "train.epochs=3", expect=2)
    assert wrong["exit_code"] == 2
    assert wrong["message"].startswith("tiny overrides: train.epochs is not a known key; ")
    rejected = shell.run(
        "--set", "validate.expectations=[{expect_column_values_to_be_between: {column: amount, max_value: 50}}]", expect=3
    )
    assert rejected["message"].startswith("tiny: features data broke 12 expectations; mend the source or the expectation")
    refused = shell.run("--set", "evaluate.gates=[{metric: roc_auc, min: 0.999}]", expect=4)
    assert refused["error"] == "ModelRejected"
    later = ("run", NAME, "--start", "2024-02-01", "--end", "2024-02-02")
    nothing, told = shell.call(*later, expect=99)
    assert nothing["error"] == "NothingToDo"
    assert "collect failed; finished stages are kept: mend it and run\n  mlops run tiny --start 2024-02-01" in told
