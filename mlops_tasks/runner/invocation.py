"""What is asked of the runner, and what it answers: both JSON, so that they can be handed to a container and back."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mlops_tasks.artifacts import Frozen, Intent, UtcTime

if TYPE_CHECKING:
    from mlops_tasks.ports import ArtifactStore


class Handle(Frozen):
    """Where a stage's result is recorded (a key of the store), and the digest of that record."""

    uri: str
    digest: str


class Invocation(Frozen):
    """What one task of one run does; JSON, so that it can be handed to a container."""

    stage: str
    pipeline: str
    run_id: str
    intent: Intent
    start: UtcTime
    end: UtcTime
    inputs: dict[str, Handle] = Field(default_factory=dict, description="consumed parameter -> the producing task's handle")
    arguments: dict[str, Any] = Field(default_factory=dict, description="what a duty is asked to do; a stage takes none")
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted spec key -> value")
    reason: str = ""
    who: str = ""
    now: UtcTime
    recompute: bool = Field(default=False, description="make the result anew although it exists")


class Outcome(Frozen):
    """What became of an invocation."""

    handle: Handle
    cached: int
    computed: int
    note: str
    links: dict[str, str] = Field(default_factory=dict, description="what it shows -> store key or URL")
    facts: dict[str, Any] = Field(default_factory=dict, description="figures for people and for decisions")
    moved: dict[str, int] = Field(default_factory=dict, description="bytes and files that went between store and stage")


def path_segment(run_id: str) -> str:
    """Make a run id fit a key: Airflow's ids hold colons and pluses; a leading dot would hide it or lead away."""
    return re.sub(r"[^\w.=-]|^\.", "_", run_id, flags=re.ASCII)


def result_key(pipeline: str, run_id: str, stage: str) -> str:
    """Return where the results of a run's stage are recorded; a run id that fits a key already stays as it is."""
    return f"{pipeline}/runs/{path_segment(run_id)}/{stage}.json"


def read_result(store: ArtifactStore, pipeline: str, run_id: str, stage: str) -> dict[str, Any] | None:
    """Read the first result of a run's stage, as JSON; None while there is none."""
    try:
        found = json.loads(store.read(result_key(pipeline, run_id, stage)))
    except KeyError:
        return None
    first: dict[str, Any] = found["results"][0]
    return first
