"""A year of history under the real scheduler: 365 days of `.ingest`, then twelve months of `.train`, and what was planned.

Before each backfill `mlops plan` says how long it will take; the table tells how far off that was: for January with next to
nothing recorded, for the rest of the year by what January took. One day before that warms Airflow and Spark up. The
trainings are backfilled by a monthly cron, one after another, on all days of up to 180 before; gates are off, so that all
twelve are registered.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from benchmarks.airflow_runs import DAG_ID, running_airflow, wait_for_run
from benchmarks.measuring import (
    LIMITED,
    MLOPS,
    PIPELINE,
    ROOT,
    BenchmarkError,
    environment,
    limited,
    measure,
    say,
    say_machine,
    say_table,
    spark_server,
    workplace,
)
from demo.following import explain, runs_of
from demo.rest import AirflowApi

START = datetime(2013, 1, 1, tzinfo=UTC)
DAY, PARTS = timedelta(days=1), timedelta(days=31)
INGEST_LIMIT_S, TRAIN_LIMIT_S = 30 * 60, 20 * 60
TRAIN_DAG = f"{PIPELINE}.train"
POLL_S = 5.0
"""The API server that answers polls also serves the tasks: ask seldom."""
NO_WEATHER = "    - expect_column_values_to_not_be_null: {column: temp, mostly: 0.5}\n"
CHANGES = {'train: "0 6 * * 1"': 'train: "0 0 1 * *"', "test: 30d": "test: 14d", NO_WEATHER: ""}
"""Monthly trainings, the first of them on January alone; the year's last day, which has no weather, counts too."""


@dataclass(frozen=True)
class Backfilled:
    """One backfill: how many runs, how long, and what the plan had said."""

    runs: int
    wall_s: float
    planned: dict[str, Any]

    @property
    def error(self) -> float:
        """How far the plan was off, as a share of the truth."""
        return float(self.planned["likely"]) * 60 / self.wall_s - 1


def write_pipelines(folder: Path, model: str) -> Path:
    """Copy the example with monthly trainings of one kind of model and without gates."""
    copied = folder / "pipelines"
    shutil.copytree(ROOT / "dags" / "pipelines" / PIPELINE, copied / PIPELINE)
    path = copied / PIPELINE / "pipeline.yaml"
    text = path.read_text(encoding="utf-8")
    for before, after in {**CHANGES, "model: tabm": f"model: {model}"}.items():
        if before not in text:
            msg = f"{path}: lacks {before!r}"
            raise BenchmarkError(msg)
        text = text.replace(before, after)
    judged, deployed = text.index("evaluate:\n"), text.index("deploy:\n")
    path.write_text(text[:judged] + text[deployed:], encoding="utf-8")
    return copied


def plan(env: Mapping[str, str], folder: Path, *, kind: str, start: datetime, end: datetime, parallel: int) -> dict[str, Any]:
    """Return the minutes that `mlops plan` says, with the seconds that saying it took."""
    dates = ["--start", f"{start:%Y-%m-%d}", "--end", f"{end:%Y-%m-%d}"]
    command = [*MLOPS, "plan", PIPELINE, *dates, "--for", kind, "--parallel", str(parallel), "--json"]
    done = measure(command, env=env, cwd=folder)
    minutes: dict[str, Any] = json.loads(done.out)["minutes"]
    return minutes | {"took_s": done.wall_s}


def backfill(api: AirflowApi, dag_id: str, wanted: Sequence[datetime], parallel: int) -> float:
    """Backfill the runs of some dates and wait; return the wall seconds. Raises: BenchmarkError when a run failed."""
    began = datetime.now(UTC)
    number = api.backfill(dag_id, wanted[0], wanted[-1], max_active_runs=parallel, conf={"reason": "benchmark"})
    while not api.backfill_done(number):
        time.sleep(POLL_S)
    runs = runs_of(api, dag_id, wanted)
    for run in runs:
        if run["state"] != "success":
            raise BenchmarkError(explain(api, dag_id, run["dag_run_id"]))
    if len(runs) != len(wanted):
        msg = f"the backfill of {dag_id} made {len(runs)} runs of {len(wanted)}"
        raise BenchmarkError(msg)
    ended = max(datetime.fromisoformat(run["end_date"]) for run in runs)
    return (ended - began).total_seconds()


def bring_in(
    api: AirflowApi, env: Mapping[str, str], folder: Path, *, start: datetime, end: datetime, parallel: int
) -> Backfilled:
    """Plan `.ingest` over the days of `[start, end)`, and backfill it a month at a time: SQLite locks on longer ones."""
    planned = plan(env, folder, kind="ingest", start=start, end=end, parallel=parallel)
    wanted = [start + n * DAY for n in range((end - start) // DAY)]
    months = [list(days) for _, days in groupby(wanted, key=lambda day: (day.year, day.month))]
    wall = sum(backfill(api, DAG_ID, days, parallel) for days in months)
    return Backfilled(len(wanted), wall, planned)


def train(api: AirflowApi, env: Mapping[str, str], folder: Path, last: datetime) -> Backfilled:
    """Plan and backfill `.train` over all months up to `last`."""
    planned = plan(env, folder, kind="train", start=START, end=last, parallel=1)
    wanted = [START.replace(month=month) for month in range(1, 13) if START.replace(month=month) < last]
    return Backfilled(len(wanted), backfill(api, TRAIN_DAG, wanted, 1), planned)


def tell_plan(what: str, found: Backfilled) -> None:
    """Print how far off a plan was."""
    bounds = f"{found.planned['low']:.1f} to {found.planned['high']:.1f}"
    say(
        f"{what}: planned {found.planned['likely']:.1f} minutes ({bounds}; {found.planned['basis']}), said in "
        f"{found.planned['took_s']:.1f} s; taken {found.wall_s / 60:.1f}; off by {found.error:+.0%}.\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=365, help="days of .ingest (default 365)")
    parser.add_argument("--model", default="mlp", help="what .train trains (default mlp)")
    parser.add_argument("--parallel", type=int, default=3, help="max_active_runs of .ingest (default 3)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work in this folder and leave store and MLflow there")
    chosen = parser.parse_args()
    last = START + chosen.days * DAY
    say_machine(f"{chosen.days} days of {DAG_ID}, {chosen.parallel} at a time, then each month of {TRAIN_DAG} ({chosen.model})")
    kept = contextlib.nullcontext(chosen.keep.resolve()) if chosen.keep else workplace()
    with kept as folder, spark_server(folder) as spark:
        env = environment(folder, **spark) | {"MLOPS_PIPELINES": str(write_pipelines(folder, chosen.model))}
        with running_airflow(folder, env) as api:
            conf = {"start": START.isoformat(), "end": (START + DAY).isoformat()}
            api.trigger(DAG_ID, "warm_up", conf)
            wait_for_run(api, "warm_up")
            days = []
            for start, end in pairwise(sorted({START, min(START + PARTS, last), last})):
                days.append(bring_in(api, env, folder, start=start, end=end, parallel=chosen.parallel))
                tell_plan(f"{days[-1].runs} days of .ingest", days[-1])
            months = train(api, env, folder, last)
            tell_plan(f"{months.runs} months of .train", months)
    ingest = limited(
        f"{chosen.days} days of .ingest", [sum(d.wall_s for d in days)], INGEST_LIMIT_S * chosen.days / 365, digits=0
    )
    trained = limited(f"{months.runs} months of .train", [months.wall_s], TRAIN_LIMIT_S * months.runs / 12, digits=0)
    say_table(LIMITED, [ingest, trained])


if __name__ == "__main__":
    main()
