"""A decoded request to the model that answers it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mlops_tasks.serving.predictions import Prediction

if TYPE_CHECKING:
    from mlops_tasks.serve_specs import ChallengerSpec
    from mlops_tasks.serving.predictions import Query, Scores
    from mlops_tasks.serving.slot import LoadedModel, Slot

THREAD_ABOVE_ROWS = 64
"""Smaller batches are scored where they arrive: a thread's hand-over costs more than they do."""


class Router:
    """Chooses who answers."""

    def __init__(self, slot: Slot, spec: ChallengerSpec) -> None:
        self._slot, self._spec = slot, spec

    async def answer(self, query: Query) -> Prediction:
        """Score a request."""
        started = time.perf_counter()
        scores = await score(query.layout_of, query)
        return Prediction(query, query.layout_of, "champion", scores, time.time_ns(), time.perf_counter() - started)


async def score(model: LoadedModel, query: Query) -> Scores:
    """Score a request's rows with one model."""
    first = query.arrays[0] if query.arrays[0] is not None else query.arrays[1]
    if first is not None and len(first) > THREAD_ABOVE_ROWS:
        return await asyncio.to_thread(model.scorer.score_arrays, *query.arrays)
    return model.scorer.score_arrays(*query.arrays)
