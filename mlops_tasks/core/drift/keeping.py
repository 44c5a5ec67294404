"""Records of one model version's windows in the store, kept so that each follows from those before it.

Every process that writes a record looks again afterwards and judges what no longer follows, so that whoever writes
last has seen all: windows that come late, twice, out of order or to two monitors at once, and monitors that are killed,
leave the same records.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mlops_tasks.core.drift.records import WindowRecord
from mlops_tasks.core.drift.settling import Judged, settle
from mlops_tasks.core.sketches import Reference, Sketches
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import MonitorSpec

ROUNDS = 50
"""Looks after which others, who still write, are left to settle the rest."""
READING_THREADS = 8


@dataclass(frozen=True)
class Records:
    """The records of a pipeline's windows under one model version."""

    store: ArtifactStore
    pipeline: str
    version: int
    spec: MonitorSpec
    reference: Reference
    identity: str
    """Of the reference."""
    say: Callable[[Judged], str]
    """Puts what was seen into words."""
    _sketches: dict[str, Sketches] = field(default_factory=dict, repr=False)

    def read(self) -> dict[str, WindowRecord]:
        """Return all records by label."""
        return read_records(self.store, list(self.store.list(f"{self.pipeline}/monitor/{self.version}/")))

    def settle(self, new: Mapping[str, WindowRecord], wanted: Collection[str] = ()) -> dict[str, Judged]:
        """Judge new windows and all that follows from them, and record it; return how the wanted ones were judged last.

        Args:
            new: records to add or replace, by label, not judged yet.
            wanted: labels that are judged, whatever their record says.

        """
        kept, found = frozenset(wanted), dict[str, Judged]()
        for _ in range(ROUNDS):
            stored, changed = self.read(), False
            for item in self._judge({**stored, **new}, wanted):
                label = item.record.window.label
                if label in kept:  # all others are let go: what each is compared with takes megabytes
                    found[label] = item
                if item.record != stored.get(label):
                    self.write([item.record])
                    changed = True
            if not changed:
                break
            new, wanted = {}, ()
        return found

    def write(self, records: Iterable[WindowRecord]) -> None:
        """Write records as they are."""
        for record in records:
            key = f"{self.pipeline}/monitor/{self.version}/{record.window.label}.json"
            self.store.write(key, record.model_dump_json().encode())

    def _judge(self, known: Mapping[str, WindowRecord], wanted: Collection[str]) -> Iterator[Judged]:
        """Judge what does not follow, in words too; what was seen before sketches were kept is left as it is."""
        usable = [record for record in known.values() if record.sketch is not None]
        with ThreadPoolExecutor(READING_THREADS) as pool:
            list(pool.map(self.sketch, usable))
        acknowledged = acknowledged_windows(self.store, self.pipeline)
        for item in settle(
            self.spec,
            self.reference,
            usable,
            acknowledged,
            identity=self.identity,
            sketch_of=self.sketch,
            wanted=wanted,
        ):
            yield replace(item, record=item.record.model_copy(update={"reason": self.say(item)}))

    def sketch(self, record: WindowRecord) -> Sketches:
        """Read a window's sketch. Raises: StoreUnavailable: it is gone."""
        if record.sketch is None:
            msg = f"window {record.window.label} has no sketch"
            raise ValueError(msg)
        if record.sketch.sha256 not in self._sketches:
            value = json.loads(self.store.open_local(record.sketch).read_bytes())
            self._sketches[record.sketch.sha256] = Sketches.from_json(value, self.reference.layouts)
        return self._sketches[record.sketch.sha256]


def open_records(
    deployment: Deployment, spec: MonitorSpec, pipeline: str, store: ArtifactStore, *, say: Callable[[Judged], str]
) -> Records:
    """Open the records of the windows that a pipeline saw with a deployed model. Raises: ModelRejected: it has no sketches."""
    try:
        file = deployment.file("reference.json")
    except KeyError as error:
        msg = f"model {deployment.model} version {deployment.version}: its files lack reference.json; train and deploy again"
        raise ModelRejected(msg) from error
    reference = Reference.from_json(json.loads(store.open_local(file).read_bytes()))
    return Records(store, pipeline, deployment.version, spec, reference, file.sha256, say)


def read_records(store: ArtifactStore, keys: Iterable[str]) -> dict[str, WindowRecord]:
    """Return records by label; what is gone meanwhile, or of another version of this package, is none."""

    def read(key: str) -> WindowRecord | None:
        with suppress(KeyError, ValidationError):
            return WindowRecord.model_validate_json(store.read(key))
        return None

    with ThreadPoolExecutor(READING_THREADS) as pool:
        return {record.window.label: record for record in pool.map(read, keys) if record is not None}


def acknowledged_windows(store: ArtifactStore, pipeline: str) -> frozenset[str]:
    """Return the labels of the windows that a person called in order."""
    return frozenset(key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list(f"{pipeline}/monitor/acknowledged/"))
