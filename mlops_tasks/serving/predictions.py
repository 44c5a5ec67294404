"""One request's rows and the answer they got: what the protocols hand to the router, and the router to the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from mlops_tasks.serving.decoding import Arrays
    from mlops_tasks.serving.slot import LoadedModel, Role

    Scores = npt.NDArray[np.float32]


class Query(NamedTuple):
    """A decoded request."""

    id: str
    """The client's, or one made here; labels are joined by it, so each is used once."""
    entity: str
    """What stays together in a canary: given by the client, or the entity key's columns, or the id. Never logged in clear."""
    arrays: Arrays
    """As the champion's layout has them; read by name for a challenger that has another."""
    layout_of: LoadedModel
    """The model whose layout `arrays` have."""
    pinned: bool = False
    """Whether the request named a version: then that one answers and no other."""


class Prediction(NamedTuple):
    """An answer."""

    query: Query
    model: LoadedModel
    """Which model's scores these are."""
    role: Role
    scores: Scores
    """Binary and regression [N], multiclass [N, C]."""
    at_ns: int
    """When it was answered: nanoseconds since 1970, UTC."""
    latency_s: float
    """How long the model's call took."""
    fallback: str = ""
    """Why the challenger, whose turn it was, did not answer; empty when it was not or did."""
    shadow: bool = False
    """Whether this was scored beside the answer and given to nobody."""
    together: bool = False
    """Whether the call scored other requests too, so that its time says nothing of this one."""


class Recorder(Protocol):
    """Keeps answered requests."""

    @property
    def refusing(self) -> str:
        """Why no request is answered now, whatever it holds; empty when requests are."""

    def record(self, prediction: Prediction) -> None:
        """Append the prediction, so that a killed process does not lose it; called before the answer leaves.

        Raises:
            BadRequest: 503, where the log is full and the pipeline wants no answer that is not logged.

        """

    async def record_together(self, prediction: Prediction) -> None:
        """Append one of several predictions that are given at the same time, which may take one write. Raises: BadRequest."""


class NoRecorder:
    """Implements `Recorder` where nothing is kept."""

    refusing = ""

    def record(self, prediction: Prediction) -> None:
        """Do nothing."""

    async def record_together(self, prediction: Prediction) -> None:
        """Do nothing."""
