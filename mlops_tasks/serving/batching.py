"""Requests that are under way at the same time to one call of the model: a row beside others costs a fraction of a call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from mlops_tasks.serving.decoding import Arrays
    from mlops_tasks.serving.predictions import Scores
    from mlops_tasks.serving.slot import LoadedModel

MOST_ROWS = 64
"""Of one call in the event loop; larger requests are scored by themselves."""
HANDED_OVER_S = 1e-3
"""Requests that take longer are scored in a thread: handing one over costs a tenth of it."""


class Scored(NamedTuple):
    """What a model's call gave one request."""

    scores: Scores
    took_s: float
    """Of the whole call."""
    together: bool
    """Whether the call had other requests' rows too, so that its time says nothing of this one."""


class Batcher:
    """Scores requests in the event loop, those that come in one turn of it together; large ones in threads.

    A request that is alone is scored at once. With others under way it waits until all that were read in this turn are
    decoded, which is less than they would wait for each other.
    """

    def __init__(self, under_way: Callable[[], int]) -> None:
        """Take what tells how many requests have come and are not answered."""
        self._under_way = under_way
        self._open: dict[LoadedModel, _Batch] = {}

    async def score(self, model: LoadedModel, arrays: Arrays, *, alone: bool = False) -> Scored:
        """Score [N, ...] rows; `alone` keeps them out of others' calls, so that their time can be compared."""
        rows = count_rows(arrays)
        if model.is_large or (rows > MOST_ROWS and rows * model.row_s > HANDED_OVER_S):
            started = time.perf_counter()
            scores = await asyncio.to_thread(model.scorer.score_arrays, *arrays)
            return Scored(scores, time.perf_counter() - started, together=False)
        if alone or rows >= MOST_ROWS or self._under_way() < 2:  # noqa: PLR2004 - itself and another
            return score_alone(model, arrays)
        return await self._join(model, arrays, rows)

    def _join(self, model: LoadedModel, arrays: Arrays, rows: int) -> asyncio.Future[Scored]:
        loop = asyncio.get_running_loop()
        batch = self._open.get(model)
        if batch is None or batch.rows + rows > MOST_ROWS:
            batch = self._open[model] = _Batch(model)
            loop.call_soon(self._score, batch)
        future: asyncio.Future[Scored] = loop.create_future()
        batch.waiting.append((arrays, rows, future))
        batch.rows += rows
        return future

    def _score(self, batch: _Batch) -> None:
        if self._open.get(batch.model) is batch:
            del self._open[batch.model]
        if len(batch.waiting) == 1:
            batch.score_each()
        else:
            batch.score_together()


def score_alone(model: LoadedModel, arrays: Arrays) -> Scored:
    """Score one request's rows, here and now."""
    started = time.perf_counter()
    scores = model.scorer.score_arrays(*arrays)
    return Scored(scores, time.perf_counter() - started, together=False)


def count_rows(arrays: Arrays) -> int:
    """Return N."""
    first = arrays[0] if arrays[0] is not None else arrays[1]
    assert first is not None  # a model has inputs
    return len(first)


@dataclass(slots=True)
class _Batch:
    """Requests that one call will answer."""

    model: LoadedModel
    waiting: list[tuple[Arrays, int, asyncio.Future[Scored]]] = field(default_factory=list)
    rows: int = 0

    def score_together(self) -> None:
        """Answer all by one call; where that fails, each by itself, so that one is not refused for another's rows."""
        started = time.perf_counter()
        try:
            scores = self.model.scorer.score_arrays(*self._joined())
        except Exception:  # noqa: BLE001 - each request's own call says what is wrong with it
            self.score_each()
            return
        took_s, at = time.perf_counter() - started, 0
        if len(scores) != self.rows:
            self.score_each()
            return
        for _, rows, future in self.waiting:
            if not future.done():  # whose client went away
                future.set_result(Scored(scores[at : at + rows], took_s, together=True))
            at += rows

    def score_each(self) -> None:
        """Answer each by a call of its own."""
        for arrays, _, future in self.waiting:
            if future.done():
                continue
            try:
                future.set_result(score_alone(self.model, arrays))
            except Exception as error:  # noqa: BLE001 - whoever waits for it handles it
                future.set_exception(error)

    def _joined(self) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.object_] | None]:
        numeric = [arrays[0] for arrays, *_ in self.waiting if arrays[0] is not None]
        categorical = [arrays[1] for arrays, *_ in self.waiting if arrays[1] is not None]
        return np.concatenate(numeric) if numeric else None, np.concatenate(categorical) if categorical else None
