"""A pipeline's spec to the parts that its DAGs are made of: schedule, docs, params, stages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from airflow.sdk import CronDataIntervalTimetable, Param, get_parsing_context

from mlops_operator import StageOperator, runtime
from mlops_requests import MOST_REASON
from mlops_tasks.durations import format_duration
from mlops_tasks.errors import SpecError
from mlops_tasks.loading import load_pipeline, pipeline_names, pipelines_root
from mlops_tasks.pipeline import BY_NAME, Stage
from mlops_tasks.specs import Cadence, PipelineSpec

CRON: dict[Cadence, str] = {"hour": "0 * * * *", "day": "0 0 * * *", "week": "0 0 * * 1", "month": "0 0 1 * *"}
LONGEST: dict[Cadence, timedelta] = {
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    "month": timedelta(days=31),
}
"""How long a window is at most."""
GPU_POOL = "gpu"
REAPER = "mlops.reaper"


def pipelines(kind: str) -> Iterator[PipelineSpec]:
    """Yield the pipelines whose `<name>.<kind>` DAG is wanted: in a task's process one, else all that can be read.

    A folder that can't be read takes no other pipeline's DAG down; `dags/check.py` reports it.

    Raises:
        SpecError: there is no folder of pipelines, or the one that is wanted can't be read.

    """
    wanted = get_parsing_context().dag_id
    if wanted is not None:
        name, _, suffix = wanted.rpartition(".")
        if suffix == kind:
            yield read(name)
        return
    for name in pipeline_names():
        try:
            spec = read(name)
        except SpecError:
            continue
        yield spec


def problems() -> list[str]:
    """Return what is wrong with the folders of pipelines, one text for each that can't be read."""
    found = []
    for name in pipeline_names():
        try:
            read(name)
        except SpecError as error:
            found.append(str(error))
    return found


def read(name: str) -> PipelineSpec:
    """Read a pipeline's folder, once for all DAG files of a process while its files stay as they are. Raises: SpecError."""
    folder = pipelines_root() / name
    files = [(file.name, file.stat()) for file in folder.glob("*.*")]
    return _read(name, folder, frozenset((file, stat.st_mtime_ns, stat.st_size) for file, stat in files))


@lru_cache(maxsize=1024)
def _read(name: str, folder: Path, files: frozenset[tuple[str, int, int]]) -> PipelineSpec:  # noqa: ARG001 - part of the key
    return load_pipeline(name, folder.parent)


def every_window(spec: PipelineSpec) -> CronDataIntervalTimetable:
    """Schedule one run for each window, after its end; its data interval is the window."""
    return CronDataIntervalTimetable(CRON[spec.cadence], timezone="UTC")


def about(spec: PipelineSpec, kind: str, summary: str, **more: Any) -> dict[str, Any]:
    """Return the arguments that all DAGs of a pipeline share: id, docs, owner, tags, retries."""
    return {
        "dag_id": f"{spec.name}.{kind}",
        "description": summary,
        "doc_md": f"### {spec.name}.{kind}\n\n{summary}\n\n{spec.description}\n\nOwner: {spec.owner}.",
        "tags": sorted({"mlops", spec.name, *spec.tags}),
        "start_date": spec.schedule.start,
        "catchup": False,
        "default_args": {
            "owner": spec.owner,
            "retries": 3,
            "retry_delay": timedelta(seconds=15),
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=10),
        },
        **more,
    }


def reaps() -> bool:
    """Tell whether the DAG that removes lost containers is wanted: in a task's process only if it is the task's own."""
    return runtime() == "docker" and get_parsing_context().dag_id in {None, REAPER}


def about_reaper() -> dict[str, Any]:
    """Return the arguments of the DAG that removes lost containers; it is on from the start."""
    summary = "Removes containers of this installation that no task owns any more, and says why."
    return {
        "dag_id": REAPER,
        "description": summary,
        "doc_md": f"### {REAPER}\n\n{summary}",
        "tags": ["mlops"],
        "start_date": datetime(2024, 1, 1, tzinfo=UTC),
        "catchup": False,
        "is_paused_upon_creation": False,
        "default_args": {"retries": 2, "retry_delay": timedelta(seconds=30)},
    }


def stage_operator() -> type[StageOperator]:
    """Return the operator of MLOPS_RUNTIME; one that it doesn't know says so when it runs."""
    if runtime() == "docker":
        from mlops_docker import DockerStageOperator  # noqa: PLC0415 - 1 s of imports that only this runtime needs

        return DockerStageOperator
    return StageOperator


def _slots(stage: Stage, spec: PipelineSpec) -> dict[str, Any]:
    """Take a slot of the GPUs' pool for each GPU; the stages that use one if it is there wait for one slot."""
    granted = spec.resources.get(stage.name)  # type: ignore[call-overload]  # a stage of the table
    gpus = granted.gpus if granted else 0
    return {"pool": GPU_POOL, "pool_slots": max(gpus, 1)} if gpus or stage.gpu else {}


class Stages:
    """Makes the tasks of one DAG from the stage table."""

    def __init__(self, spec: PipelineSpec, *, length: timedelta | None = None) -> None:
        """Make tasks of `spec`; `length`: the range of a run that names no dates."""
        self._spec = spec
        self._length = length

    def __call__(self, name: str, *, more: dict[str, Any] | None = None, **inputs: StageOperator) -> StageOperator:
        """Make the task of a stage; each input is the task that makes it."""
        stage = BY_NAME[name]
        return stage_operator()(
            stage=name,
            pipeline=self._spec,
            inputs={parameter: task.output for parameter, task in inputs.items()},
            length=self._length,
            task_id=name,
            task_display_name=name.replace("_", " "),
            doc_md=stage.summary,
            execution_timeout=timedelta(seconds=stage.timeout_s),
            **_slots(stage, self._spec),
            **(more or {}),
        )


def window_params(spec: PipelineSpec, default: str) -> dict[str, Param]:
    """Return the params `start` and `end` of a run's window."""
    text = "Start of {} `{}` in UTC, e.g. `2013-01-31`. Empty: " + default
    kind: dict[str, Any] = {"type": ["null", "string"], "format": "date-time"}
    return {
        "start": Param(None, title="Start", description_md=text.format("the first", spec.cadence), **kind),
        "end": Param(None, title="End", description_md=text.format("the one after the last", spec.cadence), **kind),
    }


def watched_range(spec: PipelineSpec) -> timedelta | None:
    """Return how long a range a run of `.monitor` looks at that names no dates; None: its window alone.

    With labels that come late, that are also the windows whose labels came since the run before, and one more for a run that
    was missed: what did not change in them is not made again.
    """
    delay = spec.snapshot.label_delay
    return delay + 2 * LONGEST[spec.cadence] if delay else None


def labels_since(spec: PipelineSpec) -> str:
    """Say of which windows a run of `.monitor` looks again."""
    delay = spec.snapshot.label_delay
    return f" and the windows of the {format_duration(delay)} before, whose labels came meanwhile" if delay else ""


def reason_param(*, required: bool = False) -> Param:
    """Return the param `reason`."""
    return Param(
        None,
        type="string" if required else ["null", "string"],
        minLength=1 if required else 0,
        maxLength=MOST_REASON,
        title="Reason",
        description_md="Why this run is started; kept with its results.",
    )


def train_params(spec: PipelineSpec) -> dict[str, Param]:
    """Return the params of `.train`, in the order of its form."""
    days = spec.schedule.train_range.days
    return {
        **window_params(spec, f"the latest {days} days before the end of the run's data interval."),
        "promote": Param(
            spec.deploy.promote,
            enum=["auto", "ask", "never"],
            type="string",
            title="Put into service",
            values_display={"auto": "if it passes its gate", "ask": "if it passes and a person approves", "never": "no"},
            description_md="What happens to a model that **passes its gate**. `never` registers it as challenger. "
            "One that fails its gate is never put into service.",
        ),
        "trials": Param(
            spec.train.trials,
            type="integer",
            minimum=1,
            maximum=1000,
            title="Trials",
            description_md="Hyperparameter trials; `1` trains once with the pipeline's own settings.",
        ),
        "reason": reason_param(),
        "intent": Param(
            None,
            enum=[None, "drift", "backfill"],
            type=["null", "string"],
            title="Intent",
            section="Set by programs",
            description_md="Leave empty. `.monitor` sets `drift` here. `backfill` makes a model as it would have been then, "
            "judged against the model of that time, and never promotes it.",
        ),
    }


def rollback_params() -> dict[str, Param]:
    """Return the params of `.rollback`."""
    return {
        "version": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            title="Version",
            description_md="Version in the model registry. Empty: the one that served before.",
        ),
        "reason": reason_param(required=True),
    }


def acknowledge_params() -> dict[str, Param]:
    """Return the params of `.acknowledge`."""
    return {
        "window": Param(
            None,
            type="string",
            format="date-time",
            title="Window",
            description_md="Start of the alarmed window in UTC, e.g. `2013-07-04`.",
        ),
        "through": Param(
            None,
            type=["null", "string"],
            format="date-time",
            title="Through",
            description_md="Start of the last window. Empty: this one window.",
        ),
        "reason": reason_param(required=True),
    }
