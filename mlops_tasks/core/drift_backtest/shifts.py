"""What may happen to a column, as a change of a window's rows: another unit, a move, lost values, a renamed category."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlops_tasks.core.sketches import Categories, NumericBins
from mlops_tasks.core.sketches.layouts import as_floats, as_text
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from mlops_tasks.core.sketches import Layout

Kind = Literal["scaled", "moved", "missing", "renamed"]
GOLDEN = 0.6180339887498949
KILOMETRES = 1.609344
USUAL: Mapping[str, tuple[tuple[Kind, float], ...]] = {
    "numeric": (("scaled", KILOMETRES), ("moved", 0.25), ("moved", 1.0), ("missing", 0.1), ("missing", 0.5)),
    "categorical": (("renamed", 0.5), ("renamed", 1.0), ("missing", 0.1), ("missing", 0.5)),
}
"""What every column is tried with unless shifts are named."""
FITS = {"numeric": {"scaled", "moved", "missing"}, "categorical": {"renamed", "missing"}}


@dataclass(frozen=True)
class Shift:
    """One change of one column, from some window on.

    `scaled`: values times size; `moved`: plus size standard deviations; `missing`: that share is null;
    `renamed`: that share of the most frequent category has another name.
    """

    column: str
    kind: Kind
    size: float

    @property
    def name(self) -> str:
        """The shift as it is asked for, e.g. `distance:scaled:1.609`."""
        return f"{self.column}:{self.kind}:{self.size:.4g}"

    def apply(self, rows: pa.Table, layout: Layout) -> pa.Table:
        """Change rows; which of them, depends on their order alone."""
        column = rows[self.column]
        if self.kind == "missing":
            changed = pc.if_else(pa.array(_share(rows.num_rows, self.size)), pa.scalar(None, column.type), column)
        elif isinstance(layout, NumericBins):
            values = as_floats(column, f"column {self.column!r}")
            changed = pa.array(
                values * self.size if self.kind == "scaled" else values + self.size * layout.sd, from_pandas=True
            )
        else:
            changed = self._rename(as_text(column), layout)
        return rows.set_column(rows.column_names.index(self.column), self.column, changed)

    def _rename(self, column: pa.ChunkedArray, layout: Layout) -> pa.ChunkedArray:
        names = cast("Categories", layout).names
        if not names:
            return column
        is_top = np.asarray(pc.fill_null(pc.equal(column, names[0]), fill_value=False).to_numpy(), dtype=bool)
        chosen = np.zeros(len(column), dtype=bool)
        chosen[is_top] = _share(int(is_top.sum()), self.size)
        return pc.if_else(pa.array(chosen), f"{names[0]} renamed", column)


def usual_shifts(layouts: Mapping[str, Layout], columns: Mapping[str, str]) -> Iterator[Shift]:
    """Yield what every column is tried with; `columns`: name -> kind."""
    for name, kind in columns.items():
        if name in layouts:
            yield from (Shift(name, what, size) for what, size in USUAL[kind])


def parse_shift(text: str, columns: Mapping[str, str]) -> Shift:
    """Read `column:kind:size`. Raises: SpecError."""
    where, parts = f"--shift {text!r}", text.rsplit(":", 2)
    if len(parts) != len(("column", "kind", "size")):
        msg = f"{where}: must be COLUMN:KIND:SIZE, e.g. distance:scaled:1.609"
        raise SpecError(msg)
    column, kind, size = parts
    if column not in columns:
        msg = f"{where}: there is no such feature; there are {', '.join(columns)}"
        raise SpecError(msg)
    if kind not in get_args(Kind) or kind not in FITS[columns[column]]:
        msg = f"{where}: a {columns[column]} column can be {', '.join(sorted(FITS[columns[column]]))}, got {kind!r}"
        raise SpecError(msg)
    try:
        return Shift(column, cast("Kind", kind), _size(kind, size))
    except ValueError as error:
        msg = f"{where}: the size must be a number, of missing and renamed at most 1, got {size!r}"
        raise SpecError(msg) from error


def _size(kind: str, text: str) -> float:
    size = float(text)
    if not np.isfinite(size) or (kind in {"missing", "renamed"} and not 0 <= size <= 1):
        raise ValueError(text)
    return size


def _share(rows: int, share: float) -> NDArray[np.bool_]:
    """Choose a share of rows, evenly spread: multiples of the golden ratio fill the unit interval evenly."""
    chosen: NDArray[np.bool_] = (np.arange(1, rows + 1) * GOLDEN) % 1.0 < share
    return chosen
