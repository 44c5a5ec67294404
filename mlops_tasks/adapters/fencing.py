"""A store and a registry to ones that refuse to change anything once another try has taken the task over.

A task whose worker is lost is tried again, while the first try may still run somewhere (a zombie). Each try has a
token, the number of its folder; whoever finds a greater one stops. Files are content-addressed, so a zombie's do no
harm and are checked for at most once a second; records and promotions are checked each time.
Between a check and the change that follows it lies no lock, only milliseconds: a promotion is a compare-and-swap and a
registration is by fingerprint, so neither can be lost or doubled there; a record is replaced by an equal one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from mlops_tasks.errors import Superseded

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlops_tasks.artifacts import Candidate, Deployment, FileRef, Verdict
    from mlops_tasks.ports import ArtifactStore, ModelRegistry

RECHECK_S = 1.0


class Fence:
    """Tells a try of a task whether it is still the latest one: each try has a folder `<tries><number>/` in the store."""

    def __init__(self, store: ArtifactStore, tries: str, number: int) -> None:
        """Guard try `number` of the task whose tries lie under the key prefix `tries`."""
        self._store, self._tries, self._number = store, tries, number
        self._checked = float("-inf")

    def check(self, *, at_most_every_s: float = 0.0) -> None:
        """Raise unless this is the latest try.

        Raises:
            Superseded: there is a later one.

        """
        if time.monotonic() - self._checked < at_most_every_s:
            return
        latest = max(numbers(self._store, self._tries), default=0)
        if latest > self._number:
            msg = f"store: try {self._number} of {self._tries} was superseded by try {latest}, so it publishes nothing more"
            raise Superseded(msg)
        self._checked = time.monotonic()


def numbers(store: ArtifactStore, tries: str) -> set[int]:
    """Return the numbers of the tries that lie under a key prefix; other things that lie there are none."""
    found = (key.removeprefix(tries).split("/")[0] for key in store.list(tries))
    return {int(number) for number in found if number.isdecimal()}


class FencedStore:
    """An `ArtifactStore` whose changes pass a fence; everything else goes straight to the store."""

    def __init__(self, store: ArtifactStore, fence: Fence) -> None:
        """Guard `store`."""
        self._store, self._fence = store, fence

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, key: str, data: bytes) -> None:
        """As the port's, after a check."""
        self._fence.check()
        self._store.write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """As the port's, after a check."""
        self._fence.check()
        return self._store.create(key, data)

    def publish(self, source: Path, key: str, *, rows: int | None = None) -> FileRef:
        """As the port's, after a check."""
        self._fence.check(at_most_every_s=RECHECK_S)
        return self._store.publish(source, key, rows=rows)

    def delete(self, key: str) -> None:
        """As the port's, after a check."""
        self._fence.check()
        self._store.delete(key)


class FencedRegistry:
    """A `ModelRegistry` whose changes pass a fence; everything else goes straight to the registry."""

    def __init__(self, registry: ModelRegistry, fence: Fence) -> None:
        """Guard `registry`."""
        self._registry, self._fence = registry, fence

    def __getattr__(self, name: str) -> object:
        return getattr(self._registry, name)

    def register(
        self, name: str, candidate: Candidate, verdict: Verdict, files: Mapping[str, Path], deployment: Mapping[str, str]
    ) -> int:
        """As the port's, after a check."""
        self._fence.check()
        return self._registry.register(name, candidate, verdict, files, deployment)

    def promote(self, name: str, alias: str, version: int, *, expected: int | None, reason: str, who: str) -> None:
        """As the port's, after a check."""
        self._fence.check()
        self._registry.promote(name, alias, version, expected=expected, reason=reason, who=who)

    def record(self, deployment: Deployment) -> None:
        """As the port's, after a check."""
        self._fence.check()
        self._registry.record(deployment)
