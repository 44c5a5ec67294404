"""Requests to a passage that can be closed while a model is replaced; those that come meanwhile wait, within bounds."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_tasks.serving.decoding import BadRequest
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from mlops_tasks.serving.telemetry import Telemetry


@dataclass(frozen=True)
class Bounds:
    """How much may wait at a closed gate, and how long."""

    requests: int = 1024
    size: int = 64 << 20
    """Bytes of their bodies."""
    deadline_s: float = 5.0
    """Below the clients' own timeout, so that they hear why."""


class Gate:
    """Open unless a model is being replaced in its only slot; used from one event loop.

    Whoever waits is let in in the order of arrival and counts as inside from the moment the gate opens,
    so a gate that closes again at once waits for them too.
    """

    def __init__(self, bounds: Bounds | None = None, telemetry: Telemetry | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.inside = 0
        self.closed = False
        self._closed_at = 0.0
        self._telemetry = telemetry or NoTelemetry()
        self._waiting: OrderedDict[asyncio.Future[None], int] = OrderedDict()
        self._waiting_bytes = 0
        self._empty: asyncio.Future[None] | None = None

    def close(self) -> None:
        """Let nobody in from now on."""
        self.closed = True
        self._closed_at = time.monotonic()

    @property
    def refusing(self) -> str:
        """Why requests are refused now instead of let in or kept waiting; empty when they are not."""
        if not self.closed:
            return ""
        if time.monotonic() - self._closed_at > self.bounds.deadline_s:
            return self._too_late()
        return self._too_many() if not self._has_room(0) else ""

    async def drained(self) -> None:
        """Wait until nobody is inside; to be called when closed, by one at a time."""
        if self.inside:
            self._empty = asyncio.get_running_loop().create_future()
            try:
                await self._empty
            finally:
                self._empty = None

    def open(self) -> None:
        """Let in who waits, in the order of arrival, and everybody after them."""
        self.closed = False
        while self._waiting:
            waiter, size = self._waiting.popitem(last=False)
            self._waiting_bytes -= size
            if not waiter.done():
                self.inside += 1
                waiter.set_result(None)
        self._report()

    def try_enter(self) -> bool:
        """Be inside until `leave` if nobody has to wait; tell whether."""
        if self.closed:
            return False
        self.inside += 1
        return True

    async def wait(self, size: int) -> None:
        """Wait until the gate opens, then be inside. Raises: BadRequest."""
        self._require_room(size)
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = size
        self._waiting_bytes += size
        self._report()
        try:
            async with asyncio.timeout(self.bounds.deadline_s):
                await waiter
        except BaseException as error:
            self._give_up(waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise BadRequest(self._too_late(), 503) from error

    def _give_up(self, waiter: asyncio.Future[None]) -> None:
        """Forget a waiter who went away, whether it was let in meanwhile or not."""
        size = self._waiting.pop(waiter, None)
        if size is not None:
            self._waiting_bytes -= size
            self._report()
        elif waiter.done() and not waiter.cancelled():
            self.leave()

    def _require_room(self, size: int) -> None:
        if not self._has_room(size):
            raise BadRequest(self._too_many(), 503)

    def _has_room(self, size: int) -> bool:
        return len(self._waiting) < self.bounds.requests and self._waiting_bytes + size <= self.bounds.size

    def _too_late(self) -> str:
        return f"a model is being replaced, and it took longer than {self.bounds.deadline_s:g} s: try again in a moment"

    def _too_many(self) -> str:
        return f"a model is being replaced, and {len(self._waiting)} requests wait for it already: try again in a moment"

    def leave(self) -> None:
        """Go out."""
        self.inside -= 1
        if not self.inside and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def _report(self) -> None:
        self._telemetry.queued(len(self._waiting), self._waiting_bytes)
