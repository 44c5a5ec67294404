"""Open Inference Protocol v2 requests to the model's two arrays."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import orjson

from mlops_tasks.serving.decoding import TENSORS, BadRequest, columns_to_arrays, numbers, require_rows, texts

if TYPE_CHECKING:
    from mlops_tasks.serving.decoding import Arrays, Layout

TEXT_DATATYPE = "BYTES"
DATATYPES = frozenset(
    {"BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", TEXT_DATATYPE}
)


def decode_tensors(body: dict[str, Any], layout: Layout) -> Arrays:
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
        name, shape, data = _read_tensor(tensor, layout)
        if name in cells:
            msg = f"inputs: tensor {name!r} is given twice"
            raise BadRequest(msg)
        cells[name] = (shape, data)
    if layout.whole and cells.keys() <= TENSORS:
        return whole_tensors(cells, layout)
    for name, (shape, _) in cells.items():
        if len(shape) not in {1, 2} or shape[1:] not in ([], [1]):
            msg = f"inputs: tensor {name!r} must have shape [rows] or [rows, 1], got {shape}"
            raise BadRequest(msg)
    return columns_to_arrays({name: data for name, (_, data) in cells.items()}, layout)


def _read_tensor(tensor: object, layout: Layout) -> tuple[str, list[int], list[Any]]:
    """Check one tensor's form; return its name, shape and flat data."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        msg = "inputs: each tensor must be an object with name, shape, datatype and data"
        raise BadRequest(msg)
    name, shape, data = tensor["name"], tensor.get("shape"), tensor.get("data")
    _check_datatype(name, tensor.get("datatype"), layout)
    if not isinstance(shape, list) or not shape or not all(type(size) is int and size >= 0 for size in shape):
        msg = f"inputs: tensor {name!r} needs a shape such as [1], got {_shown(shape)}"
        raise BadRequest(msg)
    if not isinstance(data, list):
        msg = f"inputs: tensor {name!r} needs data, a list; binary data is not read"
        raise BadRequest(msg)
    flat = flatten(data) if len(shape) > 1 else data
    size = math.prod(shape)
    if len(flat) != size:
        msg = f"inputs: tensor {name!r} has shape {shape}, which is {size} values, but data holds {len(flat)}"
        raise BadRequest(msg)
    return name, shape, flat


def _check_datatype(name: str, datatype: object, layout: Layout) -> None:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        msg = f"inputs: tensor {name!r} needs a datatype such as FP32 or BYTES, got {_shown(datatype)}"
        raise BadRequest(msg)
    if datatype == TEXT_DATATYPE and (name in layout.numeric or (name == "numeric" and layout.whole)):
        msg = f"inputs: tensor {name!r} must be numeric, for example FP32, got BYTES"
        raise BadRequest(msg)


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]


def flatten(data: list[Any]) -> list[Any]:
    """Flatten nested lists; JSON's own nesting limit ends it."""
    while list in set(map(type, data)):
        data = [cell for row in data for cell in (row if type(row) is list else (row,))]
    return data


def whole_tensors(cells: dict[str, tuple[list[int], list[Any]]], layout: Layout) -> Arrays:
    """Read the model's own two tensors."""
    rows = {name: shape[0] for name, (shape, _) in cells.items()}
    for name, columns in (("numeric", layout.numeric), ("categorical", layout.categorical)):
        if columns and name not in cells:
            msg = f"inputs: tensor {name!r} is missing: it holds the columns {list(columns)}"
            raise BadRequest(msg)
        if name in cells and cells[name][0][1:] != [len(columns)]:
            msg = f"inputs: tensor {name!r} must have shape [rows, {len(columns)}], got {cells[name][0]}"
            raise BadRequest(msg)
    require_rows(rows)
    return _blocks(layout, {name: data for name, (_, data) in cells.items()})


def _blocks(layout: Layout, flat: dict[str, list[Any]]) -> Arrays:
    """Cut the two tensors' flat values into columns, so that messages name column and row."""
    numeric = categorical = None
    if layout.numeric:
        width = len(layout.numeric)
        numeric = numbers(layout.numeric, [flat["numeric"][at::width] for at in range(width)])
    if layout.categorical:
        width = len(layout.categorical)
        categorical = texts(layout.categorical, [flat["categorical"][at::width] for at in range(width)], layout)
    return numeric, categorical
