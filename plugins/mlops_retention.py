"""A pipeline's request log to one that holds no day that is older than it may be, in Airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from mlops_operator import TaskFailed, TaskSkipped, say_why
from mlops_tasks.errors import NothingToDo, PipelineError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_tasks.specs import PipelineSpec


class RemoveOldAnswers(BaseOperator):
    """Removes days of a request log that are older than `serve.log.retain`."""

    ui_color = "#f3f3f3"

    def __init__(self, *, pipeline: PipelineSpec, **kwargs: Any) -> None:
        """Look after the request log of `pipeline`."""
        super().__init__(**kwargs)
        self.pipeline = pipeline.name
        self.why = ""
        self.on_failure_callback = self.on_retry_callback = self.on_skipped_callback = [say_why]

    def execute(self, context: Context) -> dict[str, Any]:
        """Remove them; return how many files, and which days. Raises: AirflowSkipException: no day is older."""
        from mlops_tasks.runner.erasing import retain  # noqa: PLC0415 - heavy: only this task's process pays for it

        del context
        try:
            removed = retain(self.pipeline, now=datetime.now(UTC))
        except NothingToDo as error:
            self.why = str(error)
            raise TaskSkipped(self.why) from error
        except PipelineError as error:
            if error.retryable:
                raise
            msg = f"{type(error).__name__}: {error}"
            raise TaskFailed(msg) from error
        self.log.info("%d files of %s removed", removed["files"], ", ".join(removed["days"]))
        return removed
