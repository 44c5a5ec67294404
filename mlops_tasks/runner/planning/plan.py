"""A backfill to what it will cost before it is run: runs, rows, bytes, minutes, what is there already, how to start it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from mlops_tasks.artifacts import Intent, Window
from mlops_tasks.core.windows import windows_between
from mlops_tasks.durations import format_duration
from mlops_tasks.errors import PipelineError
from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN
from mlops_tasks.runner.history import SETTINGS, busyness, cores, read_history
from mlops_tasks.runner.planning.lookup import Lookup, WindowFound, count_states
from mlops_tasks.runner.planning.rates import Estimate, Rates, Throughput, add_up, wall_of
from mlops_tasks.runner.planning.runs import (
    PARALLEL,
    Kind,
    Run,
    ingest_runs,
    start_ingest,
    start_scheduled_trainings,
    start_single_trainings,
    train_runs,
)
from mlops_tasks.runner.planning.sizes import Sizes, measure_windows
from mlops_tasks.runner.planning.trainings import Trainings
from mlops_tasks.runner.runner import Runner
from mlops_tasks.specs import Cadence, PipelineSpec
from mlops_tasks.wiring import Adapters

INTENT: Intent = "backfill"
MOST_RECORDS = 400
"""Of each kind of run: those of a hundred windows, or of fifty trainings."""
BUSY = 1.5
"""Work that takes so many times longer for others' sake is worth a note."""


@dataclass(frozen=True)
class Asked:
    """What is to be planned."""

    kind: Kind
    start: datetime
    end: datetime
    every: Cadence | None = None
    parallel: int | None = None


class Planner:
    """Plans one backfill of one pipeline; runs nothing."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters, asked: Asked, *, now: datetime) -> None:
        """Plan what is asked as of `now`."""
        self._pipeline, self._adapters, self._asked, self._now = pipeline, adapters, asked, now
        self._parallel = asked.parallel or PARALLEL[asked.kind]
        self._rates = Rates(read_history(adapters.store, pipeline.name, most=MOST_RECORDS))
        self._notes: list[str] = []

    def plan(self) -> dict[str, Any]:
        """Return the plan. Raises: SpecError: the range or schedule does not fit; StoreUnavailable."""
        asked, pipeline = self._asked, self._pipeline
        if asked.kind == "ingest":
            runs = self._ended(ingest_runs(pipeline, asked.start, asked.end))
            start = start_ingest(pipeline, runs, self._parallel)
        else:
            runs = train_runs(pipeline, asked.start, asked.end, asked.every)
            start = (
                start_single_trainings(pipeline, runs, asked.every)
                if asked.every
                else start_scheduled_trainings(pipeline, asked.start, asked.end, self._parallel)
            )
        found, sizes = self._look(runs)
        if asked.kind == "ingest":
            likely, most = (self._ingest_time(runs, found, bound) for bound in ("likely", "most"))
            time = self._time_told(likely, most)
            return time | self._told(runs, found, sizes) | {"trainings": [], "start_with": asdict(start)}
        trainings = self._trainings(runs, found, sizes)
        whole = self._train_time(trainings)
        time, told = self._time_told(whole, whole), [_training_told(training) for training in trainings]
        return time | self._told(runs, found, sizes) | {"trainings": told, "start_with": asdict(start)}

    def _ended(self, runs: list[Run]) -> list[Run]:
        """Leave out windows that may still get rows: they can't be collected yet."""
        lateness = self._pipeline.collect.allowed_lateness
        ready = [run for run in runs if run.range.end + lateness <= self._now]
        if len(ready) < len(runs):
            late = f" and rows may be {format_duration(lateness)} late" if lateness else ""
            self._notes.append(f"{len(runs) - len(ready)} windows have not ended{late}: their runs would find nothing to do")
        return ready or runs

    def _look(self, runs: Sequence[Run]) -> tuple[dict[Window, WindowFound], Sizes]:
        cadence = self._pipeline.cadence
        windows = sorted({w for r in runs for w in windows_between(r.range.start, r.range.end, cadence)}, key=lambda w: w.start)
        lookup = Lookup(self._pipeline, self._adapters)
        found = lookup.windows(windows)
        if lookup.unread:
            names = ", ".join(sorted(lookup.unread))
            self._notes.append(f"rows of {names} are taken to be unchanged: to know it they would have to be read")
        return {item.window: item for item in found}, measure_windows(self._pipeline, self._adapters, found)

    def _ingest_time(self, runs: Sequence[Run], found: Mapping[Window, WindowFound], bound: str) -> Estimate:
        """Estimate the wall time; `most` counts what is cached perhaps as made, `likely` as cached."""
        each = [self._ingest_run([found[run.range]], bound) for run in runs]
        busy = [run for run, stages in zip(runs, each, strict=True) if any(made for _, made in stages.values())]
        measured = self._rates.throughput()
        if measured is not None and busy:
            per_run = _at(measured, self._parallel)
            idle = wall_of([_sum(stages) for stages in each if not any(made for _, made in stages.values())], 4, self._parallel)
            told = f"an earlier backfill of {measured.runs} windows on {measured.day}"
            seconds = per_run * len(busy) + idle.seconds
            return Estimate(seconds, 0.8 * seconds, 1.25 * seconds, told)
        return wall_of([_sum(stages) for stages in each], len(INGEST), self._parallel)

    def _ingest_run(self, items: Sequence[WindowFound], bound: str) -> dict[str, tuple[Estimate, int]]:
        """Estimate each stage of a run over windows, and how many it makes."""
        made = {stage: sum(_is_made(item, stage, bound) for item in items) for stage in INGEST}
        return {stage: (self._rates.stage(stage, windows=count, rows=0), count) for stage, count in made.items()}

    def _trainings(self, runs: Sequence[Run], found: Mapping[Window, WindowFound], sizes: Sizes) -> list[dict[str, Any]]:
        """Estimate each training in order: a window that one brings in is there for the next."""
        runner = Runner(self._pipeline, self._adapters)
        trainings = Trainings(runner, self._adapters, INTENT)
        rows = {window: size.rows for window, size in zip(found, sizes.each, strict=True)}
        brought: set[Window] = set()
        told = []
        for run in runs:
            inside = [item for window, item in found.items() if run.range.start <= window.start < run.range.end]
            missing = [item for item in inside if not item.is_in and item.window not in brought]
            brought |= {item.window for item in missing}
            cached, why = self._cached_stages(trainings, inside)
            count = sum(rows[item.window] for item in inside)
            stages = {stage: e for stage, (e, _) in self._ingest_run(missing, "most").items()}
            stages |= {stage: self._train_stage(stage, count, made=stage not in cached) for stage in TRAIN}
            told.append(
                {
                    "due": run.due,
                    "start": run.range.start,
                    "end": run.range.end,
                    "rows": count,
                    "windows_to_make": len(missing),
                    "cached": list(cached),
                    "reason": why,
                    "estimate": add_up(stages.values()),
                    "stages": stages,
                }
            )
        return told

    def _cached_stages(self, trainings: Trainings, inside: Sequence[WindowFound]) -> tuple[tuple[str, ...], str]:
        features = [item.valid for item in inside if item.valid is not None]
        if len(features) < len(inside):
            return (), "windows are missing or made anew"
        try:
            found = trainings.look(features)
        except PipelineError as error:
            self._notes.append(f"whether trainings are cached could not be looked up to the end: {error}")
            return (), "not known"
        return found.cached, found.reason

    def _train_stage(self, stage: str, rows: int, *, made: bool) -> Estimate:
        spec = BY_NAME[stage].spec_of(self._pipeline).model_dump(mode="json")
        settings = {name: spec[name] for name in SETTINGS.get(stage, ())}
        return self._rates.stage(stage, windows=int(made), rows=rows, settings=settings)

    def _train_time(self, trainings: Sequence[dict[str, Any]]) -> Estimate:
        return wall_of([training["estimate"] for training in trainings], len(INGEST) + len(TRAIN) + 1, self._parallel)

    def _time_told(self, likely: Estimate, most: Estimate) -> dict[str, Any]:
        """Say the minutes; a machine that is busier, or less busy, than it was may stay so, which the bounds allow for."""
        busy = busyness() / self._rates.busyness
        if busy > BUSY:
            self._notes.append(
                f"this machine is busier than it was: while it stays so, expect up to {busy:.0f} times as long where it runs"
            )
        minutes = {"likely": likely.seconds, "low": likely.low * min(busy, 1.0), "high": most.high * max(busy, 1.0)}
        return {"minutes": {name: round(seconds / 60, 2) for name, seconds in minutes.items()} | {"basis": most.basis}}

    def _told(self, runs: Sequence[Run], found: Mapping[Window, WindowFound], sizes: Sizes) -> dict[str, Any]:
        """Say what there is and what is asked for."""
        return {
            "pipeline": self._pipeline.name,
            "for": self._asked.kind,
            "start": self._asked.start,
            "end": self._asked.end,
            "runs": len(runs),
            "windows": {
                "total": len(found),
                "in_already": sum(item.is_in for item in found.values()),
                "stages": count_states(found.values()),
            },
            "reasons": _reasons(found.values()),
            "rows": {"total": sizes.rows, "estimated_windows": sizes.estimated, "basis": sizes.basis},
            "bytes": {"total": sizes.bytes, "estimated_windows": sizes.estimated, "basis": sizes.basis},
            "assumed": {"max_active_runs": self._parallel, "cores": cores()},
            "notes": list(dict.fromkeys(self._notes)),
        }


def _is_made(item: WindowFound, stage: str, bound: str) -> bool:
    return item.states[stage] == "make" or (bound == "most" and item.states[stage] == "perhaps")


def _sum(stages: Mapping[str, tuple[Estimate, int]]) -> Estimate:
    return add_up(estimate for estimate, _ in stages.values())


def _at(measured: Throughput, parallel: int) -> float:
    """Return seconds a run with so many at a time: fewer than were measured take longer, more don't help full cores."""
    return measured.seconds_per_run * max(1.0, measured.active / parallel)


def _reasons(found: Iterable[WindowFound]) -> dict[str, dict[str, int]]:
    """Count why windows are made, by stage."""
    counted: dict[str, dict[str, int]] = {}
    for item in found:
        for stage, why in item.reasons.items():
            counted.setdefault(stage, {}).setdefault(why, 0)
            counted[stage][why] += 1
    return counted


def _training_told(training: dict[str, Any]) -> dict[str, Any]:
    estimate: Estimate = training["estimate"]
    stages = {stage: round(found.seconds, 1) for stage, found in training["stages"].items()}
    return {key: value for key, value in training.items() if key not in {"estimate", "stages"}} | {
        "minutes": round(estimate.seconds / 60, 2),
        "seconds_by_stage": stages,
    }
