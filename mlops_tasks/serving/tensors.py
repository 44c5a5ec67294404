"""Open Inference Protocol v2 requests to the model's two arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson

from mlops_tasks.serving.binary import DTYPES, BinaryReader
from mlops_tasks.serving.decoding import TENSORS, BadRequest, columns_to_arrays, number_rows, require_rows, text_rows

if TYPE_CHECKING:
    from mlops_tasks.serving.decoding import Arrays, Layout, Values

TEXT_DATATYPE = "BYTES"
DATATYPES = frozenset({*DTYPES, "BF16", TEXT_DATATYPE})
INTEGERS: dict[str, tuple[int, int]] = {"BOOL": (0, 1)} | {
    name: (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) for name, dtype in DTYPES.items() if dtype.kind in "iu"
}
"""Datatypes of integers: the least and the greatest."""
NO_BYTES = memoryview(b"")
MAX_DIMENSIONS = 8
"""More are nobody's tensor; each costs a pass over the data."""


def decode_tensors(body: dict[str, Any], layout: Layout, binary: memoryview = NO_BYTES) -> Arrays:
    """Read an Open Inference Protocol v2 request: one tensor per column, or the tensors `numeric` and `categorical`.

    Args:
        body: the request's JSON.
        layout: the model's columns.
        binary: the bytes behind the JSON, for tensors that give `binary_data_size` and no data.

    Raises:
        BadRequest: a tensor is malformed, missing or unknown.

    """
    tensors = body.get("inputs")
    if not isinstance(tensors, list) or not tensors:
        msg = "inputs must be a list of tensors, each with name, shape, datatype and data"
        raise BadRequest(msg)
    cells: dict[str, tuple[list[int], Values]] = {}
    reader = BinaryReader(binary)
    for tensor in tensors:
        name, shape, data = _read_tensor(tensor, layout, reader)
        if name in cells:
            msg = f"inputs: tensor {name!r} is given twice"
            raise BadRequest(msg)
        cells[name] = (shape, data)
    reader.require_end()
    if layout.whole and cells.keys() <= TENSORS:
        return whole_tensors(cells, layout)
    for name, (shape, _) in cells.items():
        if len(shape) > 1 and shape[1:] != [1]:  # most have one dimension
            msg = f"inputs: tensor {name!r} must have shape [rows] or [rows, 1], got {shape}"
            raise BadRequest(msg)
    return columns_to_arrays({name: data for name, (_, data) in cells.items()}, layout)


def _read_tensor(tensor: object, layout: Layout, reader: BinaryReader) -> tuple[str, list[int], Values]:
    """Check one tensor's form; return its name, shape and flat data."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("name"), str):
        msg = "inputs: each tensor must be an object with name, shape, datatype and data"
        raise BadRequest(msg)
    name, datatype = tensor["name"], tensor.get("datatype")
    shape: Any = tensor.get("shape")
    if type(datatype) is not str or datatype not in DTYPES:
        _check_datatype(name, datatype, layout)
    count = _count(name, shape)
    parameters = tensor.get("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        msg = f"inputs: tensor {name!r}: parameters must be an object, or be left out"
        raise BadRequest(msg)
    if parameters and "binary_data_size" in parameters:
        return name, shape, reader.read(name, str(datatype), parameters["binary_data_size"], count)
    flat = _listed(name, shape, tensor.get("data"), count)
    if datatype in INTEGERS:
        _require_integers(name, str(datatype), flat)
    return name, shape, flat


def _count(name: str, shape: object) -> int:
    """Return how many values a shape is."""
    if not isinstance(shape, list) or not shape:
        _refuse_shape(name, shape)
    if len(shape) > MAX_DIMENSIONS:
        msg = f"inputs: tensor {name!r} must have shape [rows] or [rows, columns], got {len(shape)} dimensions"
        raise BadRequest(msg)
    count = 1
    for size in shape:
        if type(size) is not int or size < 0:
            _refuse_shape(name, shape)
        count *= size
    return count


def _refuse_shape(name: str, shape: object) -> NoReturn:
    msg = f"inputs: tensor {name!r} needs a shape such as [1], got {_shown(shape)}"
    raise BadRequest(msg)


def _listed(name: str, shape: list[int], data: object, count: int) -> list[Any]:
    """Return data given as a list, flat."""
    if not isinstance(data, list):
        msg = f"inputs: tensor {name!r} needs data, a list, or parameters.binary_data_size and its bytes behind the JSON"
        raise BadRequest(msg)
    is_flat = len(shape) == 1 or (len(data) == count > 0 and type(data[0]) is not list)
    flat = data if is_flat else flatten(data, len(shape))
    if len(flat) != count:
        msg = f"inputs: tensor {name!r} has shape {shape}, which is {count} values, but data holds {len(flat)}"
        raise BadRequest(msg)
    return flat


def _require_integers(name: str, datatype: str, cells: list[Any]) -> None:
    """Refuse numbers that are none of a datatype; whole floats are taken: so pandas writes integers among nulls."""
    least, greatest = INTEGERS[datatype]
    for at, cell in enumerate(cells):
        if type(cell) in {int, float} and not (least <= cell <= greatest and cell == cell // 1):
            allowed = f"give integers from {least} to {greatest}, or another datatype"
            msg = f"inputs: tensor {name!r}: value {at} is no {datatype}: {allowed}"
            raise BadRequest(msg)


def _check_datatype(name: str, datatype: object, layout: Layout) -> None:
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        msg = f"inputs: tensor {name!r} needs a datatype such as FP32 or BYTES, got {_shown(datatype)}"
        raise BadRequest(msg)
    if datatype == TEXT_DATATYPE and (name in layout.numeric or (name == "numeric" and layout.whole)):
        msg = f"inputs: tensor {name!r} must be numeric, for example FP32, got BYTES"
        raise BadRequest(msg)


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]


def flatten(data: list[Any], depth: int = MAX_DIMENSIONS) -> list[Any]:
    """Flatten lists nested up to `depth` deep; deeper ones stay, and are refused as cells."""
    for _ in range(depth):
        if list not in set(map(type, data)):
            break
        data = [cell for row in data for cell in (row if type(row) is list else (row,))]
    return data


def whole_tensors(cells: dict[str, tuple[list[int], Values]], layout: Layout) -> Arrays:
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


def _blocks(layout: Layout, flat: dict[str, Values]) -> Arrays:
    """Lay out the two tensors' flat values."""
    numeric = categorical = None
    if layout.numeric:
        cells = flat["numeric"]
        if isinstance(cells, np.ndarray) and cells.dtype == np.float32:
            numeric = np.require(cells.reshape(-1, len(layout.numeric)), requirements=["ALIGNED", "C_CONTIGUOUS"])
        else:
            numeric = number_rows(layout.numeric, cells)
    if layout.categorical:
        categorical = text_rows(layout.categorical, flat["categorical"], layout)
    return numeric, categorical
