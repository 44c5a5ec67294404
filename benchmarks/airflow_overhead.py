"""What Airflow costs a task above the stage's own time: `.ingest` on windows whose results exist, run by run.

The results are made first, without Airflow. Then a real Airflow, as the demo starts it, runs `.ingest` once a window,
one run after the other. Airflow's cost is (from the run's creation to its last task's end, so with every gap of
the scheduler, less the stages' own time) / tasks. The stages' own time is taken by `inside/cached_stages.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.airflow_runs import DAG_ID, running_airflow, wait_for_run
from benchmarks.measuring import (
    LIMITED,
    PIPELINE,
    ROOT,
    BenchmarkError,
    environment,
    limited,
    measure,
    say,
    say_machine,
    say_table,
    spread,
    workplace,
)
from demo.rest import AirflowApi

LIMIT_S = 0.4
FIRST = datetime(2013, 1, 2, tzinfo=UTC)
WARM_UP = 2


@dataclass(frozen=True)
class Run:
    """One run of four cached tasks."""

    wall_s: float
    tasks: list[dict[str, Any]]

    @property
    def durations_s(self) -> list[float]:
        """What Airflow calls the duration of each task: from its start in the worker to its end."""
        return [task["duration"] for task in self.tasks]


def run_once(api: AirflowApi, day: datetime) -> Run:
    """Trigger a window's run, wait for it, and read when its tasks ran. Raises: BenchmarkError."""
    run_id = f"overhead__{day:%Y-%m-%d}"
    api.trigger(DAG_ID, run_id, {"start": day.isoformat(), "end": (day + timedelta(days=1)).isoformat()})
    run = wait_for_run(api, run_id)
    tasks = sorted(api.tasks(DAG_ID, run_id), key=lambda task: str(task["start_date"]))
    ended = max(_time(task["end_date"]) for task in tasks)
    return Run((ended - _time(run["queued_at"])).total_seconds(), tasks)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def require_cached(api: AirflowApi, run: Run) -> None:
    """Make sure that the tasks found their results. Raises: BenchmarkError."""
    for task in run.tasks:
        if not any(" 0 computed, 1 cached" in line or " 0 computed, 2 cached" in line for line in api.log(task)):
            msg = f"{task['task_id']} of {task['dag_run_id']} was not cached:\n" + "\n".join(api.log(task)[-10:])
            raise BenchmarkError(msg)


def own_times(folder: Path, env: dict[str, str], runs: int) -> dict[str, list[float]]:
    """Return the seconds of each stage by itself, for the same windows. Raises: BenchmarkError."""
    plugins = {"PYTHONPATH": f"{ROOT}:{ROOT / 'plugins'}", "AIRFLOW_HOME": str(folder / "control")}
    command = [sys.executable, "-m", "benchmarks.inside.cached_stages", PIPELINE, f"{FIRST:%Y-%m-%d}", str(runs + WARM_UP)]
    found: dict[str, list[float]] = json.loads(measure(command, env={**env, **plugins}, cwd=folder).out.splitlines()[-1])
    return {stage: seconds[WARM_UP:] for stage, seconds in found.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="runs of four tasks each (default 10)")
    chosen = parser.parse_args()
    say_machine("Airflow's cost above a task's own time")
    days = [FIRST + timedelta(days=n) for n in range(chosen.runs + WARM_UP)]
    with workplace() as folder:
        env = environment(folder)
        span = [f"{days[0]:%Y-%m-%d}", f"{days[-1] + timedelta(days=1):%Y-%m-%d}"]
        measure([sys.executable, "-m", "benchmarks.inside.ingestion", PIPELINE, *span], env=env, cwd=folder)
        own = own_times(folder, env, chosen.runs)
        with running_airflow(folder, env) as api:
            runs = []
            for day in days:
                runs.append(run_once(api, day))
                time.sleep(0.5)
            require_cached(api, runs[-1])
    say_costs(runs[WARM_UP:], own)


def say_costs(runs: list[Run], own: dict[str, list[float]]) -> None:
    """Print the tables."""
    own_s = sum(statistics.median(seconds) for seconds in own.values())
    count = len(runs[0].tasks)
    costs = [(run.wall_s - own_s) / count for run in runs]
    say_table(LIMITED, [limited("Airflow's cost a task", costs, LIMIT_S, digits=3)])
    per_task = [duration for run in runs for duration in run.durations_s]
    between = [(run.wall_s - sum(run.durations_s)) / count for run in runs]
    rows = [
        ["a run of four tasks, from its creation to its last task's end", spread([run.wall_s for run in runs])],
        ["a task, as Airflow counts it", spread(per_task, digits=3)],
        ["between tasks, and before the first, a task", spread(between, digits=3)],
        *([f"{stage} by itself, cached", spread(seconds, digits=3)] for stage, seconds in own.items()),
    ]
    say_table(("", "median (least to greatest)"), rows)
    say(f"Median of {len(runs)} runs.")


if __name__ == "__main__":
    main()
