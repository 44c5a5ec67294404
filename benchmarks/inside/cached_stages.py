"""What `.ingest`'s cached stages take by themselves: each in a process forked from one that is as warm as Airflow's worker.

Prints one JSON line: `{"stage": [seconds, ...], ...}`, from after the fork to the outcome, imports of the runner included.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import UTC, datetime, timedelta

import airflow.sdk.execution_time.task_runner  # noqa: F401 - what a task's process has before it is forked

import mlops_operator  # noqa: F401 - likewise, by the plugin
from mlops_tasks.loading import load_pipeline
from mlops_tasks.pipeline import INGEST

PARAMETERS = ("raw", "raw", "features", "features")


def run_forked(stage: str, name: str, start: datetime, inputs: dict[str, dict[str, str]]) -> tuple[float, dict[str, str], int]:
    """Run one stage in a forked process; return its seconds, its handle and how many windows it computed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        began = time.perf_counter()
        from mlops_tasks.runner import Handle, Invocation, invoke  # noqa: PLC0415 - each task pays for it

        handles = {key: Handle.model_validate(value) for key, value in inputs.items()}
        outcome = invoke(
            Invocation(
                stage=stage, pipeline=name, run_id=f"control__{start:%Y-%m-%d}", intent="scheduled",
                start=start, end=start + timedelta(days=1), inputs=handles, now=datetime.now(UTC),
            )
        )  # fmt: skip
        seconds = time.perf_counter() - began
        os.write(writer, json.dumps([seconds, outcome.handle.model_dump(), outcome.computed]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    seconds, handle, computed = json.loads(said)
    return seconds, handle, computed


def main(name: str, first: str, days: str) -> None:
    """Run the four stages of each day in turn."""
    load_pipeline(name)
    found: dict[str, list[float]] = {stage: [] for stage in INGEST}
    for number in range(int(days)):
        start = datetime.fromisoformat(first).replace(tzinfo=UTC) + timedelta(days=number)
        inputs: dict[str, dict[str, str]] = {}
        for stage, parameter in zip(INGEST, PARAMETERS, strict=True):
            seconds, handle, computed = run_forked(stage, name, start, inputs)
            if computed:
                sys.exit(f"{stage} of {start:%Y-%m-%d} was not cached")
            inputs = {parameter: handle}
            found[stage].append(seconds)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
