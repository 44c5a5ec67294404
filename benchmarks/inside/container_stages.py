"""What a cached stage takes through each runtime's operator: each in a process forked from one as warm as Airflow's worker.

Prints one JSON line: `{"process": [seconds, ...], "docker": [...]}`, from after the fork to the task's result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import airflow.sdk.execution_time.task_runner  # noqa: F401 - what a task's process has before it is forked

from mlops_docker import DockerStageOperator
from mlops_operator import StageOperator
from mlops_tasks.loading import load_pipeline

STAGE, PARAMETER, PRODUCER = "validate_raw", "raw", "collect"
RUNTIMES: dict[str, type[StageOperator]] = {"process": StageOperator, "docker": DockerStageOperator}


def context(name: str, task: str, start: datetime, number: int) -> Any:
    """Return what Airflow gives a task, as far as the operators ask."""
    conf = {"start": start.isoformat(), "end": (start + timedelta(days=1)).isoformat()}
    run = SimpleNamespace(
        dag_id=f"{name}.ingest", run_id="bench", run_type="manual", conf=conf, clear_number=0,
        data_interval_start=None, data_interval_end=None, triggering_user_name="",
    )  # fmt: skip
    ti = SimpleNamespace(
        dag_id=run.dag_id, run_id="bench", task_id=task, try_number=number, map_index=-1, stats_tags={},
        start_date=datetime.now(UTC), xcom_push=lambda **_: None, xcom_pull=lambda **_: None,
    )  # fmt: skip
    return {"dag_run": run, "params": conf, "dag": SimpleNamespace(params=conf), "ti": ti}


def run_forked(kind: type[StageOperator], stage: str, given: Any, inputs: dict[str, Any]) -> tuple[float, dict[str, str]]:
    """Run one task in a forked process; return its seconds and its handle."""
    name = given["dag_run"].dag_id.partition(".")[0]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        began = time.perf_counter()
        operator = kind(stage=stage, pipeline=load_pipeline(name), task_id=stage)
        operator.inputs = inputs
        handle = operator.execute(given)
        os.write(writer, json.dumps([time.perf_counter() - began, handle]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    if not said:
        sys.exit(f"{stage} failed; what it said stands above")
    seconds, handle = json.loads(said)
    return seconds, handle


def main(name: str, first: str, rounds: str) -> None:
    """Run the same cached stage by each runtime in turn."""
    start = datetime.fromisoformat(first).replace(tzinfo=UTC)
    _, made = run_forked(StageOperator, PRODUCER, context(name, PRODUCER, start, 1), {})
    found: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    for number in range(1, int(rounds) + 1):
        for runtime, kind in RUNTIMES.items():
            seconds, _ = run_forked(kind, STAGE, context(name, STAGE, start, number), {PARAMETER: made})
            found[runtime].append(seconds)
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
