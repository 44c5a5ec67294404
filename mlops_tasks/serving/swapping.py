"""A version's folder to the model that serves, without a failed request: beside the old one, or in its place."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mlops_tasks.errors import ModelRejected
from mlops_tasks.serving.costs import MEASURED_FROM, Costs, Size
from mlops_tasks.serving.memory import Peak, free_bytes, give_back
from mlops_tasks.serving.slot import load_folder
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlops_tasks.serve_specs import SwapMode
    from mlops_tasks.serving.gate import Gate
    from mlops_tasks.serving.slot import LoadedModel, Role, Slot
    from mlops_tasks.serving.telemetry import Telemetry

log = logging.getLogger(__name__)

SPARE_BYTES = 64 << 20
"""Stays free for requests when two models are in memory."""


@dataclass(frozen=True)
class Version:
    """One version's verified files and what is known of it."""

    number: int
    folder: Path
    tags: dict[str, str]
    promotion: dict[str, str]

    @classmethod
    def of(cls, model: LoadedModel) -> Version:
        """Return what it takes to load a model again."""
        return cls(model.version, model.folder, model.tags, model.promotion)


@dataclass(frozen=True)
class Swapped:
    """How a model came into its place."""

    version: int
    mode: Literal["hot", "single-slot"]
    pause_s: float
    """How long requests had to wait."""


class Swapper:
    """Puts versions into a slot; one at a time.

    `hot` loads and proves the new model beside the old one, which goes when its last request is answered.
    `single-slot` closes the gate, waits for the requests inside, releases the old model, loads and proves the new one and
    opens the gate; where that fails, the old one comes back first.
    `auto` is `hot` where both fit: where what is free holds all that the new one takes while it loads. Mapped weights count
    whole, the new model's and those of what serves, though the kernel could drop them and read them again: each request reads
    them all, so two that don't fit would be read from the disk at each request as long as both are there. What is asked for as
    `hot` is done so, for nothing fails by that, except where weights are inside the file and would end the process.
    """

    def __init__(
        self,
        slot: Slot,
        gate: Gate,
        *,
        mode: SwapMode = "auto",
        threads: int = 1,
        telemetry: Telemetry | None = None,
        announce: Callable[[str], None] = log.info,
        free: Callable[[], int] = free_bytes,
    ) -> None:
        self._slot, self._gate, self._mode, self._threads = slot, gate, mode, threads
        self._telemetry, self._announce, self._free = telemetry or NoTelemetry(), announce, free
        self._costs = Costs()

    async def swap(self, role: Role, version: Version) -> Swapped:
        """Let a version serve under a role.

        Raises:
            ModelRejected: it does not load or repeat its golden rows, or it does not fit beside the champion and can't wait for
                its place: a challenger, or one for a hot swap; what served goes on serving.

        """
        size, free = Size.of(version.folder), self._free()
        needed = self._costs.memory(size) + SPARE_BYTES
        fits, empty = needed <= free, self._slot.model is None
        if role == "challenger" and not fits:
            raise ModelRejected(self._beside(version, needed, free))
        if self._mode == "hot" and not empty and not fits and size.inside >= MEASURED_FROM:
            msg = f"{self._beside(version, needed, free)}; give the server more memory, or set serve.swap to auto"
            raise ModelRejected(msg)
        if role == "challenger" or empty or self._mode == "hot" or (self._mode == "auto" and fits):
            swapped = await self._hot(role, version)
        else:
            assert self._slot.model is not None
            swapped = await self._in_place(version, self._slot.model, needed, free)
        self._telemetry.swapped(swapped.mode, swapped.version, swapped.pause_s)
        return swapped

    def promote_challenger(self, promotion: dict[str, str]) -> Swapped:
        """Let the challenger serve as champion: it is loaded and proven already."""
        slot, model = self._slot, self._slot.challenger
        assert model is not None  # the caller compared versions
        slot.model, slot.challenger = replace(model, promotion=promotion), None
        self._telemetry.swapped("hot", model.version, 0.0)
        return Swapped(model.version, "hot", 0.0)

    def clear_challenger(self) -> None:
        """Release the challenger, when its last request is answered."""
        if self._slot.challenger is not None:
            weakref.finalize(self._slot.challenger, give_back)
            self._slot.challenger = None

    async def _hot(self, role: Role, version: Version) -> Swapped:
        loaded = await self._load(version)
        before = self._slot.model if role == "champion" else self._slot.challenger
        if role == "champion":
            self._slot.model = loaded
        else:
            self._slot.challenger = loaded
        if before is not None:
            weakref.finalize(before, give_back)  # when the requests that hold it are answered
        return Swapped(version.number, "hot", 0.0)

    async def _in_place(self, version: Version, champion: LoadedModel, needed: int, free: int) -> Swapped:
        before = Version.of(champion)
        del champion  # nothing here may keep the old model alive
        size = Size.of(version.folder)
        expected = self._costs.seconds(size)
        wait = "for a time that is not known yet" if expected is None else f"about {expected:.2f} s"
        why = self._beside(version, needed, free) if self._mode == "auto" else "its pipeline asks for single-slot swaps"
        self._announce(f"model {self._slot.name}: {why}: requests will wait {wait} while it is loaded")
        gate, slot = self._gate, self._slot
        started = time.perf_counter()
        gate.close()
        slot.swapping = True
        try:
            await gate.drained()
            slot.model = None
            self.clear_challenger()
            await asyncio.to_thread(give_back)
            slot.model = await self._load_or(version, before)
        finally:
            slot.swapping = False
            gate.open()
            pause = time.perf_counter() - started
        if slot.model is None or slot.model.version != version.number:  # `_load_or` said why
            raise ModelRejected(slot.problem)
        self._costs.learn_seconds(size, pause)
        self._announce(f"model {slot.name}: requests waited {pause:.2f} s for version {version.number}")
        return Swapped(version.number, "single-slot", pause)

    async def _load_or(self, version: Version, before: Version) -> LoadedModel | None:
        """Load a version, or the one before if it is refused; None if neither loads. The slot's problem says why."""
        try:
            return await self._load(version)
        except ModelRejected as error:
            self._slot.problem = str(error)
        await asyncio.to_thread(give_back)
        try:
            return await self._load(before)
        except ModelRejected as error:
            self._slot.problem = f"{self._slot.problem}; and version {before.number} does not load again: {error}"
            return None

    async def _load(self, version: Version) -> LoadedModel:
        """Load in a thread, so that requests go on; measure what it takes."""
        size, started = Size.of(version.folder), time.perf_counter()
        with Peak() as peak:
            loaded = await asyncio.to_thread(
                load_folder,
                version.folder,
                self._slot.name,
                version.number,
                tags=version.tags,
                promotion=version.promotion,
                threads=self._threads,
            )
        self._costs.learn_seconds(size, time.perf_counter() - started)
        self._costs.learn_memory(size, peak.bytes)
        return loaded

    def _beside(self, version: Version, needed: int, free: int) -> str:
        return (
            f"version {version.number} does not fit beside the model that serves: "
            f"about {needed >> 20} MB would be needed, {free >> 20} MB are free"
        )
