"""MLflow's `/invocations` requests, JSON or CSV, to the model's two arrays."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from mlops_tasks.serving.decoding import TENSORS, BadRequest, columns_to_arrays, kind_of, refuse_columns
from mlops_tasks.serving.tensors import flatten, whole_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.serving.decoding import Arrays, Layout, Values

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")


def decode_frame(body: dict[str, Any], layout: Layout) -> Arrays:
    """Read a body as MLflow's clients send it to `/invocations`; other keys, such as `params`, say nothing to these models.

    Raises:
        BadRequest: the body is none of MLflow's, or its columns are not the model's.

    """
    given = [name for name in FORMATS if name in body]
    if len(given) != 1:
        msg = f"the body must hold exactly one of {', '.join(FORMATS)}, got {', '.join(given) or 'none'}"
        raise BadRequest(msg)
    value = body[given[0]]
    if given[0] == "dataframe_split":
        return columns_to_arrays(_split_columns(value), layout)
    if isinstance(value, list):
        return columns_to_arrays(_record_columns(given[0], value, layout), layout)
    if given[0] == "dataframe_records" or not isinstance(value, dict):
        msg = f"{given[0]} must be a list of objects, one a row, got {kind_of(value)}"
        raise BadRequest(msg)
    if layout.whole and value.keys() <= TENSORS:
        return _nested_tensors(value, layout)
    columns = {name: cells if isinstance(cells, list) else [cells] for name, cells in value.items()}
    return columns_to_arrays({name: flatten(cells) for name, cells in columns.items()}, layout)


def _split_columns(value: object, what: str = "dataframe_split") -> dict[str, Sequence[Any]]:
    names = value.get("columns") if isinstance(value, dict) else None
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(data, list):
        msg = 'dataframe_split must be an object such as {"columns": ["a", "b"], "data": [[1, 2]]}'
        raise BadRequest(msg)
    for at, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            msg = f"{what}: row {at} must be a list of {len(names)} values, one for each column"
            raise BadRequest(msg)
    if len(set(names)) != len(names):
        msg = f"{what} names a column twice"
        raise BadRequest(msg)
    return dict(zip(names, zip(*data, strict=True), strict=True)) if data else {name: [] for name in names}


def _record_columns(kind: str, rows: list[Any], layout: Layout) -> dict[str, Sequence[Any]]:
    expected = layout.columns
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            msg = f"{kind}: row {at} must be an object with the columns' names, got {kind_of(row)}"
            raise BadRequest(msg)
        if row.keys() != expected:
            refuse_columns(row, expected)
    return {name: [row[name] for row in rows] for name in expected}


def _nested_tensors(value: dict[str, Any], layout: Layout) -> Arrays:
    """Read `{"numeric": [[...]], "categorical": [[...]]}`."""
    cells: dict[str, tuple[list[int], Values]] = {}
    for name, data in value.items():
        width = len(layout.numeric if name == "numeric" else layout.categorical)
        if not isinstance(data, list) or not all(isinstance(row, list) and len(row) == width for row in data):
            msg = f"inputs.{name} must be a list of rows, each a list of {width} values"
            raise BadRequest(msg)
        cells[name] = ([len(data), width], [cell for row in data for cell in row])
    return whole_tensors(cells, layout)


def decode_csv(body: bytes, layout: Layout) -> Arrays:
    """Read CSV with a header; an empty cell is a missing value. Raises: BadRequest."""
    try:
        rows = list(csv.reader(io.StringIO(body.decode("utf-8-sig")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        msg = f"the body is not valid CSV in UTF-8: {error}"
        raise BadRequest(msg) from error
    rows = [row for row in rows if row]
    if not rows:
        msg = "the CSV is empty: send a header with the columns' names, then one line a row"
        raise BadRequest(msg)
    columns: dict[str, Sequence[Any]] = dict(_split_columns({"columns": rows[0], "data": rows[1:]}, "the CSV"))
    for name, cells in columns.items():
        if name in layout.numeric:
            columns[name] = [_csv_number(name, at, cell) for at, cell in enumerate(cells)]
        else:
            columns[name] = [cell or None for cell in cells]
    return columns_to_arrays(columns, layout)


def _csv_number(name: str, row: int, cell: str) -> float | None:
    if not cell:
        return None
    try:
        if cell.isascii() and "_" not in cell:  # Python would also take 1_000, and digits of all scripts
            return float(cell)
    except ValueError:
        pass
    msg = f"{name}: row {row} must be a number such as -1.5e3, or empty"
    raise BadRequest(msg)
