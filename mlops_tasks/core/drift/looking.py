"""Rows of windows to records with a sketch, not judged yet: read in parts, scored by the deployed model, published."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from mlops_tasks.core.drift.keeping import read_records
from mlops_tasks.core.drift.records import WindowRecord
from mlops_tasks.core.drift.settling import YEAR, start_of
from mlops_tasks.core.publishing import gather_files, publish_files
from mlops_tasks.core.sketches import add_prediction, sketch_parts
from mlops_tasks.errors import DataRejected, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from mlops_tasks.artifacts import Deployment, FileRef, ValidFeatures, Window
    from mlops_tasks.core.scoring import Scorer
    from mlops_tasks.core.sketches import Reference, Sketches
    from mlops_tasks.ports import Ports
    from mlops_tasks.specs import MonitorSpec

PART_ROWS = 1 << 18
"""Rows held at once: of 50 columns about 100 MB."""
QUIET = {"backfill", "reproduce"}
"""Intents that don't take the place of a scheduled run's."""


class Lookout:
    """Looks at windows with one deployed model."""

    def __init__(self, deployment: Deployment, reference: Reference, folder: Path, *, ports: Ports) -> None:
        """Take the model, what it was trained on, and a folder for its files."""
        self._deployment, self._reference, self._folder, self._ports = deployment, reference, folder, ports

    def look(self, item: ValidFeatures, before: WindowRecord | None) -> WindowRecord:
        """Return a window's record, as it was if its rows were seen already. Raises: DataRejected: a column is unfit."""
        intent = self._ports.run.intent
        if before is not None and intent in QUIET:
            intent = before.intent
        if before is not None and before.seen_by is None and before.sketch and before.features == item.features.digest:
            return before.model_copy(update={"intent": intent})
        return self._sketched(item.window, item.features.digest, item.features.file("features.parquet"), intent)

    def season(self, spec: MonitorSpec, windows: Iterable[Window], known: Mapping[str, WindowRecord]) -> Iterator[WindowRecord]:
        """Yield what other versions saw in the same season a year before, on this version's layouts."""
        if not spec.season:
            return
        starts = [window.start - YEAR for window in windows]
        first = min(start_of(label) for label in self._reference.history.windows)
        keys = {
            label: key
            for label, key in self._others()
            if label not in known and any(abs(start_of(label) - start) <= spec.season for start in starts)
            if start_of(label) < first
        }
        for record in read_records(self._ports.store, keys.values()).values():
            if record.table is not None:
                with suppress(DataRejected, StoreUnavailable):  # its rows are gone, or its columns were others
                    made = self._sketched(record.window, record.features, record.table, record.intent)
                    seen = {"seen_by": record.seen_by or record.model_version}
                    kept = record.model_dump(include={"status", "columns", "reason", "rows"})
                    yield made.model_copy(update={**kept, **seen})

    def _others(self) -> Iterator[tuple[str, str]]:
        """Yield label and key of what other versions recorded, oldest version first."""
        prefix = f"{self._ports.run.pipeline}/monitor/"
        found = (key.removeprefix(prefix).split("/") for key in self._ports.store.list(prefix))
        versions = [(int(parts[0]), parts[1]) for parts in found if len(parts) == 2 and parts[0].isdigit()]  # noqa: PLR2004 - version and label
        for version, name in sorted(versions):
            if version != self._deployment.version:
                yield name.removesuffix(".json"), f"{prefix}{version}/{name}"

    def sketch(self, table: FileRef, window: Window, change: Callable[[pa.Table], pa.Table] | None = None) -> Sketches:
        """Sketch a window's rows, changed first if that is asked for. Raises: DataRejected: a column is unfit."""
        parts = self._parts(table)
        changed = parts if change is None else map(change, parts)
        return sketch_parts((self._scored(part, window) for part in changed), self._reference, window.label)

    def _sketched(self, window: Window, features: str, table: FileRef, intent: str) -> WindowRecord:
        sketch = self.sketch(table, window)
        text = json.dumps(sketch.to_json(), separators=(",", ":"))
        with self._ports.store.staging() as folder:
            path = folder / "sketch.json"
            path.write_text(text, encoding="utf-8")
            place = f"{self._ports.run.pipeline}/sketches/{self._deployment.version}/{window.label}"
            _, (file,) = publish_files(self._ports.store, place, {path.name: path})
        return WindowRecord.model_validate(
            {
                "window": window,
                "model_version": self._deployment.version,
                "features": features,
                "status": "warming_up",
                "columns": (),
                "reason": "",
                "rows": int(sketch.rows[0]),
                "intent": intent,
                "table": table,
                "sketch": file,
            }
        )

    def _parts(self, table: FileRef) -> Iterator[pa.Table]:
        """Yield a window's rows in parts, at least one; only what is compared is read."""
        file = pq.ParquetFile(self._ports.store.open_local(table))
        present = [name for name in self._reference.layouts if name in file.schema_arrow.names]
        schema = pa.schema([file.schema_arrow.field(name) for name in present])
        batches = file.iter_batches(batch_size=PART_ROWS, columns=present) if file.metadata.num_rows else iter(())
        empty = True
        for batch in batches:
            empty = False
            yield pa.Table.from_batches([batch])
        if empty:
            yield schema.empty_table()

    def _scored(self, rows: pa.Table, window: Window) -> pa.Table:
        name, scorer = self._reference.prediction, self._scorer
        if name is None or scorer is None or not rows.num_rows:
            return rows
        wanted = {*scorer.signature.numeric, *scorer.signature.categorical}
        if not wanted <= set(rows.column_names):
            return rows  # sketching it says which columns are missing
        return add_prediction(rows, name, scorer, f"window {window.label}")

    @cached_property
    def _scorer(self) -> Scorer | None:
        if self._reference.prediction is None:
            return None
        from mlops_tasks.core.scoring import Scorer, scorer_files  # noqa: PLC0415 - loads ONNX Runtime

        gather_files(self._ports.store, scorer_files(self._deployment), self._folder)
        return Scorer.load(self._folder, threads=1)
