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
from functools import cache
from typing import TYPE_CHECKING

from pydantic import ValidationError

from mlops_tasks.core.drift.records import WindowRecord
from mlops_tasks.core.drift.settling import Judged, settle
from mlops_tasks.core.sketches import Reference, Sketches
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import MonitorSpec

ROUNDS = 50
"""Looks after which others, who still write, are left to settle the rest."""
READING_THREADS = 8


@dataclass(frozen=True)
class Settled:
    """Records that follow from each other."""

    records: dict[str, WindowRecord]
    """All, by label."""
    judged: dict[str, Judged]
    """How windows that were asked about were judged; those whose records followed already are not among them."""


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

    def settle(self, new: Mapping[str, WindowRecord], asked: Collection[str] = (), *, again: bool = False) -> Settled:
        """Judge new windows and all that does not follow from what is known any more, and record it.

        Args:
            new: records to add or replace, by label.
            asked: labels of windows whose judgement is wanted.
            again: judge these also if their records follow.

        """
        judged, wanted = dict[str, Judged](), asked if again else ()
        settled = dict[str, WindowRecord]()
        for _ in range(ROUNDS):
            stored = self.read()
            settled = {**stored, **new}
            for item in self._judge(dict(settled), wanted):
                label = item.record.window.label
                settled[label] = item.record
                if label in asked:  # all others are let go: what each is compared with takes megabytes
                    judged[label] = item
                if item.record != stored.get(label):
                    self.write([item.record])
            # What follows already may have another intent, when a scheduled run looks after a backfill.
            self.write(record for label, record in new.items() if settled[label] is record and record != stored.get(label))
            if settled == stored:
                break
            new, wanted = {}, ()
        return Settled(settled, judged)

    def write(self, records: Iterable[WindowRecord]) -> None:
        """Write records as they are."""
        for record in records:
            key = f"{self.pipeline}/monitor/{self.version}/{record.window.label}.json"
            self.store.write(key, record.model_dump_json().encode())

    def _judge(self, known: Mapping[str, WindowRecord], wanted: Collection[str]) -> Iterator[Judged]:
        """Judge what does not follow, in words too; what was seen before sketches were kept is left as it is."""
        usable = [record for record in known.values() if record.sketch is not None]
        acknowledged = acknowledged_windows(self.store, self.pipeline)
        for item in settle(
            self.spec,
            self.reference,
            usable,
            acknowledged,
            identity=self.identity,
            sketch_of=self._reader(usable),
            wanted=wanted,
        ):
            yield replace(item, record=item.record.model_copy(update={"reason": self.say(item)}))

    def _reader(self, records: Sequence[WindowRecord]) -> Callable[[WindowRecord], Sketches]:
        """Return what reads a sketch, and all of them, several at a time, when the first is asked for."""

        @cache
        def read_all() -> None:
            with ThreadPoolExecutor(READING_THREADS) as pool:
                list(pool.map(self.sketch, records))

        def read(record: WindowRecord) -> Sketches:
            read_all()
            return self.sketch(record)

        return read

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
