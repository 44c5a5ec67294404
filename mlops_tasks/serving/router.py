"""A decoded request to the model that answers it: champion, challenger, or both."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from mlops_tasks.errors import PipelineError
from mlops_tasks.serving.batching import count_rows
from mlops_tasks.serving.decoding import BadRequest
from mlops_tasks.serving.predictions import Prediction

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from mlops_tasks.serve_specs import ChallengerSpec
    from mlops_tasks.serving.batching import Batcher
    from mlops_tasks.serving.decoding import Arrays, Layout
    from mlops_tasks.serving.predictions import Query, Recorder, Scores
    from mlops_tasks.serving.slot import LoadedModel, Role, Slot
    from mlops_tasks.serving.telemetry import Telemetry

log = logging.getLogger(__name__)

SHADOWS_AT_ONCE = 64
"""More are dropped, and counted: a challenger that is slow must not take the champion's time."""
TIMED_IN_SHADOW = 0.5
"""Share of the entities whose requests the champion scores alone: a shadow is, and both times are compared."""


class Router:
    """Chooses who answers.

    `canary`: a share of the entities, always the same ones, gets the challenger's answer, and the champion's if it fails.
    `shadow`: the challenger scores what the champion answered, after the answer, for the log alone.

    What a challenger scores is scored alone, and as much of the champion's: times compare only between the like.
    """

    def __init__(self, slot: Slot, spec: ChallengerSpec, recorder: Recorder, telemetry: Telemetry, batcher: Batcher) -> None:
        self._slot, self._spec, self._recorder, self._telemetry = slot, spec, recorder, telemetry
        self._batcher = batcher
        self._shadows: set[asyncio.Task[None]] = set()
        self._aside = ThreadPoolExecutor(1, "shadows")  # of its own: the champion's large batches wait for no shadow
        self.dropped = 0
        """Shadows that were not scored since too many were under way."""

    def answer(self, query: Query) -> Awaitable[Prediction]:
        """Score a request. Raises: BadRequest."""
        challenger = self._slot.challenger
        if query.pinned:
            role: Role = "challenger" if query.layout_of is challenger else "champion"
            return self._predict(query.layout_of, role, query)
        if challenger is None or self._spec.mode == "off":
            return self._predict(query.layout_of, "champion", query)
        place = place_of(query.entity, challenger.version)
        if self._spec.mode == "shadow":
            return self._answer_and_shadow(challenger, query, alone=place < TIMED_IN_SHADOW)
        share = self._spec.percent / 100
        if place < share:
            return self._try(challenger, query)
        return self._predict(query.layout_of, "champion", query, alone=place < 2 * share)

    async def drain(self) -> None:
        """Wait until no shadow is under way."""
        while self._shadows:
            await asyncio.gather(*self._shadows, return_exceptions=True)

    async def _try(self, challenger: LoadedModel, query: Query) -> Prediction:
        """Let the challenger answer; if it can't, the champion does, and the log says why."""
        try:
            return await self._predict(challenger, "challenger", query, alone=True)
        except Exception as error:  # noqa: BLE001 - whatever a challenger does, the request is answered
            fallback = why(error)
        return await self._predict(query.layout_of, "champion", query, fallback=fallback)

    async def _predict(
        self, model: LoadedModel, role: Role, query: Query, *, alone: bool = False, fallback: str = ""
    ) -> Prediction:
        """Score a request's rows with one model.

        Raises:
            BadRequest: 503, a challenger's scores are no numbers or not one for each row; or it needs columns that are not
                given.

        """
        arrays = query.arrays if model is query.layout_of else _arrays_for(model, query)
        scores, took_s, together = await self._batcher.score(model, arrays, alone=alone)
        if role == "challenger":
            _require_scores(scores, model, count_rows(arrays))
        return Prediction(query, model, role, scores, time.time_ns(), took_s, fallback, together=together)

    async def _answer_and_shadow(self, challenger: LoadedModel, query: Query, *, alone: bool) -> Prediction:
        prediction = await self._predict(query.layout_of, "champion", query, alone=alone)
        self._shadow(challenger, query)
        return prediction

    def _shadow(self, challenger: LoadedModel, query: Query) -> None:
        if len(self._shadows) >= SHADOWS_AT_ONCE:
            self.dropped += 1
            self._telemetry.dropped(1)
            return
        task = asyncio.get_running_loop().create_task(self._score_aside(challenger, query))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _score_aside(self, challenger: LoadedModel, query: Query) -> None:
        """Score and log what nobody is given."""
        await asyncio.sleep(0)  # the answer leaves first
        prediction = await asyncio.get_running_loop().run_in_executor(self._aside, shadow_of, challenger, query)
        self._telemetry.answered(prediction)
        try:
            self._recorder.record(prediction)
        except BadRequest as error:  # the log is full, which the answer was told already if it matters
            log.debug("a shadow is not logged: %s", error)


def place_of(entity: str, version: int) -> float:
    """Return where in [0, 1) an entity stands in the trial of a version: below its share the challenger answers.

    The same at every request, and a greater share has the entities of a smaller one too.
    """
    digest = hashlib.blake2b(f"{version}\x1f{entity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def shadow_of(challenger: LoadedModel, query: Query) -> Prediction:
    """Score a request's rows for the log alone; what fails has no numbers, and the reason.

    Its latency is its thread's processor time: a shadow waits for the interpreter, where an answer would not.
    """
    started, rows = time.thread_time(), count_rows(query.arrays)
    try:
        scores, fallback = challenger.scorer.score_arrays(*_arrays_for(challenger, query)), ""
        _require_scores(scores, challenger, rows)
    except Exception as error:  # noqa: BLE001 - a challenger's failure is what is to be found out
        scores, fallback = np.full(shape_of(challenger, rows), np.nan, dtype=np.float32), why(error)
    latency_s = time.thread_time() - started
    return Prediction(query, challenger, "challenger", scores, time.time_ns(), latency_s, fallback, shadow=True)


def _arrays_for(model: LoadedModel, query: Query) -> Arrays:
    return query.arrays if model is query.layout_of else relaid(query.arrays, query.layout_of.layout, model.layout)


def shape_of(model: LoadedModel, rows: int) -> tuple[int, ...]:
    """Return the shape of a model's scores: [N], for several classes [N, C]."""
    signature = model.signature
    return (rows, len(signature.classes)) if signature.task == "multiclass" else (rows,)


def _require_scores(scores: Scores, model: LoadedModel, rows: int) -> None:
    """Refuse scores that no client may get. Raises: BadRequest."""
    wanted = shape_of(model, rows)
    if scores.shape != wanted:
        msg = f"its scores have the shape {list(scores.shape)}, not {list(wanted)}"
        raise BadRequest(msg, 503)
    if not np.isfinite(scores).all():
        msg = "its scores are no finite numbers"
        raise BadRequest(msg, 503)


def relaid(arrays: Arrays, given: Layout, wanted: Layout) -> Arrays:
    """Lay arrays of one model's columns out for another's. Raises: BadRequest: it has columns that the first has not."""
    if given.numeric == wanted.numeric and given.categorical == wanted.categorical and given.null_token == wanted.null_token:
        return arrays
    missing = sorted(set(wanted.numeric) - set(given.numeric)) + sorted(set(wanted.categorical) - set(given.categorical))
    if missing:
        msg = f"it needs the columns {missing}, which requests don't give"
        raise BadRequest(msg)
    numeric = categorical = None
    if wanted.numeric:
        assert arrays[0] is not None  # it has these columns
        numeric = np.ascontiguousarray(arrays[0][:, [given.numeric.index(name) for name in wanted.numeric]])
    if wanted.categorical:
        assert arrays[1] is not None  # likewise
        categorical = arrays[1][:, [given.categorical.index(name) for name in wanted.categorical]]
        if given.null_token != wanted.null_token:
            categorical = np.where(categorical == given.null_token, wanted.null_token, categorical)
    return numeric, categorical


def why(error: Exception) -> str:
    """Say in a few words why a challenger failed, without what a request holds."""
    return str(error) if isinstance(error, BadRequest | PipelineError) else type(error).__name__
