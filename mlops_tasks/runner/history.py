"""What became of each stage of a run: when it ran, how long, over how much, why it was made or not, or why it failed.

`<pipeline>/outcomes/<run id>/<stage>.json` lies beside the result's own record and is part of no digest: plans estimate
by it, and `mlops explain` tells from it. A retry of a stage replaces what its failed try left.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlops_tasks.artifacts import Intent, UtcTime
from mlops_tasks.errors import PipelineError, StoreUnavailable, Superseded
from mlops_tasks.ports import ArtifactStore
from mlops_tasks.runner.invocation import Invocation, Outcome

READING_THREADS = 16
TOLD_BY_NOBODY = (Superseded, StoreUnavailable)
"""Failures that can't or must not be written down: another try has taken over, or there is nowhere to write to."""
SETTINGS = {"train": ("model", "trials", "max_epochs", "refit"), "evaluate": ("bootstrap",)}
"""Keys of a stage's spec that decide how long it takes."""


class Failed(BaseModel):
    """Why a stage gave no result."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    error: str
    message: str


class StageRecord(BaseModel):
    """One stage of one run, as it went; unknown fields of later versions are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: str
    pipeline: str
    run_id: str
    intent: Intent
    reason: str = ""
    who: str = ""
    start: UtcTime = Field(description="of the range that was asked for")
    end: UtcTime
    asked_at: UtcTime = Field(description="the run's clock: when its task started")
    ended_at: UtcTime = Field(description="when the stage had ended")
    seconds: float = Field(description="wall time of the stage's work")
    busy: float = Field(default=1.0, description="how many processes waited for each core when it ended; 1: cores were free")
    computed: int = 0
    cached: int = 0
    rows: int = Field(default=0, description="rows of its results, or of the dataset that it worked on")
    reasons: dict[str, int] = Field(default_factory=dict, description="why results were made anew -> how many of them")
    settings: dict[str, Any] = Field(default_factory=dict, description="keys of the spec that decide how long it takes")
    links: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)
    failure: Failed | None = None

    @property
    def began_at(self) -> float:
        """When the stage's work began, in seconds since 1970."""
        return self.ended_at.timestamp() - self.seconds


def outcome_key(pipeline: str, segment: str, stage: str) -> str:
    """Return the key of a stage's record; `segment`: the run's id as a part of a key."""
    return f"{pipeline}/outcomes/{segment}/{stage}.json"


def record_success(
    store: ArtifactStore,
    segment: str,
    invocation: Invocation,
    outcome: Outcome,
    *,
    reasons: Sequence[str],
    rows: int,
    settings: dict[str, Any],
    seconds: float,
    ended_at: datetime,
) -> None:
    """Record how a stage went; one that made something stays when its run finds all of it later. Raises: StoreUnavailable."""
    key = outcome_key(invocation.pipeline, segment, invocation.stage)
    if not outcome.computed and (earlier := _read(store, key)) is not None and earlier.computed:
        return
    record = _begun(invocation, seconds, ended_at).model_copy(
        update={
            "computed": outcome.computed,
            "cached": outcome.cached,
            "rows": rows,
            "reasons": dict(Counter(reasons)),
            "settings": settings,
            "links": outcome.links,
            "facts": outcome.facts,
        }
    )
    store.write(key, record.model_dump_json().encode())


def record_failure(
    store: ArtifactStore, segment: str, invocation: Invocation, error: PipelineError, *, seconds: float, ended_at: datetime
) -> None:
    """Record why a stage failed, if that can be written; the failure itself is what is raised then."""
    if isinstance(error, TOLD_BY_NOBODY):
        return
    failure = Failed(error=type(error).__name__, message=str(error))
    record = _begun(invocation, seconds, ended_at).model_copy(update={"failure": failure})
    with suppress(PipelineError):
        store.write(outcome_key(invocation.pipeline, segment, invocation.stage), record.model_dump_json().encode())


def _begun(invocation: Invocation, seconds: float, ended_at: datetime) -> StageRecord:
    return StageRecord(
        stage=invocation.stage,
        pipeline=invocation.pipeline,
        run_id=invocation.run_id,
        intent=invocation.intent,
        reason=invocation.reason,
        who=invocation.who,
        start=invocation.start,
        end=invocation.end,
        asked_at=invocation.now,
        ended_at=ended_at,
        seconds=round(seconds, 3),
        busy=round(busyness(), 2),
    )


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busyness() -> float:
    """Return how many times longer work takes while the machine is as busy as in the last minute; 1 where cores are free."""
    try:
        load = os.getloadavg()[0]
    except OSError:  # a platform that does not count it
        return 1.0
    return max(1.0, load / cores())


def read_history(store: ArtifactStore, pipeline: str, segment: str = "", *, most: int = 0) -> list[StageRecord]:
    """Return what was recorded of all runs, or of one, oldest first; records of another version are passed over.

    Args:
        store: where it is.
        pipeline: whose runs.
        segment: of one run; empty: of all.
        most: read no more than so many records of runs of one kind, those whose ids, which name dates, come last; 0: all.

    """
    prefix = f"{pipeline}/outcomes/{segment}/" if segment else f"{pipeline}/outcomes/"
    kinds: dict[str, list[str]] = {}
    for key in store.list(prefix):
        kinds.setdefault(key[len(prefix) :].partition("__")[0] if most else "", []).append(key)
    keys = [key for found in kinds.values() for key in found[-most:]]
    with ThreadPoolExecutor(READING_THREADS) as pool:
        records = [record for record in pool.map(lambda key: _read(store, key), keys) if record is not None]
    return sorted(records, key=lambda record: (record.ended_at, record.stage))


def _read(store: ArtifactStore, key: str) -> StageRecord | None:
    try:
        return StageRecord.model_validate_json(store.read(key))
    except (KeyError, ValidationError):
        return None


def run_segments(store: ArtifactStore, pipeline: str) -> list[str]:
    """Return the runs of which something is recorded, as parts of keys, sorted."""
    return sorted({segment for kind in ("runs", "outcomes") for segment in _segments(store, f"{pipeline}/{kind}/")})


def _segments(store: ArtifactStore, prefix: str) -> Iterator[str]:
    for key in store.list(prefix):
        yield key[len(prefix) :].partition("/")[0]
