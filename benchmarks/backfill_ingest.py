"""How long the real scheduler takes to bring 30 days in: `POST /api/v2/backfills` on `.ingest`, a warm Spark server.

Wall time from the request to the backfill's end. Each round takes 30 other days, so nothing of them is cached; one
day before the first round warms Airflow and Spark up.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime, timedelta

from benchmarks.airflow_runs import DAG_ID, running_airflow, wait_for_run
from benchmarks.measuring import (
    LIMITED,
    BenchmarkError,
    environment,
    limited,
    say,
    say_machine,
    say_table,
    spark_server,
    spread,
    workplace,
)
from demo.following import explain, runs_of
from demo.rest import AirflowApi

LIMIT_S = 180
WARM_UP, FIRST = datetime(2013, 1, 2, tzinfo=UTC), datetime(2013, 1, 4, tzinfo=UTC)
POLL_S = 1.0


def backfill(api: AirflowApi, start: datetime, days: int, parallel: int) -> tuple[float, list[float]]:
    """Backfill; return the wall seconds and each task's duration. Raises: BenchmarkError when a run failed."""
    wanted = [start + timedelta(days=n) for n in range(days)]
    began = time.perf_counter()
    number = api.backfill(DAG_ID, wanted[0], wanted[-1], max_active_runs=parallel, conf={"reason": "benchmark"})
    while any(run["state"] not in {"success", "failed"} for run in runs_of(api, DAG_ID, wanted)):
        time.sleep(POLL_S)
    wall = time.perf_counter() - began
    runs = runs_of(api, DAG_ID, wanted)
    for run in runs:
        if run["state"] != "success":
            raise BenchmarkError(explain(api, DAG_ID, run["dag_run_id"]))
    if len(runs) != days:
        msg = f"the backfill made {len(runs)} runs of {days}"
        raise BenchmarkError(msg)
    while not api.backfill_done(number):
        time.sleep(POLL_S)
    return wall, [task["duration"] for run in runs for task in api.tasks(DAG_ID, run["dag_run_id"])]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--days", type=int, default=30, help="days a round (default 30)")
    parser.add_argument("--parallel", type=int, default=3, help="max_active_runs of the backfill (default 3, as the demo)")
    chosen = parser.parse_args()
    say_machine(f"Backfill of {chosen.days} days of {DAG_ID}, {chosen.parallel} runs at a time")
    with workplace() as folder, spark_server(folder) as spark, running_airflow(folder, environment(folder, **spark)) as api:
        conf = {"start": WARM_UP.isoformat(), "end": (WARM_UP + timedelta(days=1)).isoformat()}
        api.trigger(DAG_ID, "warm_up", conf)
        wait_for_run(api, "warm_up")
        starts = [FIRST + n * timedelta(days=chosen.days + 1) for n in range(chosen.runs)]
        rounds = [backfill(api, start, chosen.days, chosen.parallel) for start in starts]
    walls = [wall for wall, _ in rounds]
    say_table(LIMITED, [limited(f"{chosen.days} days", walls, LIMIT_S, digits=1)])
    durations = [duration for _, tasks in rounds for duration in tasks]
    say(f"A task, as Airflow counts it: {spread(durations)}; {len(durations)} tasks. Median of {chosen.runs} rounds.")


if __name__ == "__main__":
    main()
