"""Columns as a file or database gives them to columns of the types that the source's spec names.

Nothing is guessed: a value that does not fit its type is refused. NaN becomes null, so that there is
one way to say "missing"; infinities stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.core.collection import ARROW_TYPES, TIMESTAMP, columns_to_read, schema_of
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_tasks.specs import ColumnType, Source, SourceColumn

LONGEST_VALUE = 40
_REFUSALS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)


@dataclass(frozen=True)
class Place:
    """Where a batch stands in its file, for messages: the number of its first row and what rows are called there."""

    name: str
    first: int
    unit: str


def conform(arrays: Mapping[str, pa.Array], source: Source, place: Place) -> pa.RecordBatch:
    """Give each column its type.

    Raises:
        DataRejected: a value does not fit; private values are not shown.

    """
    schema, specs = schema_of(source), columns_to_read(source)
    return pa.record_batch([_conform(arrays[name], name, spec, place) for name, spec in specs.items()], schema=schema)


def _conform(array: pa.Array, name: str, spec: SourceColumn, place: Place) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        return _cast(array, spec.type)
    except _REFUSALS as error:
        row = _first_refused(array, spec.type)
        got = repr(array[row].as_py())
        shown = "a value that is not shown" if spec.privacy != "keep" else got[:LONGEST_VALUE]
        msg = (
            f"{place.name}, {place.unit} {place.first + row}: column {name!r} must be {spec.type}, got {shown}; "
            "mend the row, name the value in null_values, or change the column's type"
        )
        raise DataRejected(msg) from (error if spec.privacy == "keep" else None)


def _first_refused(array: pa.Array, kind: ColumnType) -> int:
    """Find the first row that does not fit by halving: each step casts half as many rows."""
    low, high = 0, len(array)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            _cast(array.slice(low, middle - low), kind)
            low = middle
        except _REFUSALS:
            high = middle
    return low


def _cast(array: pa.Array, kind: ColumnType) -> pa.Array:
    if pa.types.is_null(array.type):
        return array.cast(ARROW_TYPES[kind])
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        return _from_text(array.cast(pa.string()), kind)
    return _CASTS[kind](array)


def _from_text(array: pa.Array, kind: ColumnType) -> pa.Array:
    if kind == "string":
        return array
    if kind == "timestamp":
        return _parse_times(array)
    try:
        parsed = array.cast(ARROW_TYPES[kind])
    except pa.ArrowInvalid:
        parsed = pc.utf8_trim_whitespace(array).cast(ARROW_TYPES[kind])
    return _without_nan(parsed) if kind == "float" else parsed


def _parse_times(array: pa.Array) -> pa.Array:
    """Parse ISO 8601: a zone is honoured, its absence means UTC, a date alone means its midnight."""
    try:
        return array.cast(TIMESTAMP)
    except pa.ArrowInvalid:
        text = pc.utf8_trim_whitespace(array)
        text = pc.replace_substring_regex(text, r"^(\d{4}-\d\d-\d\d)$", r"\1T00:00:00")
        text = pc.replace_substring_regex(text, r"(\.\d{6})\d{1,3}", r"\1")
        text = pc.replace_substring_regex(text, r"^([\d-]{10}[T ][\d:.]+)$", r"\1Z")
        return text.cast(TIMESTAMP)


def _without_nan(array: pa.Array) -> pa.Array:
    nan = pc.is_nan(array)
    return pc.if_else(nan, pa.scalar(None, array.type), array) if pc.any(nan).as_py() else array


def _to_int(array: pa.Array) -> pa.Array:
    if pa.types.is_floating(array.type):
        return _without_nan(array).cast(pa.int64())
    return _allowed(array, pa.types.is_integer, pa.types.is_decimal).cast(pa.int64())


def _to_float(array: pa.Array) -> pa.Array:
    array = _allowed(array, pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
    return _without_nan(array.cast(pa.float64(), safe=False))


def _to_bool(array: pa.Array) -> pa.Array:
    if pa.types.is_integer(array.type) and pc.all(pc.is_in(array, pa.array([0, 1, None], array.type))).as_py() is not False:
        return array.cast(pa.bool_())
    return _allowed(array, pa.types.is_boolean)


def _to_timestamp(array: pa.Array) -> pa.Array:
    array = _allowed(array, pa.types.is_timestamp, pa.types.is_date)
    if pa.types.is_timestamp(array.type) and array.type.tz is not None:
        return array.cast(TIMESTAMP, safe=False)
    return pc.assume_timezone(array.cast(pa.timestamp("us"), safe=False), "UTC")


def _to_date(array: pa.Array) -> pa.Array:
    return _allowed(array, pa.types.is_timestamp, pa.types.is_date).cast(pa.date32())


def _to_string(array: pa.Array) -> pa.Array:
    return _allowed(array, pa.types.is_string)


def _allowed(array: pa.Array, *tests: Callable[[pa.DataType], bool]) -> pa.Array:
    if len(array) and not any(test(array.type) for test in tests) and array.null_count < len(array):
        raise pa.ArrowTypeError(str(array.type))
    return array


_CASTS: dict[ColumnType, Callable[[pa.Array], pa.Array]] = {
    "int": _to_int,
    "float": _to_float,
    "string": _to_string,
    "bool": _to_bool,
    "timestamp": _to_timestamp,
    "date": _to_date,
}
