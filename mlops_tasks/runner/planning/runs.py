"""A range of dates to the runs that a backfill of it makes, and to the commands that start it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from mlops_tasks.artifacts import Window
from mlops_tasks.core.cron import data_intervals
from mlops_tasks.core.windows import floor, following, windows_between
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Cadence, PipelineSpec

Kind = Literal["ingest", "train"]
PARALLEL: dict[Kind, int] = {"ingest": 3, "train": 1}
"""Runs at a time. Trainings go one after another: each is judged against the model that would have served then."""


@dataclass(frozen=True)
class Run:
    """One run: when it is due, and the range that it works on."""

    due: datetime
    range: Window


@dataclass(frozen=True)
class Start:
    """How a backfill is started."""

    airflow: tuple[str, ...]
    """Command lines, one after another."""
    rest: tuple[tuple[str, dict[str, Any]], ...]
    """Path below `/api/v2` and body of each POST."""
    here: tuple[str, ...]
    """Command lines that do the same without Airflow."""


def ingest_runs(pipeline: PipelineSpec, start: datetime, end: datetime) -> list[Run]:
    """Return a run for each window. Raises: SpecError: the range is not aligned."""
    return [Run(window.end, window) for window in windows_between(start, end, pipeline.cadence)]


def train_runs(pipeline: PipelineSpec, start: datetime, end: datetime, every: Cadence | None) -> list[Run]:
    """Return the trainings that are due within `(start, end]`, by the pipeline's cron or at each `every`.

    Raises:
        SpecError: the pipeline trains on no schedule and no `every` is given, or none is due in the range.

    """
    cron = pipeline.schedule.train
    if every is not None:
        due, first = [], following(floor(start, every), every) if floor(start, every) < start else start
        while first <= end:
            due.append(first)
            first = following(first, every)
    elif cron is None:
        msg = (
            f"pipeline {pipeline.name}: schedule.train is not set, so no training is due by itself; give --every month or week"
        )
        raise SpecError(msg)
    else:
        due = [interval.end for interval in data_intervals(cron, start, end) if interval.start < end]
    runs = [Run(time, found) for time in due if (found := training_range(pipeline, time)) is not None]
    if not runs:
        told = f"--every {every}" if every else f"schedule.train {cron!r}"
        between = f"from {start:%Y-%m-%d} to {end:%Y-%m-%d}"
        msg = f"pipeline {pipeline.name}: no training is due {between} by {told}; take a longer range"
        raise SpecError(msg)
    return runs


def training_range(pipeline: PipelineSpec, due: datetime) -> Window | None:
    """Return the range that a training trains on which is due at a time; None before there is any history."""
    end = floor(due, pipeline.cadence)
    start = max(floor(end - pipeline.schedule.train_range, pipeline.cadence), pipeline.schedule.start)
    return Window(start=start, end=end) if start < end else None


def start_ingest(pipeline: PipelineSpec, runs: Sequence[Run], parallel: int) -> Start:
    """Return how the windows are brought in."""
    dag_id, first, last = f"{pipeline.name}.ingest", runs[0].range.start, runs[-1].range.start
    return Start(
        airflow=(_backfill_command(dag_id, first, last, parallel),),
        rest=(("/backfills", _backfill_body(dag_id, first, last, parallel)),),
        here=(),
    )


def start_scheduled_trainings(pipeline: PipelineSpec, start: datetime, end: datetime, parallel: int) -> Start:
    """Return how the trainings of the pipeline's own schedule are made up for."""
    dag_id, last = f"{pipeline.name}.train", end - timedelta(seconds=1)
    return Start(
        airflow=(_backfill_command(dag_id, start, last, parallel),),
        rest=(("/backfills", _backfill_body(dag_id, start, last, parallel)),),
        here=(),
    )


def start_single_trainings(pipeline: PipelineSpec, runs: Sequence[Run], every: Cadence) -> Start:
    """Return how trainings at other times than the schedule's are made: each by a run of its own, as backfills."""
    dag_id = f"{pipeline.name}.train"
    bodies = [
        {
            "dag_run_id": f"backfill__{run.due:%Y-%m-%dT%H}",
            "logical_date": None,
            "conf": {
                "start": run.range.start.isoformat(),
                "end": run.range.end.isoformat(),
                "intent": "backfill",
                "reason": f"walk-forward, every {every}",
            },
        }
        for run in runs
    ]
    commands = [
        shlex.join(
            ["airflow", "dags", "trigger", dag_id, "--run-id", str(body["dag_run_id"]), "--conf", json.dumps(body["conf"])]
        )
        for body in bodies
    ]
    first, last = runs[0].due, runs[-1].due
    here = f"mlops backtest walkforward {pipeline.name} --start {_day(first)} --end {_day(last)} --every {every} --make"
    return Start(tuple(commands), tuple((f"/dags/{dag_id}/dagRuns", body) for body in bodies), (here,))


def _backfill_command(dag_id: str, first: datetime, last: datetime, parallel: int) -> str:
    dates = ["--from-date", _day(first), "--to-date", _day(last)]
    return shlex.join(["airflow", "backfill", "create", "--dag-id", dag_id, *dates, "--max-active-runs", str(parallel)])


def _backfill_body(dag_id: str, first: datetime, last: datetime, parallel: int) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "from_date": first.isoformat(),
        "to_date": last.isoformat(),
        "max_active_runs": parallel,
        "reprocess_behavior": "none",
        "dag_run_conf": {},
    }


def _day(time: datetime) -> str:
    return f"{time:%Y-%m-%d}" if (time.hour, time.minute, time.second) == (0, 0, 0) else f"{time:%Y-%m-%dT%H:%M:%S}+00:00"
