"""One try of one task, handed to a container (or a pod, or a remote job) through the store, and its answer.

`assign` writes `<pipeline>/tries/<run>/<stage>/<number>/assignment.json`: the invocation, the whole spec, the code that
the scheduler has. The container reads it, works, and writes `answer.json` beside it. A later folder fences earlier
ones off. No folder is used twice, so an answer is never taken for another try's, also where a run was deleted and
made again under its old name.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from mlops_tasks import errors
from mlops_tasks.adapters.fencing import Fence, FencedRegistry, FencedStore, numbers
from mlops_tasks.artifacts import Frozen
from mlops_tasks.caching import package_digest
from mlops_tasks.errors import PipelineError, SpecError, Superseded
from mlops_tasks.loading import apply_overrides
from mlops_tasks.ports import ArtifactStore
from mlops_tasks.runner.duties import dispatch
from mlops_tasks.runner.invocation import Invocation, Outcome, path_segment
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters


class Assignment(Frozen):
    """Everything that a try needs to know, besides where the store is."""

    invocation: Invocation
    spec: dict[str, Any] = Field(description="the pipeline's spec as JSON, its features' code included, overrides not applied")
    number: int = Field(ge=1, description="number of its folder: the fencing token")
    code: str = Field(description="digest of the package's sources that the scheduler has; an image with others is refused")


class Failure(Frozen):
    """An anticipated error."""

    error: str
    message: str


class Answer(Frozen):
    """What became of a try: exactly one of the two."""

    outcome: Outcome | None = None
    failure: Failure | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.outcome is None) == (self.failure is None):
            msg = "needs an outcome or a failure"
            raise ValueError(msg)
        return self

    @property
    def lasting(self) -> bool:
        """Whether the answer holds for a later try too: an outcome, or a failure that no retry changes."""
        return self.failure is None or not error_named(self.failure.error).retryable


def assign(store: ArtifactStore, invocation: Invocation, spec: PipelineSpec, number: int = 1) -> str:
    """Write an assignment and so fence off all earlier ones of this task of this run; return its key.

    Args:
        store: where both sides look.
        invocation: what to do; `now` is when the try started.
        spec: the pipeline's spec, overrides not applied.
        number: the least number that the try gets: the scheduler's own, for people who look into the store.

    Raises:
        Superseded: a try that started later has been assigned already, so whoever calls this was given up.
        StoreUnavailable: as the store does.

    """
    folder = tries(invocation)
    plain = spec.model_dump(mode="json", by_alias=True)
    while True:
        latest = max(numbers(store, folder), default=0)
        _require_latest(store, folder, latest, invocation)
        number = max(number, latest + 1)
        key = f"{folder}{number:04d}/assignment.json"
        assignment = Assignment(invocation=invocation, spec=plain, number=number, code=package_digest())
        if store.create(key, assignment.model_dump_json().encode()):
            return key


def _require_latest(store: ArtifactStore, folder: str, latest: int, invocation: Invocation) -> None:
    try:
        other = json.loads(store.read(f"{folder}{latest:04d}/assignment.json"))["invocation"]["now"]
    except (KeyError, ValueError):
        return  # none yet, or of another version of this package: then it is an earlier one
    if datetime.fromisoformat(other) > invocation.now:
        msg = (
            f"store: the try of {folder} that started at {invocation.now:%Y-%m-%dT%H:%M:%SZ} was superseded by "
            f"try {latest}, which started at {other}; it does nothing"
        )
        raise Superseded(msg)


def tries(invocation: Invocation) -> str:
    """Return the key prefix of all tries of a task of a run, with a slash at its end."""
    return f"{invocation.pipeline}/tries/{path_segment(invocation.run_id)}/{invocation.stage}/"


def perform(key: str, adapters: Adapters | None = None) -> Outcome:
    """Perform an assignment and write its answer; an anticipated error is answered, then raised.

    Raises:
        PipelineError: as the stage does; SpecError when the image's code is not the scheduler's.

    """
    adapters = adapters or Adapters()
    store = adapters.store
    assignment = _read(store, key)
    fence = Fence(store, tries(assignment.invocation), assignment.number)
    adapters.guard(lambda s: FencedStore(s, fence), lambda r: FencedRegistry(r, fence))
    try:
        pipeline = apply_overrides(PipelineSpec.model_validate(assignment.spec), assignment.invocation.overrides)
        outcome = dispatch(pipeline, assignment.invocation, adapters)
    except Superseded:
        raise  # nobody waits for this answer
    except PipelineError as error:
        _answer(adapters.store, key, failed(error))
        raise
    _answer(adapters.store, key, Answer(outcome=outcome))
    return outcome


def _read(store: ArtifactStore, key: str) -> Assignment:
    """Read an assignment; one of other code is answered with a refusal, whatever it looks like."""
    try:
        data = store.read(key)
    except KeyError as error:
        msg = f"store {store.root}: there is no assignment {key}; is MLOPS_STORE the scheduler's?"
        raise SpecError(msg) from error
    here, there = package_digest(), json.loads(data)["code"]
    if here != there:
        refusal = SpecError(
            f"image: it holds the package's code {here[:12]}, the scheduler has {there[:12]}; "
            "build the images anew (make images) and use the same version everywhere"
        )
        _answer(store, key, failed(refusal))
        raise refusal
    return Assignment.model_validate_json(data)


def failed(error: PipelineError) -> Answer:
    """Return the answer that an anticipated error is."""
    return Answer(failure=Failure(error=type(error).__name__, message=str(error)))


def read_answer(store: ArtifactStore, key: str) -> Outcome | None:
    """Return the outcome that an assignment's try answered with, or None when it ended without an answer.

    Raises:
        PipelineError: the one that the stage raised, or as `find_answer` does.

    """
    answer = find_answer(store, key)
    return None if answer is None else outcome_of(answer)


def find_answer(store: ArtifactStore, key: str) -> Answer | None:
    """Return the answer to an assignment, or None when there is none. Raises: SpecError (not ours), StoreUnavailable."""
    try:
        data = store.read(_answer_key(key))
    except KeyError:
        return None
    try:
        return Answer.model_validate_json(data)
    except ValidationError as error:
        msg = f"store: {_answer_key(key)} is no answer of this version's; use the same version in images and scheduler"
        raise SpecError(msg) from error


def outcome_of(answer: Answer) -> Outcome:
    """Return an answer's outcome. Raises: PipelineError: the one that the stage raised."""
    if answer.outcome is not None:
        return answer.outcome
    assert answer.failure is not None, "an answer has one of the two"
    raise error_named(answer.failure.error)(answer.failure.message)


def error_named(name: str) -> type[PipelineError]:
    """Return a class of `errors`. Raises: SpecError: there is none of this name."""
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, PipelineError)):
        msg = f"answer: names the unknown error {name!r}; use the same version in images and scheduler"
        raise SpecError(msg)
    return kind


def _answer_key(key: str) -> str:
    return f"{key.rsplit('/', 1)[0]}/answer.json"


def _answer(store: ArtifactStore, key: str, answer: Answer) -> None:
    store.write(_answer_key(key), answer.model_dump_json().encode())
