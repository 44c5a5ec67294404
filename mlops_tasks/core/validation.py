"""Windows of tables to a published proof that their expectations hold, or to a refusal that says which do not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_tasks.artifacts import FileRef, Window
from mlops_tasks.core.data_docs import render_docs
from mlops_tasks.core.expectations import Checked, check, failures
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.errors import DataRejected
from mlops_tasks.specs import Expectation

if TYPE_CHECKING:
    import pandas as pd

    from mlops_tasks.ports import Ports

ROWS_PER_PASS = 2_000_000
"""Rows held in memory at once; a longer range is checked in several passes."""
SHOWN_FAILURES = 12
STORING_THREADS = 8


@dataclass(frozen=True)
class Batch:
    """One window's files to check: table name -> file."""

    window: Window
    files: Mapping[str, FileRef]
    subject: str
    """Digest of what is proven."""


@dataclass(frozen=True)
class Proof:
    """The published result of one window."""

    digest: str
    files: tuple[FileRef, ...]


def prove(
    batches: Sequence[Batch], expectations: Mapping[str, Sequence[Expectation]], *, kind: str, ports: Ports
) -> list[Proof]:
    """Check every window; publish `result.json` for each and one page of Data Docs for all.

    Args:
        batches: windows with their tables, each once.
        expectations: table name -> expectations; a table without any is not read.
        kind: `raw` or `features`, for keys and messages.
        ports: the store and the progress.

    Raises:
        DataRejected: an expectation does not hold; the message names window, column, expectation and what was
            observed. The Data Docs are published all the same, under the name that the message gives.
        SpecError: an expectation can't be computed.

    """
    outcomes: dict[str, list[Checked]] = {batch.window.label: [] for batch in batches}
    results: list[Any] = []
    with ports.progress.bar(f"validate {kind}", len(batches)) as bar:
        for some in _passes(batches):
            for table, asked in expectations.items():
                checks = check({b.window.label: _read(b.files[table], asked, ports) for b in some}, asked, _place(kind, table))
                results += checks.results
                for label, checked in checks.windows.items():
                    outcomes[label] += checked if len(expectations) == 1 else [_named(table, item) for item in checked]
            bar.advance(len(some))
    docs = _publish_docs(results, batches, kind, ports)
    _refuse_failures(outcomes, batches, kind, docs, ports)
    # Storing mostly waits for the disk or the network.
    with ThreadPoolExecutor(STORING_THREADS) as pool:
        return list(pool.map(lambda b: _publish(b, outcomes[b.window.label], docs, kind, ports), batches))


def _named(table: str, item: Checked) -> Checked:
    return item.model_copy(update={"column": f"{table}.{item.column}" if item.column else table})


def _passes(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Cut the windows into groups of at most `ROWS_PER_PASS` rows."""
    some: list[Batch] = []
    rows = 0
    for batch in batches:
        size = sum(ref.rows or 0 for ref in batch.files.values())
        if some and rows + size > ROWS_PER_PASS:
            yield some
            some, rows = [], 0
        some.append(batch)
        rows += size
    if some:
        yield some


def _read(ref: FileRef, asked: Sequence[Expectation], ports: Ports) -> pd.DataFrame:
    """Read the columns that expectations name, and one at least, so that rows can be counted; N rows."""
    import pyarrow as pa  # noqa: PLC0415 - keeps the module light
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    file = pq.ParquetFile(ports.store.open_local(ref))
    have = file.schema_arrow.names
    named = {v for item in asked for key, v in item.kwargs.items() if key.startswith("column") and isinstance(v, str)}
    named |= {v for item in asked for v in item.kwargs.get("column_list", [])}
    whole_table = any(
        ("columns" in item.expect and "column_list" not in item.kwargs) or "row_condition" in item.kwargs for item in asked
    )
    columns = have if whole_table else [name for name in have if name in named] or have[:1]
    table = file.read(columns=columns)
    # Flags as numbers, so that their rates can be asked for, also where some are null.
    types = [pa.float64() if pa.types.is_boolean(field.type) else field.type for field in table.schema]
    frame: pd.DataFrame = table.cast(pa.schema(zip(table.column_names, types, strict=True))).to_pandas()
    return frame


def _place(kind: str, table: str) -> str:
    """Say where a table's expectations stand in pipeline.yaml."""
    return f"validate_raw.expectations.{table}" if kind == "raw" else "validate.expectations"


def _publish_docs(results: Sequence[Any], batches: Sequence[Batch], kind: str, ports: Ports) -> FileRef | None:
    if not results:
        return None
    first, last = batches[0].window, batches[-1].window
    name = first.label if len(batches) == 1 else f"{first.label}_{last.label}"
    with ports.store.staging() as staging:
        page = staging / "data_docs.html"
        page.write_text(render_docs(results, f"{ports.run.pipeline}: {kind}, {name}"), encoding="utf-8")
        _, refs = publish_files(ports.store, f"{ports.run.pipeline}/data_docs/{kind}/{name}", {page.name: page})
    return refs[0]


def _refuse_failures(
    outcomes: Mapping[str, Sequence[Checked]], batches: Sequence[Batch], kind: str, docs: FileRef | None, ports: Ports
) -> None:
    broken = [f"window {b.window}: {text}" for b in batches for text in failures(outcomes[b.window.label])]
    if not broken or docs is None:
        return
    more = f"\n... and {len(broken) - SHOWN_FAILURES} more" if len(broken) > SHOWN_FAILURES else ""
    lines = "\n".join(broken[:SHOWN_FAILURES])
    msg = (
        f"{ports.run.pipeline}: {kind} data broke {len(broken)} expectation{'s' if len(broken) > 1 else ''}; "
        f"mend the source or the expectation, then run again (Data Docs: {ports.store.root}/{docs.key})\n{lines}{more}"
    )
    raise DataRejected(msg)


def _publish(batch: Batch, checked: Sequence[Checked], docs: FileRef | None, kind: str, ports: Ports) -> Proof:
    folder = f"{ports.run.pipeline}/validated_{kind}/{batch.window.label}"
    with ports.store.staging() as staging:
        result = Path(staging) / "result.json"
        body = {"window": batch.window.label, "expectations": [item.model_dump() for item in checked]}
        result.write_text(json.dumps(body, indent=1), encoding="utf-8")
        digest, refs = publish_files(ports.store, folder, {result.name: result}, facts={"subject": batch.subject})
    return Proof(digest=digest, files=(*refs, docs) if docs else refs)
