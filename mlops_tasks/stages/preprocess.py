"""Valid raw rows to the features of each window, made in Spark, with rejected rows kept beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Features, ValidRaw, Window
from mlops_tasks.core.collection import write_rows
from mlops_tasks.core.features import REASON, WINDOW, Prepared, first_line, order_totally, prepare
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.windows import contiguous
from mlops_tasks.errors import DataRejected, SpecError, StoreUnavailable
from mlops_tasks.specs import PreprocessSpec

if TYPE_CHECKING:
    from pyspark.errors import PySparkException
    from pyspark.sql import DataFrame

    from mlops_tasks.ports import Ports, SparkStaging

WINDOWS_PER_JOB = 400
"""Most windows of one Spark job: bounds the plan's size and what a failure throws away."""
FETCHES_AT_A_TIME = 8
"""Downloads from a store that is elsewhere; on local disk there is nothing to wait for."""


def run(spec: PreprocessSpec, raw: Sequence[ValidRaw], windows: Sequence[Window], *, ports: Ports) -> list[Features]:
    """Make the features of `windows`; `raw` also holds the windows that they look back to.

    Windows that follow each other and share their static tables are made in one Spark job.

    Raises:
        SpecError: the features' code does not compile or lacks a column.
        DataRejected: a value breaks the code, or every row of a window was rejected.
        StoreUnavailable: Spark or the store does not answer.

    """
    by_start = {item.window.start: item for item in raw}
    made: list[Features] = []
    with ports.progress.bar("preprocess", len(windows)) as bar:
        for batch in _batches(spec, windows, by_start):
            made += _make(spec, batch, _needed(spec, batch, by_start), ports)
            bar.advance(len(batch))
    return made


def _batches(spec: PreprocessSpec, windows: Sequence[Window], raw: dict[datetime, ValidRaw]) -> Iterator[tuple[Window, ...]]:
    for stretch in contiguous(windows):
        for _, same in groupby(stretch, key=lambda w: [raw[w.start].raw.tables[name].file.sha256 for name in spec.static]):
            items = list(same)
            for first in range(0, len(items), WINDOWS_PER_JOB):
                yield tuple(items[first : first + WINDOWS_PER_JOB])


def _needed(spec: PreprocessSpec, batch: tuple[Window, ...], raw: dict[datetime, ValidRaw]) -> list[ValidRaw]:
    earliest = batch[0].start - spec.lookback
    return [item for start, item in sorted(raw.items()) if item.window.end > earliest and start < batch[-1].end]


def _make(spec: PreprocessSpec, batch: tuple[Window, ...], needed: list[ValidRaw], ports: Ports) -> list[Features]:
    session = ports.spark.session()
    time = spec.primary_time
    with ports.store.staging() as folder, ports.store.spark_staging() as written, _spark_errors(spec, batch, ports):
        prepared = prepare(session, spec, _tables(spec, needed, ports), time, batch)
        schema = spec.feature_schema
        _write(prepared.features, f"{written.uri}/features", [schema.event_time, *schema.entity_key], len(batch))
        _write(prepared.rejected, f"{written.uri}/rejected", [time, REASON], len(batch))
        features = _files(written, "features", batch)
        rejected = _files(written, "rejected", batch)
        _refuse_all_rejected(spec, features, rejected)
        features |= _empty(prepared, [window for window in batch if window not in features], folder)
        # Storing mostly waits for the disk or the network.
        with ThreadPoolExecutor(FETCHES_AT_A_TIME) as pool:
            return list(pool.map(lambda w: _publish(spec, w, features[w], rejected.get(w), ports), batch))


def _tables(spec: PreprocessSpec, needed: list[ValidRaw], ports: Ports) -> dict[str, DataFrame]:
    latest = needed[-1].raw.tables
    tables: dict[str, DataFrame] = {}
    for name in latest:
        sources = [needed[-1]] if name in spec.static else needed
        files = [item.raw.tables[name].file.key for item in sources if name in item.raw.tables]
        tables[name] = ports.spark.read([ports.store.spark_uri(key) for key in files])
    return tables


def _write(frame: DataFrame, uri: str, first: list[str], windows: int) -> None:
    """Write one sorted file a window."""
    parts = max(1, min(windows, 8))
    ordered = frame.repartition(parts, WINDOW).sortWithinPartitions(WINDOW, *order_totally(first, frame))
    ordered.write.partitionBy(WINDOW).parquet(uri)


def _files(written: SparkStaging, folder: str, batch: tuple[Window, ...]) -> dict[Window, Path]:
    """Return local files, the same bytes for the same rows, of what Spark wrote, by window; one without rows has none."""
    windows = {window.label: window for window in batch}
    names: dict[Window, str] = {}
    for name in written.files(folder):
        label = PurePosixPath(name).parent.name.removeprefix(f"{WINDOW}=")
        if label not in windows:  # its rows would be lost in silence
            msg = f"Spark wrote rows of {WINDOW}={label}, which is none of the windows {sorted(windows)[:3]}"
            raise RuntimeError(msg)
        if windows[label] in names:
            msg = f"Spark wrote several files for window {label}, expected one"
            raise RuntimeError(msg)
        names[windows[label]] = name
    with ThreadPoolExecutor(FETCHES_AT_A_TIME) as pool:
        fetched = pool.map(written.fetch, names.values())
        return {window: _rewritten(path) for window, path in zip(names, fetched, strict=True)}


def _refuse_all_rejected(spec: PreprocessSpec, features: Mapping[Window, Path], rejected: Mapping[Window, Path]) -> None:
    for window, path in rejected.items():
        if window not in features:
            told = ", ".join(f"{name}: {rows}" for name, rows in _reasons(spec, path).items())
            msg = f"window {window}: the row rules rejected every row ({told}); mend preprocess.row_rules or the source"
            raise DataRejected(msg)


def _empty(prepared: Prepared, windows: Sequence[Window], folder: Path) -> dict[Window, Path]:
    """Write a file without rows, which has the features' schema, for each of `windows`."""
    if not windows:
        return {}
    table = prepared.features.drop(WINDOW).limit(0).toArrow()
    files = {window: folder / f"empty-{window.label}.parquet" for window in windows}
    for path in files.values():
        write_rows(table, path)
    return files


def _publish(spec: PreprocessSpec, window: Window, features: Path, rejected: Path | None, ports: Ports) -> Features:
    import pyarrow.parquet as pq  # noqa: PLC0415 - keeps the stage's module light

    counts = _reasons(spec, rejected) if rejected else {}
    rows = pq.read_metadata(features).num_rows
    files = {"features.parquet": features} | ({"rejected.parquet": rejected} if rejected else {})
    digest, refs = publish_files(
        ports.store,
        f"{ports.run.pipeline}/features/{window.label}",
        files,
        facts={"schema": spec.feature_schema.model_dump(mode="json"), "window": window.model_dump(mode="json")},
        rows={"features.parquet": rows, "rejected.parquet": sum(counts.values())},
    )
    return Features(digest=digest, files=refs, window=window, feature_schema=spec.feature_schema, rows=rows, rejected=counts)


def _rewritten(path: Path) -> Path:
    """Write Spark's file anew: the order of encodings in its footer is that of a hash set, another one in each JVM."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - keeps the stage's module light

    target = path.with_suffix(".again.parquet")
    write_rows(pq.ParquetFile(path).read(), target)
    path.unlink()
    return target


def _reasons(spec: PreprocessSpec, rejected: Path) -> dict[str, int]:
    import pyarrow.compute as pc  # noqa: PLC0415 - keeps the stage's module light
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    counted = pc.value_counts(pq.ParquetFile(rejected).read(columns=[REASON])[REASON]).to_pylist()
    counts = {item["values"]: item["counts"] for item in counted}
    return {name: counts[name] for name in spec.row_rules if name in counts}


@contextmanager
def _spark_errors(spec: PreprocessSpec, batch: tuple[Window, ...], ports: Ports) -> Iterator[None]:
    """Turn Spark's errors into ours: a value that breaks the code, or an engine that is gone."""
    from pyspark.errors import PySparkException  # noqa: PLC0415 - seconds to import
    from pyspark.errors.exceptions.connect import SparkConnectGrpcException  # noqa: PLC0415 - likewise

    where = f"{spec.features}, windows {batch[0].label} to {batch[-1].label}"
    try:
        yield
    except PySparkException as error:
        if any(text in str(error) for text in ("No space left on device", "Disk quota exceeded")):
            full = f"No space left on device under {ports.store.root} or Spark's temporary folder"
            msg = f"{where}: {full}; free some space and run again"
            raise StoreUnavailable(msg) from error
        if error.getCondition() in USER_ERRORS or error.getSqlState() == "42000":
            msg = f"{where}: Spark does not accept it: {first_line(error)}"
            raise SpecError(msg) from error
        trouble = _trouble(error, ports.store.root)
        if trouble:
            msg = f"{where}: {trouble}"
            raise StoreUnavailable(msg) from error
        if isinstance(error, SparkConnectGrpcException) and error.getCondition() is None:
            msg = (
                f"{where}: Spark stopped answering: {first_line(error)}; "
                "run again, with more memory (MLOPS_SPARK_MEMORY) if it was killed"
            )
            raise StoreUnavailable(msg) from error
        msg = (
            f"{where}: a value breaks the features: {_cause(error)}; "
            "mend the features (try_cast, nullif, ...) or add a row rule"
        )
        raise DataRejected(msg) from error


NO_S3A = "S3AFileSystem not found"
S3A_FAILED = re.compile(r"org\.apache\.hadoop\.fs\.s3a\.|software\.amazon\.awssdk\.|AccessDeniedException")
EXECUTORS_LOST = re.compile(
    r"ExecutorLostFailure|Master removed our application|SparkContext was shut down|SparkContext.*stopped"
)


def _trouble(error: PySparkException, root: str) -> str:
    """Say what keeps Spark from the store or from its executors; `` if it is neither."""
    text = str(error)
    if NO_S3A in text:
        return (
            "the Spark server has no jars for a store in S3; fetch them (docker/fetch-jars), set MLOPS_SPARK_JARS to "
            "their folder where the server starts, and start it again"
        )
    if error.getCondition() == "PATH_NOT_FOUND":
        return (
            f"Spark does not see the store {root}; use one that the Spark server and its workers see, in S3 or on a shared disk"
        )
    failed = [line.strip() for line in text.splitlines() if S3A_FAILED.search(line) and not line.lstrip().startswith("at ")]
    if failed:
        told = failed[0][:200]
        return f"Spark could not use the store {root}: {told}; check the AWS_ variables of the Spark server and its workers"
    if EXECUTORS_LOST.search(text):
        return (
            "Spark lost the executors that did the work; run again, with more of them or with more memory "
            "(MLOPS_SPARK_EXECUTOR_MEMORY) if they were killed"
        )
    return ""


USER_ERRORS = frozenset({"PARSE_SYNTAX_ERROR", "UNRESOLVED_COLUMN.WITH_SUGGESTION", "TABLE_OR_VIEW_NOT_FOUND"})


QUOTED_VALUE = re.compile(r"\bThe value .*?(?= (?:of the type|cannot|can't)\b)", re.DOTALL)
"""Where Spark quotes a value of a row: values may be private, and messages go to logs."""


def _cause(error: Exception) -> str:
    """Find the line of a failed Spark job that names its error class, e.g. `[DIVIDE_BY_ZERO] ...`."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [
        line[line.index("[") :] for line in lines if "[" in line and "]" in line and line[line.index("[") + 1 :][:1].isupper()
    ]
    line = (named or lines or [type(error).__name__])[0]
    return QUOTED_VALUE.sub("A value", line)[:300]
