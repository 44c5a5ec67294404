"""Answers to the request log, before they leave."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import orjson

from mlops_tasks.errors import SpecError
from mlops_tasks.serving.decoding import BadRequest
from mlops_tasks.serving.recording.entities import entity_hasher, share_of
from mlops_tasks.serving.recording.records import Schema, encode
from mlops_tasks.serving.recording.segments import Segment, Waiting, server_id, try_writing, waiting
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mlops_tasks.serve_specs import RequestLogSpec
    from mlops_tasks.serving.predictions import Prediction
    from mlops_tasks.serving.telemetry import Telemetry

log = logging.getLogger(__name__)
TEND_S = 1.0
MEGABYTE = 1_000_000


UNLOGGED = "the request log can't be written, and no answer is given that is not logged: "


class Frames(NamedTuple):
    """An answer as it is written, and how it is laid out."""

    schema: Schema
    payload: bytes


class RequestLog:
    """Implements `Recorder`: an answer is written before it leaves, so that a process that is killed then has lost none.

    The operating system has the record when `record` returns; a machine that loses power may not have it on disk.
    """

    def __init__(
        self,
        folder: Path,
        spec: RequestLogSpec,
        *,
        key: bytes,
        telemetry: Telemetry | None = None,
        announce: Callable[[str], None] = log.warning,
    ) -> None:
        """Write to `folder`, which is the pipeline's own; nothing is made before the first answer.

        Args:
            folder: where segments go; `log_folder` tells.
            spec: what is kept, and what happens when it can't be.
            key: the secret that entities are hashed with; `entity_key` tells.
            telemetry: is told what waits and what was lost.
            announce: is told when the log can't be written, and when it can again.

        """
        self._folder, self._spec, self._hashed = folder, spec, entity_hasher(key)
        self._telemetry: Telemetry = telemetry or NoTelemetry()
        self._announce = announce
        self._omit = frozenset(spec.omit)
        self._server, self._begun = server_id(), 0
        self._segment: Segment | None = None
        self._schemas: dict[tuple[int, int], Schema] = {}
        self._waiting, self._written = waiting(folder).size, 0
        self._problem, self._lost = "", 0
        self._blocked = ""  # by a disk, not by what one record holds
        self._gathered: list[tuple[Frames, asyncio.Future[None]]] = []
        """What this turn of the event loop appends by one write, and who waits for it."""
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._tender: threading.Thread | None = None

    @property
    def refusing(self) -> str:
        """Why no request is answered now: the log can't be written, and the pipeline wants no answer that is not logged."""
        return UNLOGGED + self._blocked if self._blocked and self._spec.when_full == "fail_closed" else ""

    def start(self) -> None:
        """Finish segments by their age, and look at what waits, every second from now on."""
        self._tender = threading.Thread(target=self._tend_on, name="request-log", daemon=True)
        self._tender.start()

    def close(self) -> None:
        """Finish the segment under way, so that it can be shipped."""
        self._ended.set()
        if self._tender is not None:
            self._tender.join()
        with self._lock:
            self._finish()

    def record(self, prediction: Prediction) -> None:
        """Append an answer; one that `sample` leaves out is not.

        Raises:
            BadRequest: 503, where it can't be written and `when_full` is `fail_closed`.

        """
        frames = self._frames(prediction)
        if frames is not None:
            self._write([frames])

    async def record_together(self, prediction: Prediction) -> None:
        """Append an answer by the same write as the others that are given in this turn of the event loop.

        Raises:
            BadRequest: as `record`.

        """
        frames = self._frames(prediction)
        if frames is None:
            return
        loop = asyncio.get_running_loop()
        if not self._gathered:
            loop.call_soon(self._write_gathered)
        written: asyncio.Future[None] = loop.create_future()
        self._gathered.append((frames, written))
        await written

    def _write_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        failed: Exception | None = None
        try:
            self._write([frames for frames, _ in gathered])
        except Exception as error:  # noqa: BLE001 - whoever waits handles it, and nobody waits for ever
            failed = error
        for _, written in gathered:
            if written.done():  # whose client went away
                continue
            if failed is None:
                written.set_result(None)
            else:
                written.set_exception(BadRequest(str(failed), 503) if isinstance(failed, BadRequest) else failed)

    def _frames(self, prediction: Prediction) -> Frames | None:
        """Return what is to be appended; None if nothing is: `sample` leaves it out, or it can't be written and may be lost."""
        query, spec = prediction.query, self._spec
        always = prediction.role == "challenger" or prediction.shadow or prediction.fallback
        if spec.sample < 1 and not always and share_of(query.entity) >= spec.sample:
            return None
        try:
            schema = self._schema(prediction)
            return Frames(schema, encode(prediction, schema, self._hashed(query.entity)))
        except (SpecError, orjson.JSONEncodeError) as error:  # the latter: a text that is no valid Unicode
            with self._lock:
                self._refuse(str(error))
            return None

    def _write(self, given: Sequence[Frames]) -> None:
        with self._lock:
            try:
                self._append(given)
            except OSError as error:
                self._finish()
                self._blocked = self._cant(error)
                self._refuse(self._blocked, len(given))
            else:
                if self._problem:
                    self._recovered()

    def tend(self) -> None:
        """Finish a segment that is old enough; look at what waits and say it."""
        with self._lock:
            segment = self._segment
            if segment is not None and time.monotonic() - segment.began >= self._spec.segment_age.total_seconds():
                self._finish()
            counted = self._written
        found: Waiting = waiting(self._folder)  # requests don't wait for it
        with self._lock:
            self._waiting = found.size
            self._written -= counted
            self._try_again()
        self._telemetry.log_waiting(found.segments, found.size, found.oldest_s)

    def _tend_on(self) -> None:
        while not self._ended.wait(TEND_S):
            try:
                self.tend()
            except OSError as error:
                self._announce(f"request log: {self._folder} can't be looked at: {error.strerror}; check its rights")

    def _try_again(self) -> None:
        """See whether the log can be written: who is not ready gets no requests, which would show it."""
        try:
            self._require_room()
            if not self._blocked:
                return
            try_writing(self._folder, self._server)
        except OSError as error:
            self._say(self._cant(error))
            self._blocked = self._problem
        else:
            self._recovered()

    def _require_room(self) -> None:
        if self._waiting + self._written > self._spec.keep * MEGABYTE:
            msg = f"more than {self._spec.keep} MB wait for upload (serve.log.keep)"
            raise OSError(0, msg)

    def _cant(self, error: OSError) -> str:
        return f"{self._folder} can't be written: {error.strerror or error}; free some space or mend the disk"

    def _append(self, given: Sequence[Frames]) -> None:
        """Append answers by one write, whole or not at all; each schema stands before the first of its answers."""
        self._require_room()
        segment = self._segment or self._begin()
        payloads, stated = [], set(segment.stated)
        for schema, payload in given:
            if schema.number not in stated:
                stated.add(schema.number)
                payloads.append(schema.payload())
            payloads.append(payload)
        before = segment.size
        segment.append(*payloads)
        segment.stated = stated
        segment.records += len(given)
        self._written += segment.size - before
        if segment.size >= self._spec.segment_mb * MEGABYTE:
            self._finish()

    def _schema(self, prediction: Prediction) -> Schema:
        model, layout_of = prediction.model, prediction.query.layout_of
        versions = (model.version, layout_of.version)
        if versions not in self._schemas:
            self._schemas[versions] = Schema.of(len(self._schemas), model, layout_of, self._omit)
        return self._schemas[versions]

    def _begin(self) -> Segment:
        self._begun += 1
        self._segment = Segment(self._folder, f"{self._server}-{time.time_ns()}-{self._begun:06d}")
        return self._segment

    def _finish(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _refuse(self, problem: str, answers: int = 1) -> None:
        """Count a loss, or refuse the answers; say the problem when it begins, not at every answer."""
        self._say(problem)
        if self._spec.when_full == "fail_closed":
            raise BadRequest(UNLOGGED + problem, 503)
        self._lost += answers
        self._telemetry.dropped(answers)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            self._announce(f"request log: {problem}")
        self._problem = problem

    def _recovered(self) -> None:
        self._announce(f"request log: is written again; {self._lost} answers were not logged")
        self._problem, self._blocked, self._lost = "", "", 0
