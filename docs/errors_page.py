"""`mlops_tasks/errors.py` to docs/reference/errors.md."""

from __future__ import annotations

from mlops_tasks.errors import PipelineError

INTRO = """# Errors and exit codes

Every failure that is anticipated is a `PipelineError`: one line that says where, what, got, and what to do.
It ends a command with the code below. Anything else is a bug: a traceback and exit code 1. Success is 0.

"Retry" says whether Airflow tries the task again: a retry may mend a store that did not answer, never a
wrong spec.

| code | error | meaning | retry |
|---|---|---|---|
"""


def errors_page() -> str:
    """Return the page."""
    return INTRO + "\n".join(_row(error) for error in sorted(kinds(), key=lambda kind: kind.exit_code)) + "\n"


def kinds() -> list[type[PipelineError]]:
    """Return every kind of `PipelineError` that `errors.py` defines."""
    found, queue = [], [PipelineError]
    while queue:
        children = queue.pop().__subclasses__()
        found += [child for child in children if child.__module__ == PipelineError.__module__]
        queue += children
    return found


def _row(error: type[PipelineError]) -> str:
    meaning = " ".join((error.__doc__ or "").split())
    return f"| {error.exit_code} | `{error.__name__}` | {meaning} | {'yes' if error.retryable else 'no'} |"
