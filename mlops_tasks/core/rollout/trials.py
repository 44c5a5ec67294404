"""Ledger, request log and labels to what was tried when, what was answered then, and what became of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlops_tasks.artifacts import Window
from mlops_tasks.core.promotion import CHALLENGER, CHAMPION
from mlops_tasks.core.request_log import ID, SHADOW, TIME, VERSION, day_keys
from mlops_tasks.core.rollout.answers import LOG_COLUMNS, empty_log
from mlops_tasks.core.rollout.comparison import compare
from mlops_tasks.core.rollout.differences import ENOUGH_LABELS
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.core.rollout.comparison import Comparison
    from mlops_tasks.ports import ArtifactStore, Ports, SourceReader
    from mlops_tasks.serve_specs import ChallengerSpec
    from mlops_tasks.specs import Source, TriedSpec

SLACK = timedelta(days=1)
"""How far an event's own time may lie from the trial in which it was asked about, either way."""


@dataclass(frozen=True)
class Trial:
    """A challenger beside a champion."""

    champion: int
    challenger: int
    start: datetime
    end: datetime | None = None
    """None: it goes on."""
    outcome: str = ""
    """Why it ended."""

    def overlap(self, window: Window) -> Window | None:
        """Return the part of a window in which this was tried."""
        start, end = max(self.start, window.start), min(self.end or window.end, window.end)
        return Window(start=start, end=end) if start < end else None


def trials(history: Sequence[Mapping[str, str]]) -> list[Trial]:
    """Read from the ledger what was tried, oldest first; where the champion moves, a comparison begins anew."""
    found: list[Trial] = []
    held: dict[str, int | None] = {CHAMPION: None, CHALLENGER: None}
    for entry in history:
        if entry["alias"] not in held:
            continue
        held[entry["alias"]], at = int(entry["to"] or 0) or None, datetime.fromisoformat(entry["at"])
        if found and found[-1].end is None:
            found[-1] = replace(found[-1], end=at, outcome=entry["reason"])
        champion, challenger = held[CHAMPION], held[CHALLENGER]
        if champion is not None and challenger is not None and champion != challenger:
            found.append(Trial(champion, challenger, at))
    return [trial for trial in found if trial.end is None or trial.end > trial.start]


def running_trial(history: Sequence[Mapping[str, str]], champion: int, challenger: int, created: datetime) -> Trial:
    """Return the trial of two versions that goes on; where somebody moved an alias by hand, it began with the challenger."""
    known = [trial for trial in trials(history) if trial.end is None]
    last = known[-1] if known else None
    if last is not None and (last.champion, last.challenger) == (champion, challenger):
        return last
    return Trial(champion, challenger, created)


@dataclass(frozen=True)
class Tried:
    """What was tried in a window."""

    trial: Trial
    window: Window
    """The part of the window in which it was."""
    seen: Comparison


def compare_in(spec: TriedSpec, model: str, window: Window, *, ports: Ports) -> list[Tried]:
    """Compare each challenger that was tried in a window with its champion, by what both answered then.

    Raises:
        DataRejected: the source of labels lacks a column, or a value does not fit.
        RegistryUnavailable: the registry does not answer.
        StoreUnavailable: the store or the source of labels does not answer.

    """
    found = []
    for trial in trials(ports.registry.history(model)):
        part = trial.overlap(window)
        if part is None:
            continue
        with suppress(KeyError):  # a version that was deleted since
            sides = ports.registry.deployment(model, trial.champion), ports.registry.deployment(model, trial.challenger)
            schema = sides[1].feature_schema
            if sides[0].feature_schema.task != schema.task:
                continue  # their answers can't be compared
            labels = spec.labels if spec.labels and schema.label in spec.labels.columns else None
            seen = compare_trial(spec.challenger, sides, part, labels=labels, store=ports.store, sources=ports.sources)
            found.append(Tried(trial, part, seen))
    return [tried for tried in found if tried.seen.challenger.requests]


def compare_trial(
    spec: ChallengerSpec,
    sides: tuple[Deployment, Deployment],
    window: Window,
    *,
    labels: Source | None,
    store: ArtifactStore,
    sources: SourceReader,
) -> Comparison:
    """Compare champion and challenger by what both answered in a window, in which both were tried.

    Raises:
        DataRejected: the source of labels lacks a column, or a value does not fit.
        StoreUnavailable: the store or the source does not answer.

    """
    champion, challenger = sides
    versions, schema = (champion.version, challenger.version), challenger.feature_schema
    log = read_log(store, challenger.model, window, versions)
    return compare(
        log,
        versions,
        age=window.end - window.start,
        metric=spec.metric_for(schema.task),
        signatures=(_signature_of(champion, store), _signature_of(challenger, store)),
        labels=read_labels(sources, labels, schema.label, log, window) if labels else {},
        paired=_is_shadow(log, challenger.version),
        planned=max(spec.min_requests, ENOUGH_LABELS),
    )


def _is_shadow(log: pa.Table, challenger: int) -> bool:
    """Tell whether the challenger scored what the champion answered; where the mode was changed meanwhile, mostly."""
    own = log.filter(pc.equal(log[VERSION], challenger))[SHADOW]
    return 2 * (pc.sum(own).as_py() or 0) > len(own)


def _signature_of(deployment: Deployment, store: ArtifactStore) -> ModelSignature:
    return ModelSignature.model_validate_json(store.open_local(deployment.file("signature.json")).read_bytes())


def read_log(store: ArtifactStore, name: str, window: Window, versions: tuple[int, int]) -> pa.Table:
    """Return what two versions answered, and scored in shadow, in a window. Raises: StoreUnavailable."""
    tables, day = [], window.start.astimezone(UTC).date()
    while day <= window.end.astimezone(UTC).date():
        for key in day_keys(store, name, day):
            rows = pq.read_table(pa.BufferReader(_bytes_of(store, key)), columns=LOG_COLUMNS)
            start, end = (pa.scalar(edge, rows[TIME].type) for edge in (window.start, window.end))
            within = pc.and_(pc.greater_equal(rows[TIME], start), pc.less(rows[TIME], end))
            tables.append(rows.filter(pc.and_(within, pc.is_in(rows[VERSION], pa.array(versions)))))
        day += timedelta(days=1)
    return pa.concat_tables([table for table in tables if table.num_rows] or [empty_log()], promote_options="permissive")


def _bytes_of(store: ArtifactStore, key: str) -> bytes:
    try:
        return store.read(key)
    except KeyError as error:
        msg = f"store {store.root}: {key} is gone since it was listed; look again"
        raise StoreUnavailable(msg) from error


def read_labels(sources: SourceReader, source: Source, label: str, log: pa.Table, window: Window) -> dict[str, object]:
    """Return prediction id -> label of what is in a log, as far as it is known.

    Of a source with an event time only that of the trial is read, a day more on either side.

    Raises:
        DataRejected: the source lacks a column, or a value does not fit.
        StoreUnavailable: it does not answer.

    """
    wanted = {name: source.columns[name] for name in ("prediction_id", label, source.event_time) if name}
    around = Window(start=window.start - SLACK, end=window.end + SLACK) if source.event_time else None
    ids, known = log[ID].combine_chunks(), dict[str, object]()
    if not len(ids):
        return known
    for batch in sources.read(source.model_copy(update={"columns": wanted}), around):
        rows = batch.filter(pc.is_in(batch["prediction_id"], value_set=ids))
        known.update(zip(rows["prediction_id"].to_pylist(), rows[label].to_pylist(), strict=True))
    return known
