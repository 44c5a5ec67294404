"""A DAG run's params, configuration and interval to the explicit request that every stage gets.

Pure: no clock, no Airflow. The same run gives the same request in each of its tasks and tries.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.windows import floor, following, windows_between
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Intent
    from mlops_tasks.specs import Cadence

MOST_REASON = 500
"""Characters of a run's reason."""
OVERRIDES = {"trials": "train.trials", "promote": "deploy.promote"}
"""Param -> the key of the spec that it overrides."""


@dataclass(frozen=True)
class RunFacts:
    """What Airflow knows of a run."""

    dag_id: str
    run_id: str
    run_type: str
    conf: Mapping[str, Any]
    params: Mapping[str, Any]
    declared: Collection[str]
    """The DAG's own params; Airflow adds the unknown keys of `conf` to `params`."""
    interval: tuple[datetime, datetime] | None
    user: str = ""


@dataclass(frozen=True)
class Request:
    """What a run is asked to do: an aligned range of windows, why, and what differs from the spec."""

    start: datetime
    end: datetime
    intent: Intent
    overrides: dict[str, Any]
    reason: str


def resolve(facts: RunFacts, *, cadence: Cadence, length: timedelta | None = None, first: datetime | None = None) -> Request:
    """Work out a run's request; the params win over the run's data interval.

    Args:
        facts: the run.
        cadence: length of a window.
        length: with it, a run without dates gets the latest range of this length before its interval's end.
        first: the pipeline's first window; a default range never starts before it.

    Raises:
        SpecError: an unknown key, or a range that is half given, empty, unaligned or missing.

    """
    refuse_unknown(facts)
    start, end = _range(facts, cadence, length, first)
    overrides = {key: facts.params[name] for name, key in OVERRIDES.items() if facts.params.get(name) is not None}
    intent = _intent(facts)
    if intent == "backfill" and "promote" in facts.params:
        overrides["deploy.promote"] = "never"
    if overrides.get("deploy.promote") == "ask":
        overrides["deploy.promote"] = "auto"  # deploy runs only once a person has approved
    return Request(start, end, intent, overrides, str(facts.params.get("reason") or ""))


def refuse_unknown(facts: RunFacts) -> None:
    """Refuse a configuration with keys that are no params: Airflow would ignore them.

    Raises:
        SpecError: naming the first unknown key.

    """
    for key in facts.conf:
        if key not in facts.declared:
            close = difflib.get_close_matches(key, facts.declared, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(facts.declared)}"
            msg = f"{facts.dag_id}: conf has the unknown key {key!r}; {hint}"
            raise SpecError(msg)


def run_key(facts: RunFacts) -> str:
    """Name the run in the store; runs of several DAGs may share an id: `train-manual__2013-07-01T00:00:00+00:00`."""
    return f"{facts.dag_id.rpartition('.')[2]}-{facts.run_id}"


def _range(facts: RunFacts, cadence: Cadence, length: timedelta | None, first: datetime | None) -> tuple[datetime, datetime]:
    given = {name: facts.params.get(name) for name in ("start", "end")}
    if all(given.values()):
        return _checked(facts.dag_id, parse_time(facts, "start"), parse_time(facts, "end"), cadence)
    if any(given.values()):
        missing = "start" if given["end"] else "end"
        msg = f"{facts.dag_id}: {missing} is missing; give both start and end, or neither"
        raise SpecError(msg)
    if facts.interval is None:
        msg = f"{facts.dag_id}: run {facts.run_id} has neither start and end nor a data interval; give start and end"
        raise SpecError(msg)
    return _default(facts.interval, cadence, length, first)


def _default(
    interval: tuple[datetime, datetime], cadence: Cadence, length: timedelta | None, first: datetime | None
) -> tuple[datetime, datetime]:
    lower, upper = (floor(time.astimezone(UTC), cadence) for time in interval)
    if length is not None:
        lower = floor(upper - length, cadence)
    if first is not None and upper > first:
        lower = max(lower, first)
    # A manual run's interval may be shorter than a window: it then stands for the window that holds it.
    return (lower, upper) if lower < upper else (lower, following(lower, cadence))


def parse_time(facts: RunFacts, name: str) -> datetime:
    """Read one of the run's params as a time in UTC. Raises: SpecError."""
    value = facts.params[name]
    try:
        time = datetime.fromisoformat(str(value))
    except ValueError as error:
        msg = f"{facts.dag_id}: {name} must be a date or a date with a time, e.g. 2013-01-31, got {value!r}"
        raise SpecError(msg) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _checked(where: str, start: datetime, end: datetime, cadence: Cadence) -> tuple[datetime, datetime]:
    try:
        windows_between(start, end, cadence)
    except SpecError as error:
        msg = f"{where}: {error}"
        raise SpecError(msg) from error
    return start, end


def _intent(facts: RunFacts) -> Intent:
    """Read the run's type, never its id: a scheduled run that a backfill runs again keeps its id."""
    if is_backfill(facts.run_type, facts.params):
        return "backfill"
    if facts.params.get("intent") == "drift":
        return "drift"
    return "scheduled" if facts.run_type == "scheduled" else "manual"


def is_backfill(run_type: str, params: Mapping[str, Any]) -> bool:
    """Tell whether a run makes history up: by Airflow's backfill, or one by one as its params say."""
    return "backfill" in {str(getattr(run_type, "value", run_type)), params.get("intent")}
