"""The demo's story: train on half a year, bring later days in, watch them, ask the model, train again on the whole year."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from demo import DemoError
from demo.following import follow_run, follow_windows, runs_of
from demo.predictions import ask
from demo.rest import AirflowApi
from demo.summary import Results, print_summary

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from demo.services import Services

PIPELINE = "nyc_flights"
START, MIDDLE, END = (datetime(*date, tzinfo=UTC) for date in ((2013, 1, 1), (2013, 7, 1), (2013, 12, 31)))
"""The year ends a day early: its last day has no weather, and the pipeline refuses it."""
DAYS_AFTER = 14
DAGS = tuple(f"{PIPELINE}.{kind}" for kind in ("ingest", "train", "monitor", "rollback"))
PARALLEL = {f"{PIPELINE}.ingest": 3, f"{PIPELINE}.monitor": 1}
"""Runs at a time: the monitor counts alarmed windows in a row, so it goes day by day."""
PARSE_TIMEOUT_S = 90
POLL_S = 0.5


def run_loop(services: Services, console: Console) -> None:
    """Run the whole loop, or what of it has not run yet. Raises: DemoError."""
    with _step(console, "Starting Airflow, Spark and MLflow") as show:
        services.start(show)
    _say_addresses(services, console)
    with services.airflow.api() as api:
        story = _Story(services, api, console)
        with _step(console, "Reading the DAGs") as show:
            _wait_for_dags(api, show)
        first = story.train(MIDDLE, "make demo: the first half of the year")
        days = [MIDDLE + timedelta(days=n) for n in range(DAYS_AFTER)]
        console.print(f"[bold]Bringing in[/] the {len(days)} days after it ({PIPELINE}.ingest)")
        ingested = story.backfill(f"{PIPELINE}.ingest", days)
        console.print(f"[bold]Watching[/] them for drift ({PIPELINE}.monitor)")
        monitored = story.backfill(f"{PIPELINE}.monitor", days)
        with _step(console, "Starting the model server"):
            services.start_server(PIPELINE)
        results = Results(api, services.store)
        latest = results.file(results.records(ingested[-1], "preprocess")[-1], "features.parquet")
        trained = [(first, ask(services, PIPELINE, latest))]
        second = story.train(END, "make demo: the rest of the year arrived")
        trained.append((second, ask(services, PIPELINE, latest, version=results.facts(second, "deploy").get("version"))))
        print_summary(services, results, console, trained=trained, ingested=ingested, monitored=monitored)


@dataclass(frozen=True)
class _Story:
    """The steps that go through Airflow; runs are returned as DAG id and run id."""

    services: Services
    api: AirflowApi
    console: Console

    def train(self, end: datetime, reason: str) -> tuple[str, str]:
        """Trigger a training under a fixed id; follow the one that runs, retry the one that failed, skip a done one."""
        dag_id, run_id = f"{PIPELINE}.train", f"demo__{START:%Y-%m-%d}__{end:%Y-%m-%d}"
        self.console.print(f"[bold]Training[/] on {START:%Y-%m-%d} to {end:%Y-%m-%d} ({dag_id})")
        if not self.api.trigger(dag_id, run_id, {"start": START.isoformat(), "end": end.isoformat(), "reason": reason}):
            state = (self.api.run(dag_id, run_id) or {}).get("state")
            if state == "success":
                self.console.print("  done before; nothing to do")
                return dag_id, run_id
            if state == "failed":
                self.console.print("  failed before; its failed tasks run again")
                self.api.retry(dag_id, run_id)
        self.api.unpause(dag_id)
        follow_run(self.api, dag_id, run_id, self.console, watch=self.services.airflow.revive)
        return dag_id, run_id

    def backfill(self, dag_id: str, days: Sequence[datetime]) -> list[tuple[str, str]]:
        """Backfill the days that did not succeed yet; join a backfill that an interrupted demo left running."""
        runs = runs_of(self.api, dag_id, days)
        if sum(run["state"] == "success" for run in runs) == len(days):
            self.console.print("  done before; nothing to do")
        else:
            running = self.api.running_backfill(dag_id)
            if running is None:
                conf = {"reason": "make demo"}
                running = self.api.backfill(dag_id, days[0], days[-1], max_active_runs=PARALLEL[dag_id], conf=conf)
            runs = follow_windows(
                self.api, dag_id, days, self.console,
                ended=lambda: self.api.backfill_done(running), watch=self.services.airflow.revive,
            )  # fmt: skip
        return [(dag_id, str(run["dag_run_id"])) for run in sorted(runs, key=lambda run: str(run["data_interval_start"]))]


def _wait_for_dags(api: AirflowApi, show: Callable[[str], None]) -> None:
    deadline = time.monotonic() + PARSE_TIMEOUT_S
    while missing := sorted(set(DAGS) - api.dag_ids()):
        if errors := api.import_errors():
            file, trace = next(iter(errors.items()))
            msg = f"Airflow can't read {file}:\n{trace}"
            raise DemoError(msg)
        if time.monotonic() > deadline:
            msg = f"Airflow has not read {', '.join(missing)} after {PARSE_TIMEOUT_S} s; see {api.url}/dags"
            raise DemoError(msg)
        show(", ".join(missing))
        time.sleep(POLL_S)


@contextmanager
def _step(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show a step that takes seconds; yield what tells it for what it waits."""
    began = time.monotonic()
    seen: list[str] = []
    with console.status(f"{title} ...") as status:

        def show(waiting: str) -> None:
            status.update(f"{title} ... [dim]{waiting}[/]")
            if not console.is_terminal and waiting not in seen:
                seen.append(waiting)
                console.print(f"  waiting for {waiting}", markup=False)

        yield show
    console.print(f"[bold]{title}[/]: done in {time.monotonic() - began:.0f} s")


def _say_addresses(services: Services, console: Console) -> None:
    airflow = services.airflow
    console.print(f"  Airflow  {airflow.url}  user [bold]admin[/]")
    if airflow.password_is_new:
        console.print(f"  password [bold]{airflow.password}[/] (shown once; also in {airflow.password_file})", soft_wrap=True)
    else:
        console.print(f"  password in {airflow.password_file}", soft_wrap=True)
    console.print(f"  MLflow   {services.url('mlflow')}")
