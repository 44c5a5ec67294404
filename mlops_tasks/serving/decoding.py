"""Columns of JSON values to the model's two arrays; what is wrong with them is said in a sentence."""

from __future__ import annotations

import math
import re
from array import array
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import orjson

from mlops_tasks.core.scoring import category_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from mlops_tasks.core.scoring import ModelSignature

    Arrays = tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.object_] | None]
    Values = Sequence[Any] | npt.NDArray[Any]
    """A column: JSON's values, or numbers that came as bytes."""

TENSORS = frozenset({"numeric", "categorical"})
_NUMBERS: frozenset[type] = frozenset({int, float, bool, type(None)})
_TEXTS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
_ONLY_TEXTS = {str}
_SHOWN = 5
_SHOWN_CHARACTERS = 1000
_NO_NUMBER = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(-?Infinity|NaN)\b', re.DOTALL)
"""Texts, which are passed over, or what other writers of JSON make of numbers that JSON has not. Linear: each byte once."""
_AS_JSON = {b"NaN": b"null", b"Infinity": b"1e308", b"-Infinity": b"-1e308"}
"""1e308 is beyond float32, so infinite again."""


@dataclass(frozen=True)
class Layout:
    """A model's columns, laid out once for all requests."""

    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    columns: frozenset[str]
    null_token: str
    whole: bool
    """Whether requests may give the model's own two tensors: no column has the name of one."""

    @classmethod
    def of(cls, signature: ModelSignature) -> Layout:
        """Lay a model's columns out."""
        columns = frozenset((*signature.numeric, *signature.categorical))
        numeric, categorical = tuple(signature.numeric), tuple(signature.categorical)
        return cls(numeric, categorical, columns, signature.null_token, whole=not TENSORS & columns)


class BadRequest(Exception):
    """A request that its sender must mend: an HTTP status and a sentence that says how."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message if len(message) <= _SHOWN_CHARACTERS else f"{message[:_SHOWN_CHARACTERS]}...")
        self.status = status


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object; NaN and Infinity, as pandas' users send them, are read. Raises: BadRequest."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        value = _parse_non_finite(body, error)
    if not isinstance(value, dict):
        msg = f"the body must be a JSON object, got {kind_of(value)}"
        raise BadRequest(msg)
    return value


def _parse_non_finite(body: bytes, error: orjson.JSONDecodeError) -> object:
    """Parse a body after NaN became null and Infinity a number of its sign that float32 can't hold."""
    if b"NaN" in body or b"Infinity" in body:
        try:
            return orjson.loads(_NO_NUMBER.sub(lambda found: _AS_JSON[found[1]] if found[1] else found[0], body))
        except orjson.JSONDecodeError as still:
            error = still
    msg = f"the body is not valid JSON: {error}; send a JSON object"
    raise BadRequest(msg) from error


def columns_to_arrays(columns: Mapping[str, Values], layout: Layout) -> Arrays:
    """Return columns of equal length as float32 [N, Fn] and texts [N, Fc]; null is a missing value.

    Raises:
        BadRequest: a column is missing, unknown, of another length or of a wrong type.

    """
    if columns.keys() != layout.columns:
        refuse_columns(columns, layout.columns)
    require_rows({name: len(values) for name, values in columns.items()})
    numeric = numbers(layout.numeric, [columns[name] for name in layout.numeric]) if layout.numeric else None
    if not layout.categorical:
        return numeric, None
    return numeric, texts(layout.categorical, [columns[name] for name in layout.categorical], layout)


def refuse_columns(given: Iterable[str], expected: frozenset[str]) -> NoReturn:
    """Say which columns are missing and which the model does not know. Raises: BadRequest."""
    missing, unknown = sorted(expected.difference(given)), sorted(set(given) - expected)
    parts = []
    if missing:
        parts.append(f"columns {_some(missing)} are missing: give every input of the model, null where a value is unknown")
    if unknown:
        parts.append(f"columns {_some(unknown)} are not inputs of the model: leave them out")
    raise BadRequest("; ".join(parts))


def require_rows(rows: dict[str, int]) -> int:
    """Return the number of rows that all tensors share."""
    if len(set(rows.values())) > 1:
        msg = f"all inputs must have the same number of rows, got {dict(list(rows.items())[:_SHOWN])}"
        raise BadRequest(msg)
    count = next(iter(rows.values()))
    if count == 0:
        msg = "the request holds no rows: give at least one"
        raise BadRequest(msg)
    return count


def numbers(names: Sequence[str], block: Sequence[Values]) -> npt.NDArray[np.float32]:
    """Return F columns of N numbers as float32 [N, F]; null is NaN, what is beyond float32 infinite. Raises: BadRequest."""
    if np.ndarray in set(map(type, block)):
        return _numbers_by_column(names, block)
    cells = _floats(chain.from_iterable(block))
    if cells is None:
        _refuse_cell(names, block, _NUMBERS, "a number")
    return np.ascontiguousarray(cells.reshape(len(block), -1).T)


def number_rows(names: Sequence[str], cells: Values) -> npt.NDArray[np.float32]:
    """Return F x N numbers, given row by row, as float32 [N, F]."""
    made = None if isinstance(cells, np.ndarray) else _floats(cells)
    if made is None:
        width = len(names)
        return numbers(names, [cells[at::width] for at in range(width)])  # which names the cell that is wrong
    return made.reshape(-1, len(names))


def _floats(cells: Iterable[Any]) -> npt.NDArray[np.float32] | None:
    """Return JSON's numbers, checked and converted in one go; None where some cell is no number.

    An `array` takes a number in a third of the time that numpy does, and says of what is beyond float32 that it is infinite.
    """
    kept = cells if isinstance(cells, list) else list(cells)
    try:
        return np.frombuffer(array("f", kept), np.float32)
    except TypeError:  # null, or what is no number
        if not _NUMBERS.issuperset(map(type, kept)):
            return None
    return np.frombuffer(array("f", [math.nan if cell is None else cell for cell in kept]), np.float32)


def _numbers_by_column(names: Sequence[str], block: Sequence[Values]) -> npt.NDArray[np.float32]:
    """Return columns of which some came as bytes."""
    made = np.empty((len(block[0]), len(block)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # a signalling NaN is a NaN
        for at, (name, column) in enumerate(zip(names, block, strict=True)):
            made[:, at] = column if isinstance(column, np.ndarray) else numbers([name], [column])[:, 0]
    return made


def texts(names: Sequence[str], block: Sequence[Values], layout: Layout) -> npt.NDArray[np.object_]:
    """Return F columns of N texts as objects [N, F]."""
    listed = [column.tolist() if isinstance(column, np.ndarray) else column for column in block]
    cells = _categories(list(chain.from_iterable(listed)), layout)
    if cells is None:
        _refuse_cell(names, listed, _TEXTS, "a text")
    return np.ascontiguousarray(cells.reshape(len(block), -1).T)


def text_rows(names: Sequence[str], cells: Values, layout: Layout) -> npt.NDArray[np.object_]:
    """Return F x N texts, given row by row, as objects [N, F]."""
    made = None if isinstance(cells, np.ndarray) else _categories(cells, layout)
    if made is None:
        width = len(names)
        return texts(names, [cells[at::width] for at in range(width)], layout)  # likewise
    return made.reshape(-1, len(names))


def _categories(cells: Sequence[Any], layout: Layout) -> npt.NDArray[np.object_] | None:
    """Return JSON's values as the texts that the model knows; None where some cell can't be one."""
    kinds = set(map(type, cells))
    if kinds == _ONLY_TEXTS:
        return np.array(cells, dtype=object)
    return category_texts(cells, layout.null_token) if kinds <= _TEXTS else None


def _refuse_cell(names: Sequence[str], block: Sequence[Values], allowed: frozenset[type], wanted: str) -> NoReturn:
    """Name the first cell of a wrong type."""
    cells = ((name, at, cell) for name, column in zip(names, block, strict=True) for at, cell in enumerate(column))
    name, at, cell = next(found for found in cells if type(found[2]) not in allowed)
    msg = f"{name}: row {at} must be {wanted} or null, got {kind_of(cell)}"
    raise BadRequest(msg)


def kind_of(value: object) -> str:
    """Name a JSON value's kind, without the value: it may be private."""
    kinds = {str: "a text", int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "an object"}
    return kinds.get(type(value), "null")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(repr(name) for name in names[:_SHOWN])}{more}"
