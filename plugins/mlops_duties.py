"""What Airflow asks to be done about a model beside its stages: done where stages are run, so in a container if they are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from airflow.sdk import BaseOperator

from mlops_operator import TaskFailed, TaskSkipped, facts_of, run_in_process, runtime, say_why
from mlops_requests import refuse_unknown, run_key
from mlops_tasks.errors import NothingToDo, PipelineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from mlops_docker import DockerStageOperator
    from mlops_tasks.runner import Invocation, Outcome
    from mlops_tasks.specs import PipelineSpec


Told = TypeVar("Told")


class TellingTask(BaseOperator):
    """Ends as its work did, skipped or failed, and says why as its log's last line."""

    nothing_fails: ClassVar[bool] = False
    """Whether a task fails that finds nothing to do: somebody asked for it, and must hear that it was not done."""

    def __init__(self, **kwargs: Any) -> None:
        """Say why on each end but a good one."""
        super().__init__(**kwargs)
        self.why = ""
        self.on_failure_callback = self.on_retry_callback = self.on_skipped_callback = [say_why]

    def told(self, work: Callable[[], Told]) -> Told:
        """Do the work; what can't be mended by a retry fails the task at once.

        Raises:
            AirflowSkipException: there is nothing to do.
            AirflowFailException: what a retry can't mend.

        """
        try:
            return work()
        except PipelineError as error:
            if error.retryable:
                raise
            self.why = f"{type(error).__name__}: {error}"
            if isinstance(error, NothingToDo) and not self.nothing_fails:
                raise TaskSkipped(self.why) from error
            raise TaskFailed(self.why) from error


class DutyTask(TellingTask):
    """Has a duty of the runner done, where stages are run."""

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Look after the model of `pipeline`."""
        super().__init__(**kwargs)
        self.spec = pipeline
        self.pipeline = pipeline.name
        self._container: DockerStageOperator | None = None

    def ask(self, duty: str, context: Context, *, who: str = "", reason: str = "", **arguments: Any) -> dict[str, Any]:
        """Have a duty done; return its result. Raises: as `told` does."""
        return self.told(partial(self._ask, duty, context, who=who, reason=reason, **arguments))

    def on_kill(self) -> None:
        """Stop what is under way."""
        if self._container is not None:
            self._container.on_kill()

    def _ask(self, duty: str, context: Context, *, who: str, reason: str, **arguments: Any) -> dict[str, Any]:
        from mlops_tasks.runner import Invocation  # noqa: PLC0415 - heavy: only this task's process pays for it

        facts, now = facts_of(context), context["ti"].start_date
        refuse_unknown(facts)
        invocation = Invocation(
            stage=duty,
            pipeline=self.pipeline,
            run_id=run_key(facts),
            intent="manual",
            start=now,
            end=now,
            arguments=arguments,
            reason=reason,
            who=who or facts.user or "airflow",
            now=now,
        )
        return dict(self._perform(invocation, context).facts)

    def _perform(self, invocation: Invocation, context: Context) -> Outcome:
        if runtime() != "docker":
            return run_in_process(invocation)
        from mlops_docker import DockerDuty  # noqa: PLC0415 - 1 s of imports that only this runtime needs

        self._container = DockerDuty(invocation=invocation, pipeline=self.spec, task_id=self.task_id)
        return self._container.perform(context)
