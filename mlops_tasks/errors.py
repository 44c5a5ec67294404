"""Every failure that is anticipated, and the exit code that it ends a process with.

Wording of a message: where, what, got, what to do. Anything that is not a `PipelineError` is a bug:
it shows a traceback and exits with 1.
"""

from __future__ import annotations

from typing import ClassVar


class PipelineError(Exception):
    """A failure that its user can understand and mend; raised where it is seen, caught in the CLI."""

    exit_code: ClassVar[int]
    retryable: ClassVar[bool] = False


class SpecError(PipelineError):
    """A pipeline's folder, a parameter or an argument is wrong: a retry can't help."""

    exit_code = 2


class DataRejected(PipelineError):
    """Data broke a rule of its spec: nothing that depends on it may run."""

    exit_code = 3


class ModelRejected(PipelineError):
    """A model did not pass its gate or its checks: what serves now stays."""

    exit_code = 4


class ChampionMoved(ModelRejected):
    """Another model became champion after a candidate was judged: it must be judged against that one first."""

    exit_code = 9


class StoreUnavailable(PipelineError):
    """The artifact store or a source did not answer or is full: a retry may help."""

    exit_code = 5
    retryable = True


class RegistryUnavailable(PipelineError):
    """The tracking server or model registry did not answer: a retry may help."""

    exit_code = 6
    retryable = True


class Superseded(PipelineError):
    """Another try of the same task has taken over: this one may publish nothing any more."""

    exit_code = 7


class WorkerLost(PipelineError):
    """A process that shared a stage's work was killed or failed: a retry goes on from the newest checkpoint."""

    exit_code = 8
    retryable = True


class NothingToDo(PipelineError):
    """There is no work, e.g. the source has no data for the window yet."""

    exit_code = 99
