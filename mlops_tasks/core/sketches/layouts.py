"""Training values of a column to the frozen bins or categories that windows are counted on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BINS = 64
CATEGORIES = 64
_TAIL = 0.001
_MOST_WHOLE = 1 << 53
"""Up to here a float tells each whole number from the next."""


@dataclass(frozen=True)
class NumericBins:
    """Frozen bins of a numeric column: cell i holds `edges[i-1] <= x < edges[i]`; the first and last cells lie outside."""

    edges: tuple[float, ...]
    centre: float
    sd: float
    kind: Literal["numeric"] = "numeric"

    @property
    def cells(self) -> int:
        """Number of counts a sketch holds."""
        return len(self.edges) + 1


@dataclass(frozen=True)
class Categories:
    """The most frequent categories of the training data, most frequent first; the last cell is OTHER."""

    names: tuple[str, ...]
    kind: Literal["categorical"] = "categorical"

    @property
    def cells(self) -> int:
        """Number of counts a sketch holds."""
        return len(self.names) + 1


Layout = NumericBins | Categories


def lay_out(column: pa.ChunkedArray, where: str, *, numeric: bool) -> Layout:
    """Choose a column's frozen bins or categories from its training values; `where` begins an error's message.

    Raises:
        DataRejected: a numeric column holds something else.

    """
    if not numeric:
        counted = pc.value_counts(as_text(column).drop_null()).to_pylist()
        ranked = sorted(counted, key=lambda item: (-item["counts"], item["values"]))
        return Categories(tuple(item["values"] for item in ranked[:CATEGORIES]))
    values = as_floats(column, where)
    values = values[np.isfinite(values)]
    if not values.size:
        return NumericBins((), 0.0, 1.0)
    centre = float(np.quantile(values, 0.5, method="inverted_cdf"))
    return NumericBins(_edges(values), centre, _robust_sd(values, centre))


def _edges(values: Floats) -> tuple[float, ...]:
    """Cut at quantiles of what is left when every atom (a value as frequent as a whole bin) has its own bin."""
    distinct, counts = np.unique(values, return_counts=True)
    atoms = distinct[counts * BINS >= values.size]
    rest = values[~np.isin(values, atoms)]
    cuts = [atoms, np.nextafter(atoms, np.inf), distinct[:1], np.nextafter(distinct[-1:], np.inf)]
    if rest.size:
        bins = max(1, round(BINS * rest.size / values.size))
        cuts.append(np.quantile(rest, np.linspace(0, 1, bins + 1), method="inverted_cdf"))
    edges = np.unique(np.concatenate(cuts))
    return tuple(edges[np.isfinite(edges)].tolist())


def _robust_sd(values: Floats, centre: float) -> float:
    """Return the standard deviation without the outermost thousandths, which one broken row could ruin."""
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL], method="inverted_cdf")
    for part in (np.clip(values, low, high), values):
        size = float(np.abs(part).max()) or 1.0
        sd = float((part / size).std() * size)  # scaled first, so that squares can't overflow
        if sd > size * 1e-12:
            return sd
    return abs(centre) or 1.0


def as_floats(column: pa.ChunkedArray, where: str) -> Floats:
    """Read a column as floats with null as NaN. Raises: DataRejected when it is neither a number nor a bool."""
    if not (pa.types.is_null(column.type) or pa.types.is_boolean(column.type) or _is_number(column.type)):
        msg = f"{where} must be numeric, got {column.type}; cast it in the features"
        raise DataRejected(msg)
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Write categories as text; whole floats as integers, because a null turns an integer column into floats.

    Each value for itself, so that a table read in pieces gives the same texts.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not pa.types.is_floating(column.type):
        return column.cast(pa.string())
    column = column.cast(pa.float64())
    is_whole = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), float(_MOST_WHOLE)))
    whole = pc.if_else(is_whole, column, None).cast(pa.int64()).cast(pa.string())
    return pc.if_else(pc.is_nan(column), None, pc.if_else(is_whole, whole, column.cast(pa.string())))


def layout_json(layout: Layout) -> dict[str, Any]:
    """Return a layout's JSON-able form."""
    if isinstance(layout, Categories):
        return {"kind": layout.kind, "names": list(layout.names)}
    return {"kind": layout.kind, "edges": list(layout.edges), "centre": layout.centre, "sd": layout.sd}


def layout_from(value: Mapping[str, Any]) -> Layout:
    """Read what `layout_json` wrote."""
    if value["kind"] == "categorical":
        return Categories(tuple(value["names"]))
    return NumericBins(tuple(value["edges"]), value["centre"], value["sd"])
