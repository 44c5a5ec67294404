"""The registry's champion to the slot, as it changes."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from mlops_tasks.core.promotion import CHAMPION
from mlops_tasks.errors import ModelRejected, PipelineError
from mlops_tasks.serving.slot import load_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.ports import ModelRegistry
    from mlops_tasks.serving.slot import Slot

log = logging.getLogger(__name__)


class Watcher:
    """Follows the alias `champion`: loads a new version beside the old one, proves it, then replaces the old one.

    Whatever goes wrong, what serves goes on serving.
    """

    def __init__(
        self,
        registry: ModelRegistry,
        slot: Slot,
        *,
        poll_s: float,
        threads: int = 1,
        announce: Callable[[str], None] = log.info,
    ) -> None:
        self._registry, self._slot = registry, slot
        self._poll_s, self._threads, self._announce = poll_s, threads, announce
        self._refused: int | None = None

    async def follow(self) -> None:
        """Look every `poll_s` seconds, a fifth more or less so that many servers don't ask at once, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self._poll_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret

    async def look(self) -> None:
        """Look once; take a new champion over."""
        slot = self._slot
        try:
            version = await asyncio.to_thread(self._registry.alias, slot.name, CHAMPION)
            if version is None:
                self._report(f"model {slot.name} has no champion yet: waiting; `mlops run {slot.name}` makes the first")
            elif slot.model is not None and slot.model.version == version:
                self._report("")
            elif version != self._refused:
                await self._take(version)
        except PipelineError as error:
            self._report(str(error))

    async def _take(self, version: int) -> None:
        slot = self._slot
        try:
            loaded = await asyncio.to_thread(load_version, self._registry, slot.name, version, threads=self._threads)
        except ModelRejected:
            self._refused = version  # its files don't change: wait for another champion
            raise
        before, slot.model = slot.model, loaded
        self._refused = None
        self._report("")
        self._announce(f"model {slot.name}: version {version} serves" + (f" after {before.version}" if before else ""))

    def _report(self, problem: str) -> None:
        """Say a problem when it begins, not at every look."""
        if problem and problem != self._slot.problem:
            self._announce(problem)
        self._slot.problem = problem
