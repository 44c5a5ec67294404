"""One try of one task, handed to a container (or a pod, or a remote job) through the store, and its answer.

`assign` writes `<pipeline>/tries/<run>/<stage>/<try>/assignment.json`: the invocation, the whole spec, the code that the
scheduler has. The container reads it, works, and writes `answer.json` beside it. The folder of a later try fences
earlier ones off.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from mlops_tasks import errors
from mlops_tasks.adapters.fencing import Fence, FencedRegistry, FencedStore
from mlops_tasks.artifacts import Frozen
from mlops_tasks.caching import package_digest
from mlops_tasks.errors import PipelineError, SpecError, StoreUnavailable, Superseded
from mlops_tasks.loading import apply_overrides
from mlops_tasks.ports import ArtifactStore
from mlops_tasks.runner.invocation import Invocation, Outcome
from mlops_tasks.runner.runner import Runner, path_segment
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters


class Assignment(Frozen):
    """Everything that a try needs to know, besides where the store is."""

    invocation: Invocation
    spec: dict[str, Any] = Field(description="the pipeline's spec as JSON, its features' code included, overrides not applied")
    number: int = Field(ge=1, description="number of the try: the fencing token")
    code: str = Field(description="digest of the package's sources that the scheduler has; an image with others is refused")


class Failure(Frozen):
    """An anticipated error."""

    error: str
    message: str


class Answer(Frozen):
    """What became of a try: exactly one of the two."""

    outcome: Outcome | None = None
    failure: Failure | None = None


def assign(store: ArtifactStore, invocation: Invocation, spec: PipelineSpec, number: int) -> str:
    """Write the assignment of try `number`; return its key. Writing the same try again gives the same key.

    Raises:
        Superseded: a later try exists.
        StoreUnavailable: as the store does.

    """
    folder = tries(invocation)
    Fence(store, folder, number).check()
    key = f"{folder}{number:04d}/assignment.json"
    plain = spec.model_dump(mode="json", by_alias=True)
    assignment = Assignment(invocation=invocation, spec=plain, number=number, code=package_digest())
    store.write(key, assignment.model_dump_json().encode())
    return key


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
    try:
        assignment = Assignment.model_validate_json(store.read(key))
    except KeyError as error:
        msg = f"store {store.root}: there is no assignment {key}; is MLOPS_STORE the scheduler's?"
        raise SpecError(msg) from error
    fence = Fence(store, tries(assignment.invocation), assignment.number)
    adapters.guard(lambda s: FencedStore(s, fence), lambda r: FencedRegistry(r, fence))
    try:
        _require_same_code(assignment)
        pipeline = apply_overrides(PipelineSpec.model_validate(assignment.spec), assignment.invocation.overrides)
        outcome = Runner(pipeline, adapters).invoke(assignment.invocation)
    except Superseded:
        raise  # nobody waits for this answer
    except PipelineError as error:
        _answer(store, key, Answer(failure=Failure(error=type(error).__name__, message=str(error))))
        raise
    _answer(store, key, Answer(outcome=outcome))
    return outcome


def read_answer(store: ArtifactStore, key: str) -> Outcome | None:
    """Return the outcome that an assignment's try answered with, or None when it ended without an answer.

    Raises:
        PipelineError: the one that the stage raised.

    """
    try:
        answer = Answer.model_validate_json(store.read(_answer_key(key)))
    except KeyError:
        return None
    if answer.failure is not None:
        kind = getattr(errors, answer.failure.error, StoreUnavailable)
        raise kind(answer.failure.message)
    return answer.outcome


def _answer_key(key: str) -> str:
    return f"{key.rsplit('/', 1)[0]}/answer.json"


def _answer(store: ArtifactStore, key: str, answer: Answer) -> None:
    store.write(_answer_key(key), answer.model_dump_json().encode())


def _require_same_code(assignment: Assignment) -> None:
    here = package_digest()
    if here != assignment.code:
        msg = (
            f"image: it holds the package's code {here[:12]}, the scheduler has {assignment.code[:12]}; "
            "build the images anew (make images) and use the same version everywhere"
        )
        raise SpecError(msg)
