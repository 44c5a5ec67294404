"""An open data file to typed record batches, streamed; a damaged file to one line that says where."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zipfile
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from mlops_tasks.adapters.sources.conforming import Place, conform
from mlops_tasks.core.collection import columns_to_read, schema_of
from mlops_tasks.errors import DataRejected, SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mlops_tasks.specs import Source

BLOCK_BYTES = 4 << 20
BATCH_ROWS = 64_000
SUFFIXES = (".csv", ".csv.zip", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")
_ROW = re.compile(r"Row #(\d+)")
_COLUMN = re.compile(r"CSV column #(\d+)")


def read_file(stream: IO[bytes], name: str, source: Source) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows with the types that the source names.

    Args:
        stream: a seekable binary file at its start.
        name: the file's name: its suffix says how it is read, and messages name it.
        source: its columns, types and null values.

    Raises:
        DataRejected: the file is damaged, or lacks a column, or a value does not fit its type.
        SpecError: its suffix is not known.

    """
    suffix = suffix_of(name)
    if not stream.read(1):
        msg = f"{name}: is empty, expected {_header_hint(source)}; fetch the file again"
        raise DataRejected(msg)
    stream.seek(0)
    with _damage(name, suffix):
        if suffix == ".parquet":
            yield from _read_parquet(stream, name, source)
            return
        for member in _decompressed(stream, suffix):
            yield from (_read_csv if suffix.startswith(".csv") else _read_jsonl)(member, name, source)


def suffix_of(name: str) -> str:
    """Return which of the known suffixes a name has. Raises: SpecError."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return suffix
    msg = f"{name}: can't tell the format from the name; known are {', '.join(SUFFIXES)}"
    raise SpecError(msg)


@contextmanager
def _damage(name: str, suffix: str) -> Iterator[None]:
    """Turn the errors of a damaged container into words."""
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError) as error:
        msg = f"{name}: is cut off or not a {suffix.rsplit('.', 1)[-1]} file; fetch it again"
        raise DataRejected(msg) from error


def _decompressed(stream: IO[bytes], suffix: str) -> Iterator[IO[bytes]]:
    if suffix.endswith(".gz"):
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=stream, mode="rb"))
    elif suffix.endswith(".zip"):
        with zipfile.ZipFile(stream) as archive:
            for member in sorted(n for n in archive.namelist() if n.lower().endswith(".csv") and not n.startswith("__MACOSX")):
                yield archive.open(member)
    else:
        yield stream


def _header_hint(source: Source) -> str:
    return f"columns {', '.join(columns_to_read(source))}"


def missing_columns(name: str, missing: Iterable[str], present: Iterable[str]) -> DataRejected:
    """Word the lack of columns."""
    text = ", ".join(repr(c) for c in missing)
    return DataRejected(f"{name}: has no column {text}; it has {', '.join(present)}; mend the file or the source's columns")


def _read_csv(stream: IO[bytes], name: str, source: Source) -> Iterator[pa.RecordBatch]:
    head = io.BytesIO(stream.readline())
    present = _header(head.getvalue(), name)
    names = list(columns_to_read(source))
    if missing := [column for column in names if column not in present]:
        raise missing_columns(name, missing, present)
    if doubled := [column for column in names if present.count(column) > 1]:
        times = present.count(doubled[0])
        msg = f"{name}, line 1: column {doubled[0]!r} stands {times} times in the header; rename or remove one"
        raise DataRejected(msg)
    rest = cast("IO[bytes]", io.BufferedReader(_Prepended(head.getvalue(), stream), BLOCK_BYTES))
    options = {
        "read_options": pacsv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),  # threads lose line numbers
        "parse_options": pacsv.ParseOptions(newlines_in_values=True),
        "convert_options": pacsv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=names,
            null_values=list(source.null_values),
            strings_can_be_null=True,
        ),
    }
    try:
        first = 2  # the header is line 1
        for batch in pacsv.open_csv(rest, **options):
            yield conform(dict(zip(names, batch.columns, strict=True)), source, Place(name, first, "line"))
            first += batch.num_rows
    except pa.ArrowInvalid as error:
        # Arrow's own message quotes the row, which may hold private values.
        raise DataRejected(_csv_damage(name, str(error), present)) from None


def _header(line: bytes, name: str) -> list[str]:
    try:
        return next(csv.reader([line.decode("utf-8-sig")]))
    except UnicodeDecodeError as error:
        msg = f"{name}, line 1: is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"
        raise DataRejected(msg) from error
    except StopIteration:
        return []


def _csv_damage(name: str, message: str, present: list[str]) -> str:
    row = _ROW.search(message)
    where = f"{name}, line {row[1]}" if row else name
    if "invalid UTF8" in message:
        column = _COLUMN.search(message)
        at = f"column {present[int(column[1])]!r} " if column else ""
        return f"{where}: {at}is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"
    count = re.search(r"Expected (\d+) columns, got (\d+)", message)
    if count:
        return f"{where}: has {count[2]} of {count[1]} columns; the file may be cut off: fetch it again, or mend the row"
    return f"{where}: can't be parsed as CSV; the file may be cut off, or a quote is not closed: fetch it again, or mend it"


class _Prepended(io.RawIOBase):
    """A stream with bytes put back in front of it: archives' members can't seek quickly."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # typeshed's Buffer is not public in 3.11
        if self._head:
            chunk, self._head = self._head[: len(buffer)], self._head[len(buffer) :]
        else:
            chunk = self._rest.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def _read_jsonl(stream: IO[bytes], name: str, source: Source) -> Iterator[pa.RecordBatch]:
    """Read JSON lines in blocks of whole lines; a key that a line lacks is null, one that no line has is missing."""
    schema = pa.schema([(f.name, pa.string() if _is_time(f.type) else f.type) for f in schema_of(source)])
    parse = pajson.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    unseen, first = set(schema.names), 1
    for block in _line_blocks(stream):
        try:
            table = pajson.read_json(io.BytesIO(block), parse_options=parse)
            table.validate(full=True)
        except pa.ArrowInvalid:
            raise DataRejected(_explain_jsonl(block, name, first, source)) from None
        unseen -= {n for n in unseen if table[n].null_count < table.num_rows or f'"{n}"'.encode() in block}
        columns = {n: table[n].combine_chunks() for n in schema.names}
        yield conform(columns, source, Place(name, first, "line"))
        first += block.count(b"\n")
    if unseen:
        raise missing_columns(name, sorted(unseen), sorted(set(schema.names) - unseen))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _line_blocks(stream: IO[bytes]) -> Iterator[bytes]:
    while lines := stream.readlines(BLOCK_BYTES):
        block = b"".join(lines)
        if block.strip():
            yield block


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}


def _explain_jsonl(block: bytes, name: str, first: int, source: Source) -> str:
    """Find the line that Arrow refused, and say why, without showing private values."""
    for number, line in enumerate(block.splitlines(), first):
        where = f"{name}, line {number}"
        try:
            row = json.loads(line.decode()) if line.strip() else {}
        except UnicodeDecodeError:
            return f"{where}: is not UTF-8; convert the file, e.g. iconv -f latin1 -t utf-8"
        except json.JSONDecodeError:
            return f"{where}: is not valid JSON; the file may be cut off: fetch it again, or mend the line"
        if not isinstance(row, dict):
            return f"{where}: must be an object of column names and values; mend the line"
        for column, spec in columns_to_read(source).items():
            value, types = row.get(column), _PYTHON_TYPES.get(spec.type, (str,))
            if value is not None and (not isinstance(value, types) or (isinstance(value, bool) and bool not in types)):
                shown = repr(value)[:40] if spec.privacy == "keep" else "a value that is not shown"
                return (
                    f"{where}: column {column!r} must be {spec.type}, got {shown}; mend the line, or change the column's type"
                )
    return f"{name}, after line {first}: can't be parsed as JSON lines; mend the file"


def _read_parquet(stream: IO[bytes], name: str, source: Source) -> Iterator[pa.RecordBatch]:
    names = list(columns_to_read(source))
    try:
        file = pq.ParquetFile(stream)
        present = file.schema_arrow.names
        if missing := [column for column in names if column not in present]:
            raise missing_columns(name, missing, present)
        first = 1
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=names):
            yield conform({n: batch.column(n) for n in names}, source, Place(name, first, "row"))
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        msg = f"{name}: is cut off or not a Parquet file; fetch it again"
        raise DataRejected(msg) from error
