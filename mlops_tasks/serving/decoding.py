"""Request bodies to the model's two arrays; what is wrong with a body is said in a sentence."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from mlops_tasks.core.scoring import category_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature

    Arrays = tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.object_] | None]

TEXT_DATATYPE = "BYTES"
DATATYPES = frozenset(
    {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", TEXT_DATATYPE}
)
TENSORS = frozenset({"numeric", "categorical"})
FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_NUMBERS = frozenset({int, float, bool, type(None)})
_TEXTS = frozenset({str, int, float, bool, type(None)})
_SHOWN = 5


class BadRequest(Exception):  # noqa: N818 - named as HTTP names it
    """A request that its sender must mend: an HTTP status and a sentence that says how."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object. Raises: BadRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        msg = f"the body is not valid JSON: {error}; send a JSON object"
        raise BadRequest(msg) from error
    if not isinstance(value, dict):
        msg = f"the body must be a JSON object, got {_kind(value)}"
        raise BadRequest(msg)
    return value


def decode_tensors(body: dict[str, Any], signature: ModelSignature) -> Arrays:
    """Read an Open Inference Protocol v2 request: one tensor per column, or the tensors `numeric` and `categorical`.

    Raises:
        BadRequest: a tensor is malformed, missing or unknown.

    """
    tensors = body.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        msg = "inputs must be a list of tensors, each with name, shape, datatype and data"
        raise BadRequest(msg)
    cells: dict[str, tuple[list[int], list[Any]]] = {}
    for tensor in tensors:
        name, shape, data = _read_tensor(tensor, signature)
        if name in cells:
            msg = f"inputs: tensor {name!r} is given twice"
            raise BadRequest(msg)
        cells[name] = (shape, data)
    if cells.keys() <= TENSORS and not TENSORS & {*signature.numeric, *signature.categorical}:
        return _whole_tensors(cells, signature)
    for name, (shape, _) in cells.items():
        if len(shape) not in {1, 2} or shape[1:] not in ([], [1]):
            msg = f"inputs: tensor {name!r} must have shape [rows] or [rows, 1], got {shape}"
            raise BadRequest(msg)
    return columns_to_arrays({name: data for name, (_, data) in cells.items()}, signature)


def _read_tensor(tensor: object, signature: ModelSignature) -> tuple[str, list[int], list[Any]]:
    """Check one tensor's form; return its name, shape and flat data."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        msg = "inputs: each tensor must be an object with name, shape, datatype and data"
        raise BadRequest(msg)
    name, shape, datatype, data = (tensor.get(key) for key in ("name", "shape", "datatype", "data"))
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape) or not shape:
        msg = f"inputs: tensor {name!r} needs a shape such as [1], got {orjson.dumps(shape).decode()[:100]}"
        raise BadRequest(msg)
    texts = name == "categorical" or name in signature.categorical
    known = texts or name == "numeric" or name in signature.numeric
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        msg = f"inputs: tensor {name!r} needs a datatype such as FP32 or BYTES, got {orjson.dumps(datatype).decode()[:100]}"
        raise BadRequest(msg)
    if known and not texts and datatype == TEXT_DATATYPE:
        msg = f"inputs: tensor {name!r} must be numeric, for example FP32, got BYTES"
        raise BadRequest(msg)
    if not isinstance(data, list):
        msg = f"inputs: tensor {name!r} needs data, a list; binary data is not read"
        raise BadRequest(msg)
    flat = _flatten(data)
    size = int(np.prod(shape, dtype=object))
    if len(flat) != size:
        msg = f"inputs: tensor {name!r} has shape {shape}, which is {size} values, but data holds {len(flat)}"
        raise BadRequest(msg)
    return str(name), shape, flat


def _flatten(data: list[Any]) -> list[Any]:
    """Flatten nested lists; JSON's own nesting limit ends it."""
    while list in set(map(type, data)):
        data = [cell for row in data for cell in (row if type(row) is list else (row,))]
    return data


def _whole_tensors(cells: dict[str, tuple[list[int], list[Any]]], signature: ModelSignature) -> Arrays:
    """Read the model's own two tensors."""
    rows = {name: shape[0] for name, (shape, _) in cells.items()}
    for name, columns in (("numeric", signature.numeric), ("categorical", signature.categorical)):
        if columns and name not in cells:
            msg = f"inputs: tensor {name!r} is missing: it holds the columns {columns}"
            raise BadRequest(msg)
        if name in cells and cells[name][0][1:] != [len(columns)]:
            msg = f"inputs: tensor {name!r} must have shape [rows, {len(columns)}], got {cells[name][0]}"
            raise BadRequest(msg)
    _require_rows(rows)
    numeric = categorical = None
    if signature.numeric:
        numeric = _numbers("numeric", cells["numeric"][1]).reshape(-1, len(signature.numeric))
    if signature.categorical:
        categorical = _texts("categorical", cells["categorical"][1], signature).reshape(-1, len(signature.categorical))
    return numeric, categorical


def columns_to_arrays(columns: dict[str, Sequence[Any]], signature: ModelSignature) -> Arrays:
    """Return columns of equal length as float32 [N, Fn] and texts [N, Fc]; null is a missing value.

    Raises:
        BadRequest: a column is missing, unknown, of another length or of a wrong type.

    """
    expected = {*signature.numeric, *signature.categorical}
    if columns.keys() != expected:
        _refuse_columns(columns, expected)
    rows = _require_rows({name: len(values) for name, values in columns.items()})
    numeric = categorical = None
    if signature.numeric:
        numeric = np.empty((rows, len(signature.numeric)), dtype=np.float32)
        for at, name in enumerate(signature.numeric):
            numeric[:, at] = _numbers(name, columns[name])
    if signature.categorical:
        categorical = np.empty((rows, len(signature.categorical)), dtype=object)
        for at, name in enumerate(signature.categorical):
            categorical[:, at] = _texts(name, columns[name], signature)
    return numeric, categorical


def _refuse_columns(given: Iterable[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - set(given)), sorted(set(given) - expected)
    parts = []
    if missing:
        parts.append(f"columns {_some(missing)} are missing: give every input of the model, null where a value is unknown")
    if unknown:
        parts.append(f"columns {_some(unknown)} are not inputs of the model: leave them out")
    raise BadRequest("; ".join(parts))


def _require_rows(rows: dict[str, int]) -> int:
    """Return the number of rows that all tensors share."""
    if len(set(rows.values())) > 1:
        msg = f"all inputs must have the same number of rows, got {dict(list(rows.items())[:_SHOWN])}"
        raise BadRequest(msg)
    count = next(iter(rows.values()))
    if count == 0:
        msg = "the request holds no rows: give at least one"
        raise BadRequest(msg)
    return count


def _numbers(name: str, values: Sequence[Any]) -> npt.NDArray[np.float32]:
    if not _NUMBERS.issuperset(map(type, values)):
        at, value = next((i, v) for i, v in enumerate(values) if type(v) not in _NUMBERS)
        msg = f"{name}: row {at} must be a number or null, got {_kind(value)}"
        raise BadRequest(msg)
    with np.errstate(over="ignore"):  # beyond float32 is infinite, which the model reads as missing
        return np.array(values, dtype=np.float64).astype(np.float32)


def _texts(name: str, values: Sequence[Any], signature: ModelSignature) -> npt.NDArray[np.object_]:
    if not _TEXTS.issuperset(map(type, values)):
        at, value = next((i, v) for i, v in enumerate(values) if type(v) not in _TEXTS)
        msg = f"{name}: row {at} must be a text or null, got {_kind(value)}"
        raise BadRequest(msg)
    return category_texts(values, signature.null_token)


def decode_frame(body: dict[str, Any], signature: ModelSignature) -> Arrays:
    """Read a body as MLflow's clients send it to `/invocations`. Raises: BadRequest."""
    given = [name for name in FORMATS if name in body]
    if len(given) != 1:
        msg = f"the body must hold exactly one of {', '.join(FORMATS)}, got {', '.join(given) or 'none'}"
        raise BadRequest(msg)
    value = body[given[0]]
    if given[0] == "dataframe_split":
        return columns_to_arrays(_split_columns(value), signature)
    if isinstance(value, list):
        return columns_to_arrays(_record_columns(given[0], value, signature), signature)
    if given[0] == "dataframe_records" or not isinstance(value, dict):
        msg = f"{given[0]} must be a list of objects, one a row, got {_kind(value)}"
        raise BadRequest(msg)
    if value.keys() <= TENSORS and not TENSORS & {*signature.numeric, *signature.categorical}:
        return _nested_tensors(value, signature)
    columns = {name: cells if isinstance(cells, list) else [cells] for name, cells in value.items()}
    return columns_to_arrays({name: _flatten(cells) for name, cells in columns.items()}, signature)


def _split_columns(value: object) -> dict[str, Sequence[Any]]:
    names = value.get("columns") if isinstance(value, dict) else None
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(data, list):
        msg = 'dataframe_split must be an object such as {"columns": ["a", "b"], "data": [[1, 2]]}'
        raise BadRequest(msg)
    for at, row in enumerate(data):
        if not isinstance(row, list) or len(row) != len(names):
            msg = f"dataframe_split.data: row {at} must be a list of {len(names)} values, one for each column"
            raise BadRequest(msg)
    if len(set(names)) != len(names):
        msg = "dataframe_split.columns names a column twice"
        raise BadRequest(msg)
    return dict(zip(names, zip(*data, strict=True), strict=True)) if data else {name: [] for name in names}


def _record_columns(kind: str, rows: list[Any], signature: ModelSignature) -> dict[str, Sequence[Any]]:
    expected = {*signature.numeric, *signature.categorical}
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            msg = f"{kind}: row {at} must be an object with the columns' names, got {_kind(row)}"
            raise BadRequest(msg)
        if row.keys() != expected:
            _refuse_columns(row, expected)
    return {name: [row[name] for row in rows] for name in expected}


def _nested_tensors(value: dict[str, Any], signature: ModelSignature) -> Arrays:
    """Read `{"numeric": [[...]], "categorical": [[...]]}`."""
    cells = {}
    for name, data in value.items():
        width = len(signature.numeric if name == "numeric" else signature.categorical)
        if not isinstance(data, list) or not all(isinstance(row, list) and len(row) == width for row in data):
            msg = f"inputs.{name} must be a list of rows, each a list of {width} values"
            raise BadRequest(msg)
        cells[name] = ([len(data), width], [cell for row in data for cell in row])
    return _whole_tensors(cells, signature)


def decode_csv(body: bytes, signature: ModelSignature) -> Arrays:
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
    columns = dict(_split_columns({"columns": rows[0], "data": rows[1:]}))
    for name, cells in columns.items():
        if name in signature.numeric:
            columns[name] = [_csv_number(name, at, cell) for at, cell in enumerate(cells)]
        else:
            columns[name] = [cell or None for cell in cells]
    return columns_to_arrays(columns, signature)


def _csv_number(name: str, row: int, cell: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError as error:
        msg = f"{name}: row {row} must be a number or empty, got {cell[:50]!r}"
        raise BadRequest(msg) from error


def _kind(value: object) -> str:
    """Name a JSON value's kind, without the value: it may be private."""
    kinds = {str: "a text", int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(repr(name) for name in names[:_SHOWN])}{more}"
