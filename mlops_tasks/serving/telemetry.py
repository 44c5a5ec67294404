"""What happens in the server to metrics, traces and log lines."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mlops_tasks.serving.predictions import Prediction


class Telemetry(Protocol):
    """What the server's parts report; every call is cheap and never fails."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time a part of a request: wait, decode, score, record, encode."""

    def answered(self, prediction: Prediction) -> None:
        """Count a prediction by version and role, with its rows and latency; shadows and fallbacks too."""

    def queued(self, requests: int, size: int) -> None:
        """Say how many requests, and bytes of them, wait at the gate now."""

    def swapped(self, mode: str, version: int, pause_s: float) -> None:
        """Count a swap and the time in which requests waited for it."""

    def refused(self, version: int) -> None:
        """Count a version that was not taken over."""

    def dropped(self, records: int) -> None:
        """Count answers that could not be logged."""

    def log_waiting(self, segments: int, size: int, oldest_s: float) -> None:
        """Say what of the request log waits on disk for its upload."""


class NoTelemetry:
    """Implements `Telemetry` where nobody listens."""

    def stage(self, name: str) -> AbstractContextManager[object]:
        """Time nothing."""
        del name
        return nullcontext()

    def answered(self, prediction: Prediction) -> None:
        """Do nothing."""

    def queued(self, requests: int, size: int) -> None:
        """Do nothing."""

    def swapped(self, mode: str, version: int, pause_s: float) -> None:
        """Do nothing."""

    def refused(self, version: int) -> None:
        """Do nothing."""

    def dropped(self, records: int) -> None:
        """Do nothing."""

    def log_waiting(self, segments: int, size: int, oldest_s: float) -> None:
        """Do nothing."""
