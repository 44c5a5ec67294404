"""A row of the stage table to a task of a DAG: what is asked of the stage, how it is run, how its failures end the task."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mlops_links import AcknowledgeLink, DataDocsLink, MlflowRunLink, ReportLink
from mlops_requests import Request, RunFacts, resolve, run_key
from mlops_tasks.errors import ModelRejected, NothingToDo, PipelineError

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg
    from airflow.sdk.bases.operatorlink import BaseOperatorLink

    from mlops_tasks.runner import Invocation, Outcome
    from mlops_tasks.specs import PipelineSpec

LINKS: dict[str, tuple[BaseOperatorLink, ...]] = {
    "validate_raw": (DataDocsLink(),),
    "validate": (DataDocsLink(),),
    "train": (MlflowRunLink(),),
    "evaluate": (ReportLink(), MlflowRunLink()),
    "deploy": (MlflowRunLink(),),
    "monitor": (ReportLink(), AcknowledgeLink()),
}
FACTS = "facts"
"""XCom key of what later tasks decide on: a few numbers and words, never rows."""


class TaskFailed(AirflowFailException):
    """A failure that a retry can't help; its text is what the user needs to know."""


class TaskSkipped(AirflowSkipException):
    """An ordinary end without a result."""


def run_in_process(invocation: Invocation) -> Outcome:
    """Run a stage in the task's own process."""
    from mlops_tasks.adapters.progress import LogProgress  # noqa: PLC0415 - heavy: only the process that runs the stage pays for it
    from mlops_tasks.runner import invoke  # noqa: PLC0415 - likewise
    from mlops_tasks.wiring import Adapters  # noqa: PLC0415 - likewise

    adapters = Adapters()
    adapters.progress = LogProgress(sys.stdout)  # Airflow shows what comes on stderr as errors
    return invoke(invocation, adapters=adapters)


RUNTIMES: dict[str, Callable[[Invocation], Outcome]] = {"process": run_in_process}
"""MLOPS_RUNTIME -> how a `StageOperator` runs its stage; for `docker` there is an operator of its own, in `mlops_docker`."""


class StageOperator(BaseOperator):
    """Runs one stage on the run's window; its result is the handle of what the stage published."""

    ui_color = "#e8f1fb"
    template_fields = ("inputs",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json"}
    inputs: dict[str, XComArg]

    def __init__(
        self,
        *,
        stage: str,
        pipeline: PipelineSpec,
        inputs: Mapping[str, XComArg] | None = None,
        length: timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        """Run `stage` of `pipeline`; `length`: the range of a run that names no dates, up to its interval's end."""
        super().__init__(**kwargs)
        self.stage = stage
        self.pipeline = pipeline.name
        self.cadence = pipeline.cadence
        self.first_window: datetime = pipeline.schedule.start
        self.length = length
        self.inputs = dict(inputs or {})
        self.links: dict[str, str] = {}
        self.why = ""
        self.operator_extra_links = LINKS.get(stage, ())
        self.on_failure_callback = self.on_retry_callback = self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> dict[str, str]:
        """Run the stage; return `{uri, digest}`.

        Raises:
            AirflowFailException: a wrong spec, rejected data, a first model that fails its gate.
            AirflowSkipException: nothing to do, or a candidate that loses to the champion.

        """
        try:
            outcome = self.perform(context)
        except PipelineError as error:
            self._end(error, context)
        self.links = dict(outcome.links)
        if outcome.facts:
            context["ti"].xcom_push(key=FACTS, value=dict(outcome.facts))
        self.log.info("%s: %d computed, %d cached. %s", self.stage, outcome.computed, outcome.cached, outcome.note)
        return {"uri": outcome.handle.uri, "digest": outcome.handle.digest}

    def perform(self, context: Context) -> Outcome:
        """Run the stage where this operator runs stages. Raises: PipelineError."""
        return _runtime()(self.invocation(context))

    def request(self, context: Context) -> Request:
        """Work out what the run asks for. Raises: SpecError."""
        return resolve(facts_of(context), cadence=self.cadence, length=self.length, first=self.first_window)

    def invocation(self, context: Context) -> Invocation:
        """Build what the runner is given. Raises: SpecError."""
        request, facts = self.request(context), facts_of(context)
        from mlops_tasks.runner import Handle, Invocation  # noqa: PLC0415 - see run_in_process

        return Invocation(
            stage=self.stage,
            pipeline=self.pipeline,
            run_id=run_key(facts) + _element(context),
            intent=request.intent,
            start=request.start,
            end=request.end,
            inputs={name: Handle.model_validate(handle) for name, handle in self.inputs.items()},
            overrides=request.overrides,
            reason=request.reason,
            who=facts.user or "airflow",
            now=context["ti"].start_date,
        )

    def _end(self, error: PipelineError, context: Context) -> NoReturn:
        """Map a failure of ours to what Airflow does about it."""
        self.why = text = f"{type(error).__name__}: {error}"
        if isinstance(error, NothingToDo) or (isinstance(error, ModelRejected) and _has_champion(context)):
            raise TaskSkipped(text) from error
        if not error.retryable:
            raise TaskFailed(text) from error
        raise error


def facts_of(context: Context) -> RunFacts:
    """Collect what a task's context knows of its run."""
    run = context["dag_run"]
    start, end = run.data_interval_start, run.data_interval_end
    return RunFacts(
        dag_id=run.dag_id,
        run_id=run.run_id,
        run_type=getattr(run.run_type, "value", run.run_type),
        conf=run.conf or {},
        params=dict(context["params"]),
        declared=tuple(context["dag"].params),
        interval=(start, end) if start and end else None,
        user=run.triggering_user_name or "",
    )


def say_why(context: Context) -> None:
    """Repeat the reason as the log's last line: a traceback stands below it otherwise, and skips show none."""
    why = getattr(context["task"], "why", "") or context.get("exception")
    if why:
        logging.getLogger("airflow.task").log(logging.ERROR if context.get("exception") else logging.INFO, "%s", why)


def runtime() -> str:
    """Return MLOPS_RUNTIME, by default `process`."""
    return os.environ.get("MLOPS_RUNTIME") or "process"


def _runtime() -> Callable[[Invocation], Outcome]:
    name = runtime()
    if name not in RUNTIMES:
        known = " or ".join((*RUNTIMES, "docker"))
        msg = f"SpecError: MLOPS_RUNTIME must be {known}, got {name!r}; unset it to run in the task's process"
        raise TaskFailed(msg)
    return RUNTIMES[name]


def _element(context: Context) -> str:
    """Tell the elements of a mapped task apart in the store."""
    index = getattr(context["ti"], "map_index", None)
    return "" if index is None or index < 0 else f".{index}"


def _has_champion(context: Context) -> bool:
    """Tell from the evaluation's facts whether another model goes on serving; unknown counts as no."""
    facts = context["ti"].xcom_pull(task_ids="evaluate", key=FACTS) or {}
    return facts.get("champion_version") is not None
