"""Containers of this installation and what Airflow knows of their tasks to the containers that nobody owns any more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

OWNING = {None, "scheduled", "queued", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule"}
"""States of a task that may still follow its container, or take it up again."""
KEPT_ENDED = timedelta(hours=1)
LABEL = "io.mlops-tasks."

States = Callable[[str, str, str], Mapping[str, str | None]]
"""DAG, run, task -> Airflow's names of the task's instances -> their states; without those that Airflow doesn't know."""


@dataclass(frozen=True)
class Found:
    """One container of ours."""

    container: str
    dag: str
    run: str
    task: str
    number: int
    map_index: int
    running: bool
    ended: datetime | None

    @classmethod
    def of(cls, inspected: Mapping[str, Any]) -> Self:
        """Read what the engine says of a container."""
        said = {name.removeprefix(LABEL): value for name, value in inspected["Config"]["Labels"].items()}
        state = inspected["State"]
        ended = datetime.fromisoformat(state["FinishedAt"]) if state["Status"] in {"exited", "dead"} else None
        return cls(
            container=inspected["Id"],
            dag=said["dag"],
            run=said["run"],
            task=said["task"],
            number=int(said["try"]),
            map_index=int(said["map_index"]),
            running=state["Running"],
            ended=ended,
        )

    @property
    def instance(self) -> tuple[str, str, str, int]:
        """The task instance that it works for."""
        return self.dag, self.run, self.task, self.map_index

    @property
    def name(self) -> str:
        """What Airflow calls the instance among a run's."""
        return self.task if self.map_index < 0 else f"{self.task}_{self.map_index}"


def find_lost(containers: Iterable[Found], states: States, now: datetime) -> list[tuple[Found, str]]:
    """Return the containers that nobody owns, each with why."""
    everything = list(containers)
    latest: dict[tuple[str, str, str, int], int] = {}
    for found in everything:
        latest[found.instance] = max(found.number, latest.get(found.instance, 0))
    judged = [(found, _why_lost(found, latest[found.instance], states, now)) for found in everything]
    return [(found, why) for found, why in judged if why]


def _why_lost(found: Found, latest: int, states: States, now: datetime) -> str:
    if found.number < latest:
        return f"try {latest} has a container of its own"
    if found.ended is not None and now - found.ended > KEPT_ENDED:
        return f"it ended at {found.ended:%Y-%m-%dT%H:%M:%SZ} and nobody took its answer"
    known = states(found.dag, found.run, found.task)
    if found.name not in known:
        return "Airflow knows no such task"
    state = known[found.name]
    return "" if state in OWNING else f"its task is {state}"


class RemoveLostContainers(BaseOperator):
    """Removes the containers of this installation that no task owns."""

    ui_color = "#f3f3f3"

    def __init__(self, **kwargs: Any) -> None:
        """Look on the engine of DOCKER_HOST when run."""
        super().__init__(**kwargs)

    def execute(self, context: Context) -> dict[str, str]:
        """Remove them; return container -> why. Raises: AirflowException: the engine can't be reached."""
        from mlops_docker import connect, remove  # noqa: PLC0415 - heavy: only this task's process pays for it

        client = connect(os.environ)
        removed = {}
        for found, why in find_lost(list_ours(client, os.environ), _ask(context), datetime.now(UTC)):
            self.log.info(
                "Removing container %s of %s, run %s, try %d: %s", found.container[:12], *found.instance[:2], found.number, why
            )
            remove(client, found.container)
            removed[found.container[:12]] = why
        self.log.info("%d containers removed", len(removed))
        return removed


def list_ours(client: Any, environ: Mapping[str, str]) -> list[Found]:
    """Return the containers of this installation; one that goes meanwhile is left out."""
    from docker.errors import NotFound  # noqa: PLC0415 - see RemoveLostContainers.execute

    from mlops_container import deployment  # noqa: PLC0415 - likewise

    ours = []
    for listed in client.containers(all=True, filters={"label": [f"{LABEL}deployment={deployment(environ)}"]}):
        try:
            ours.append(Found.of(client.inspect_container(listed["Id"])))
        except NotFound:
            continue
    return ours


def _ask(context: Context) -> States:
    """Ask Airflow as any task may: through its task execution interface."""
    ti: Any = context["ti"]

    def states(dag: str, run: str, task: str) -> Mapping[str, str | None]:
        answer: Mapping[str, Mapping[str, str | None]] = ti.get_task_states(dag_id=dag, task_ids=[task], run_ids=[run])
        return answer.get(run, {})

    return states
