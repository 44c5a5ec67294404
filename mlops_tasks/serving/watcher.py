"""What the registry's aliases name to what the slot serves, as they change."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_tasks.core.promotion import CHALLENGER, CHAMPION
from mlops_tasks.errors import ModelRejected, PipelineError, RegistryUnavailable
from mlops_tasks.serving.swapping import Version
from mlops_tasks.serving.telemetry import NoTelemetry

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.ports import ModelRegistry
    from mlops_tasks.serving.copies import Copies
    from mlops_tasks.serving.slot import Role, Slot
    from mlops_tasks.serving.swapping import Swapped, Swapper
    from mlops_tasks.serving.telemetry import Telemetry

log = logging.getLogger(__name__)

DOES: dict[Role, str] = {"champion": "serves", "challenger": "is tried as challenger"}
SLOWEST_POLL_S = 30.0
"""Between looks at a registry that does not answer."""


@dataclass(frozen=True)
class LoadOutcome:
    """What a role serves after the registry was looked at."""

    version: int | None
    role: Role
    mode: str = ""
    """How it was swapped in; empty when it served already."""
    pause_s: float = 0.0
    problem: str = ""
    """Why it is not the version that was asked for; empty when it is."""


class Watcher:
    """Follows the aliases of a model by version number; whatever goes wrong, what serves goes on serving."""

    def __init__(
        self,
        registry: ModelRegistry,
        slot: Slot,
        swapper: Swapper,
        copies: Copies,
        *,
        poll_s: float,
        trial: bool = False,
        version: int | None = None,
        telemetry: Telemetry | None = None,
        announce: Callable[[str], None] = log.info,
    ) -> None:
        """Follow a model.

        Args:
            registry: where the aliases are.
            slot: what serves.
            swapper: puts versions into it.
            copies: where versions lie on this disk.
            poll_s: seconds between looks.
            trial: whether the challenger is loaded too.
            version: serve this one and follow nothing.
            telemetry: is told refused versions.
            announce: is told each new version and each problem.

        """
        self._registry, self._slot, self._swapper, self._copies = registry, slot, swapper, copies
        self._poll_s, self._trial, self._pinned = poll_s, trial, version
        self._telemetry, self._announce = telemetry or NoTelemetry(), announce
        self._refused: dict[Role, tuple[int, str]] = {}
        self._swaps: dict[Role, Swapped] = {}
        self._serving: dict[Role, Version] = {}
        self._waiting = ""
        self._one_at_a_time = asyncio.Lock()

    async def follow(self) -> None:
        """Look every `poll_s` seconds until cancelled, a fifth more or less so that many servers don't ask at once.

        A registry that does not answer is asked less and less often, down to every `SLOWEST_POLL_S`.
        """
        pause = self._poll_s
        while True:
            answered = await self.look()
            pause = self._poll_s if answered else min(pause * 2, max(SLOWEST_POLL_S, self._poll_s))
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, not a secret

    async def look(self) -> bool:
        """Look once and take over what is new; return whether the registry answered."""
        async with self._one_at_a_time:
            try:
                await self._reconcile()
                self._report("; ".join(why for _, why in self._refused.values()) or self._waiting)
            except RegistryUnavailable as error:
                await self._resume(error)
                return False
            except PipelineError as error:
                self._report(str(error))
            except Exception as error:  # a registry may answer anything, and following goes on
                log.exception("model %s: looking at the registry failed", self._slot.name)
                msg = (
                    f"model {self._slot.name}: the registry's answer can't be used ({type(error).__name__}); the log says more"
                )
                await self._resume(RegistryUnavailable(msg))
                return False
            return True

    async def load(self, version: int | None, role: Role) -> LoadOutcome:
        """Look now, and say whether a version (None: whichever the registry names) serves under a role."""
        self._swaps.pop(role, None)
        answered = await self.look()
        serving, swapped = self._number(role), self._swaps.get(role)
        outcome = LoadOutcome(serving, role, swapped.mode if swapped else "", swapped.pause_s if swapped else 0.0)
        if serving is not None and version in {None, serving}:
            return outcome
        return LoadOutcome(serving, role, problem=self._why_not(version, role, answered=answered))

    def _why_not(self, version: int | None, role: Role, *, answered: bool) -> str:
        if role == CHALLENGER and not self._trial:
            return f"model {self._slot.name}: its pipeline gives a challenger no traffic (serve.challenger.mode is off)"
        refused = self._refused.get(role)
        if refused and version in {None, refused[0]}:
            return refused[1]
        if self._slot.problem or not answered:
            return self._slot.problem
        wanted = "a version" if version is None else f"version {version}"
        return f"model {self._slot.name}: the registry's {role} is not {wanted}; move the alias first"

    async def _reconcile(self) -> None:
        """Make the slot hold what the aliases name."""
        if self._pinned is not None:
            await self._follow_role(CHAMPION, self._pinned)
            return
        champion = await asyncio.to_thread(self._registry.alias, self._slot.name, CHAMPION)
        if champion is None and self._slot.model is None:
            name = self._slot.name
            self._waiting = f"model {name} has no champion yet: waiting; `mlops run {name}` makes the first"
            return
        self._waiting = ""
        if champion is not None:
            await self._follow_role(CHAMPION, champion)
        if self._trial:
            challenger = await asyncio.to_thread(self._registry.alias, self._slot.name, CHALLENGER)
            if challenger is None or challenger == champion:
                self._swapper.clear_challenger()
                self._serving.pop(CHALLENGER, None)
            else:
                await self._follow_role(CHALLENGER, challenger)

    async def _follow_role(self, role: Role, version: int) -> None:
        """Let a version serve under a role, unless it does or was refused: its files don't change."""
        refused = self._refused.get(role)
        if self._number(role) == version:
            self._refused.pop(role, None)
        elif refused is None or refused[0] != version:
            await self._take(role, version)

    async def _take(self, role: Role, number: int) -> None:
        slot, before = self._slot, self._number(role)
        try:
            version = await asyncio.to_thread(self._copies.fetch, number, role)
            if role == CHAMPION and slot.challenger is not None and slot.challenger.version == number:
                swapped = self._swapper.promote_challenger(version.promotion)
            else:
                swapped = await self._swapper.swap(role, version)
        except ModelRejected as error:
            self._refused[role] = (number, str(error))
            self._telemetry.refused(number)
            return
        self._refused.pop(role, None)
        self._swaps[role], self._serving[role] = swapped, version
        self._announce(f"model {slot.name}: version {number} {DOES[role]}" + (f" after {before}" if before else ""))
        await asyncio.to_thread(self._copies.remember, dict(self._serving))

    async def _resume(self, error: RegistryUnavailable) -> None:
        """Serve what served last, when the registry is away at the start."""
        if self._slot.model is None:
            remembered = await asyncio.to_thread(self._copies.remembered)
            for role, version in remembered.items():
                if (role == CHAMPION or self._trial) and self._pinned in {None, version.number}:
                    await self._bring_back(role, version)
        self._report(str(error))

    async def _bring_back(self, role: Role, version: Version) -> None:
        try:
            await self._swapper.swap(role, version)
        except ModelRejected as error:
            self._announce(str(error))
            return
        self._serving[role] = version
        self._announce(f"model {self._slot.name}: version {version.number} {DOES[role]} again, from its copy on this disk")

    def _number(self, role: Role) -> int | None:
        """Return the version that serves; never the model, which a swap in its only slot must be able to release."""
        model = self._slot.model if role == CHAMPION else self._slot.challenger
        return None if model is None else model.version

    def _report(self, problem: str) -> None:
        """Say a problem when it begins, not at every look."""
        if problem and problem != self._slot.problem:
            self._announce(problem)
        self._slot.problem = problem
