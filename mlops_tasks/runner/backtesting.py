"""A pipeline's windows in the store to what its monitor would have said of them, as they are and changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import FileRef, ValidFeatures
from mlops_tasks.core.drift import YEAR, Lookout, WindowRecord, open_records
from mlops_tasks.core.drift_backtest import (
    Detection,
    Rate,
    Replay,
    Shift,
    parse_shift,
    propose_rate,
    replay_clean,
    replay_shift,
    usual_shifts,
)
from mlops_tasks.core.drift_report import say_judged
from mlops_tasks.errors import NothingToDo
from mlops_tasks.ports import RunContext
from mlops_tasks.runner.runner import Runner
from mlops_tasks.runner.walking import validated_features
from mlops_tasks.specs import PipelineSpec
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.core.sketches import Reference, Sketches
    from mlops_tasks.ports import ArtifactStore

RATES = (0.01, 0.02, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Asked:
    """What is to be replayed."""

    start: datetime | None = None
    """First window that is judged; None: the first that the champion was not trained on."""
    end: datetime | None = None
    shifts: tuple[str, ...] = ()
    """`column:kind:size`; none: the usual ones of every column that decides."""
    starts: int = 3
    """With how many different windows each shift begins."""
    horizon: int = 4
    """Windows that a shift is looked for in."""
    tolerated: float = 0.01
    """Share of clean windows that may complete a row of alarms, for the proposal."""


@dataclass(frozen=True)
class Backtest:
    """What the replay showed."""

    pipeline: PipelineSpec
    version: int
    replay: Replay
    rates: dict[float, Replay]
    """False-alarm rate of the spec -> the same history under it."""
    detections: dict[Shift, tuple[Detection, ...]]
    proposed: float | None
    tolerated: float


def backtest_drift(pipeline: PipelineSpec, adapters: Adapters, asked: Asked) -> Backtest:
    """Replay the windows since the champion's training, as they were and with each shift.

    Raises:
        NothingToDo: no model serves, or no window since its training is in the store.
        SpecError: a shift that its column can't have.
        DataRejected, ModelRejected, StoreUnavailable: as the monitor does.

    """
    champion = Runner(pipeline, adapters).champion(pipeline.monitor.model)
    if champion is None:
        msg = f"{pipeline.name}: no model serves yet, so there is nothing to replay; train one first"
        raise NothingToDo(msg)
    features = _features(pipeline, adapters, champion, asked)
    spec, columns = pipeline.monitor, _columns(pipeline)
    with TemporaryDirectory(prefix="mlops-backtest-") as folder:
        history = _History(pipeline, adapters, champion, Path(folder))
        shifts = [parse_shift(text, columns) for text in asked.shifts] or list(usual_shifts(history.reference.layouts, columns))
        records = history.look(features)
        clean = replay_clean(spec, history.reference, records, history.sketches)
        rates = {
            rate: replay_clean(spec.model_copy(update={"false_alarm_rate": rate}), history.reference, records, history.sketches)
            for rate in sorted({*RATES} - {spec.false_alarm_rate})
        } | {spec.false_alarm_rate: clean}
        detections = history.detect(clean, shifts, features, asked)
    return Backtest(
        pipeline=pipeline,
        version=champion.version,
        replay=clean,
        rates=dict(sorted(rates.items())),
        detections=detections,
        proposed=propose_rate({rate: replay.decisions for rate, replay in rates.items()}, asked.tolerated),
        tolerated=asked.tolerated,
    )


def _columns(pipeline: PipelineSpec) -> dict[str, str]:
    """Return the features that decide, with their kinds."""
    return {c.name: c.kind for c in pipeline.features.columns if c.name not in pipeline.monitor.ignore}


def _features(pipeline: PipelineSpec, adapters: Adapters, champion: Deployment, asked: Asked) -> list[ValidFeatures]:
    """Return the judged windows and those of the same season a year before. Raises: NothingToDo: there is none to judge."""
    start = asked.start or champion.training.end
    judged, _ = validated_features(pipeline, adapters, start, asked.end)
    if not judged:
        msg = f"{pipeline.name}: no validated window from {start:%Y-%m-%d} on is in the store; run its ingest first"
        raise NothingToDo(msg)
    around = timedelta(0) if not pipeline.monitor.season else YEAR + pipeline.monitor.season
    earlier, _ = validated_features(pipeline, adapters, judged[0].window.start - around, champion.training.start)
    return [*(item for item in earlier if item.window.end <= champion.training.start), *judged]


class _History:
    """The windows' sketches on the champion's layouts, kept in this process alone."""

    def __init__(self, pipeline: PipelineSpec, adapters: Adapters, champion: Deployment, folder: Path) -> None:
        self._adapters, self._champion = adapters, champion
        run = RunContext(pipeline.name, "backtest", "reproduce", datetime.now(UTC), code_version="")
        ports = adapters.ports(run)
        say = partial(say_judged, spec=pipeline.monitor)
        store: ArtifactStore = adapters.store
        self.reference: Reference = open_records(champion, pipeline.monitor, pipeline.name, store, say=say).reference
        self.sketches: dict[FileRef, Sketches] = {}
        self._lookout = Lookout(champion, self.reference, folder, ports=ports)

    def look(self, features: Sequence[ValidFeatures]) -> list[WindowRecord]:
        """Sketch windows as they are; those before the training count as accepted."""
        with self._adapters.progress.bar("sketch", len(features)) as bar:
            records = []
            for item in features:
                records.append(self._record(item, None))
                bar.advance(1, window=item.window.label)
        return records

    def detect(
        self, clean: Replay, shifts: Sequence[Shift], features: Sequence[ValidFeatures], asked: Asked
    ) -> dict[Shift, tuple[Detection, ...]]:
        """Let each shift begin with some windows, evenly spread, of those in which there was enough history."""
        places = self._places(clean, features, asked)
        found: dict[Shift, tuple[Detection, ...]] = {}
        with self._adapters.progress.bar("shifts", len(shifts) * len(places)) as bar:
            for shift in shifts:
                detections = []
                for place in places:
                    items = features[place : place + asked.horizon]
                    shifted = [self._record(item, shift) for item in items]
                    detections.append(replay_shift(clean, self.reference, self.sketches, shifted))
                    bar.advance(1, shift=shift.name)
                found[shift] = tuple(detections)
        return found

    def _places(self, clean: Replay, features: Sequence[ValidFeatures], asked: Asked) -> list[int]:
        warm = {record.window for record in clean.warm}
        places = [at for at, item in enumerate(features) if item.window in warm and at + asked.horizon <= len(features)]
        return list(_spread(places, asked.starts))

    def _record(self, item: ValidFeatures, shift: Shift | None) -> WindowRecord:
        """Sketch one window, changed or not, into a record that is not judged yet."""
        table, label = item.features.file("features.parquet"), item.window.label
        name = f"{item.features.digest}{'' if shift is None else f' {shift.name}'}"
        ref = FileRef(key=f"{label}/{name}", bytes=0, sha256=name)
        if ref not in self.sketches:
            change = None if shift is None else partial(shift.apply, layout=self.reference.layouts[shift.column])
            self.sketches[ref] = self._lookout.sketch(table, item.window, change)
        early = item.window.end <= self._champion.training.start
        return WindowRecord(
            window=item.window,
            model_version=self._champion.version,
            features=name,
            status="ok" if early else "warming_up",
            columns=(),
            reason="",
            sketch=ref,
            seen_by=0 if early else None,
        )


def _spread(items: Sequence[int], count: int) -> Iterator[int]:
    """Yield so many items, evenly spread and each once."""
    yield from dict.fromkeys(items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count) if items)


def rate_facts(rate: Rate) -> Mapping[str, object]:
    """Return a rate as JSON has it."""
    low, high = rate.interval
    return {"count": rate.count, "of": rate.of, "share": rate.share, "low": low, "high": high}
