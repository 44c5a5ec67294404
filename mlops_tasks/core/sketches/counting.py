"""Rows to counts: one vectorised pass over a table for any number of windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.core.sketches.counts import ColumnSketch, Sketches
from mlops_tasks.core.sketches.layouts import Categories, Layout, NumericBins, as_floats, as_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

QUANTA_PER_SD = 1 << 16
MOST_QUANTA = 1 << 30  # a sum of 2^32 rows at this bound still fits 64 bits
_LOW_BITS = 24


def sketch_windows(
    table: pa.Table, layouts: Mapping[str, Layout], windows: tuple[str, ...], codes: Ints, where: str
) -> Sketches:
    """Summarise N rows of W windows in one pass; `codes` holds each row's window as an index into `windows`.

    Raises:
        DataRejected: a numeric column holds something else; the message begins with `where`.

    """
    columns = {
        name: _sketch_column(table[name], f"{where}: column {name!r}", layout, codes, len(windows))
        for name, layout in layouts.items()
    }
    return Sketches(windows, np.bincount(codes, minlength=len(windows)).astype(np.int64), columns)


def _sketch_column(column: pa.ChunkedArray, where: str, layout: Layout, codes: Ints, windows: int) -> ColumnSketch:
    if isinstance(layout, Categories):
        return _sketch_categories(column, layout, codes, windows)
    everything = as_floats(column, where)
    is_finite = np.isfinite(everything)
    values, inside = everything[is_finite], codes[is_finite]
    cells = inside * layout.cells + np.searchsorted(np.array(layout.edges), values, side="right")
    quanta = _quanta(values, layout)
    sums = np.zeros((windows, layout.cells), dtype=np.int64)
    np.add.at(sums.reshape(-1), cells, quanta)
    minimum, maximum = np.full(windows, np.inf), np.full(windows, -np.inf)
    np.minimum.at(minimum, inside, values)
    np.maximum.at(maximum, inside, values)
    return ColumnSketch(
        counts=np.bincount(cells, minlength=windows * layout.cells).reshape(windows, -1).astype(np.int64),
        sums=sums,
        nulls=_count(codes[np.isnan(everything)], windows),
        infinite=_count(codes[np.isinf(everything)], windows),
        squares=_sum_squares(quanta, inside, windows),
        minimum=minimum,
        maximum=maximum,
    )


def _sketch_categories(column: pa.ChunkedArray, layout: Categories, codes: Ints, windows: int) -> ColumnSketch:
    text = as_text(column)
    known = pc.index_in(text, value_set=pa.array(layout.names, pa.string()))
    index = np.asarray(pc.fill_null(known, len(layout.names)).to_numpy(), dtype=np.int64)
    is_null = np.asarray(text.is_null().to_numpy(), dtype=bool)
    cells = (codes * layout.cells + index)[~is_null]
    return ColumnSketch(
        counts=np.bincount(cells, minlength=windows * layout.cells).reshape(windows, -1).astype(np.int64),
        sums=np.zeros((windows, 0), dtype=np.int64),
        nulls=_count(codes[is_null], windows),
        infinite=np.zeros(windows, dtype=np.int64),
        squares=np.array([0] * windows, dtype=object),
        minimum=np.full(windows, np.inf),
        maximum=np.full(windows, -np.inf),
    )


def _quanta(values: Floats, layout: NumericBins) -> Ints:
    """Measure values in whole quanta from the centre, clipped to one training range outside the training range."""
    with np.errstate(over="ignore"):
        if layout.edges:
            span = max(layout.edges[-1] - layout.edges[0], layout.sd)
            values = np.clip(values, layout.edges[0] - span, layout.edges[-1] + span)
        quanta = np.rint((values - layout.centre) / layout.sd * QUANTA_PER_SD)
    return np.clip(quanta, -MOST_QUANTA, MOST_QUANTA).astype(np.int64)


def _sum_squares(quanta: Ints, codes: Ints, windows: int) -> NDArray[np.object_]:
    """Sum squares exactly: high and low bits apart, joined as Python integers."""
    squares = quanta * quanta
    high, low = np.zeros(windows, dtype=np.int64), np.zeros(windows, dtype=np.int64)
    np.add.at(high, codes, squares >> _LOW_BITS)
    np.add.at(low, codes, squares & ((1 << _LOW_BITS) - 1))
    return np.array([(h << _LOW_BITS) + rest for h, rest in zip(high.tolist(), low.tolist(), strict=True)], dtype=object)


def _count(codes: Ints, windows: int) -> Ints:
    return np.bincount(codes, minlength=windows).astype(np.int64)
