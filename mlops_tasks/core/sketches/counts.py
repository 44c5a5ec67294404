"""What a sketch holds, how sketches are added up, and their JSON."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mlops_tasks.core.sketches.layouts import Layout, NumericBins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnSketch:
    """One column of W windows and C cells; sums and squares in quanta from the layout's centre, clipped a range outside it."""

    counts: Ints
    """[W, C]."""
    sums: Ints
    """[W, C]; of a categorical column [W, 0]."""
    nulls: Ints
    infinite: Ints
    squares: NDArray[np.object_]
    """[W], Python integers: they outgrow 64 bits."""
    minimum: Floats
    """[W]; infinity where there is no finite value."""
    maximum: Floats

    def merged(self) -> ColumnSketch:
        """Return the sum over all windows, as one window."""
        return ColumnSketch(
            counts=self.counts.sum(axis=0, keepdims=True),
            sums=self.sums.sum(axis=0, keepdims=True),
            nulls=self.nulls.sum(keepdims=True),
            infinite=self.infinite.sum(keepdims=True),
            squares=np.array([sum(self.squares.tolist())], dtype=object),
            minimum=self.minimum.min(keepdims=True, initial=np.inf),
            maximum=self.maximum.max(keepdims=True, initial=-np.inf),
        )

    def take(self, chosen: NDArray[np.bool_]) -> ColumnSketch:
        """Return the chosen windows, [W] of them true."""
        return ColumnSketch(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; an absent minimum or maximum is null."""
        return {f.name: [_finite(v) for v in getattr(self, f.name).tolist()] for f in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], cells: int, sums: int) -> Self:
        """Read what `to_json` wrote, for a layout of so many cells and sums."""
        return cls(
            counts=np.array(value["counts"], dtype=np.int64).reshape(-1, cells),
            sums=np.array(value["sums"], dtype=np.int64).reshape(len(value["nulls"]), sums),
            nulls=np.array(value["nulls"], dtype=np.int64),
            infinite=np.array(value["infinite"], dtype=np.int64),
            squares=np.array(value["squares"], dtype=object),
            minimum=np.array([np.inf if v is None else v for v in value["minimum"]], dtype=np.float64),
            maximum=np.array([-np.inf if v is None else v for v in value["maximum"]], dtype=np.float64),
        )


@dataclass(frozen=True)
class Sketches:
    """All columns of W windows."""

    windows: tuple[str, ...]
    rows: Ints
    columns: dict[str, ColumnSketch]

    def take(self, chosen: NDArray[np.bool_]) -> Sketches:
        """Return the chosen windows, [W] of them true."""
        windows = tuple(window for window, wanted in zip(self.windows, chosen.tolist(), strict=True) if wanted)
        return Sketches(windows, self.rows[chosen], {name: column.take(chosen) for name, column in self.columns.items()})

    def merged(self, name: str) -> Sketches:
        """Return the sum over all windows, as one window of the given name."""
        columns = {column: sketch.merged() for column, sketch in self.columns.items()}
        return Sketches((name,), self.rows.sum(keepdims=True), columns)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        columns = {name: sketch.to_json() for name, sketch in self.columns.items()}
        return {"windows": list(self.windows), "rows": self.rows.tolist(), "columns": columns}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], layouts: Mapping[str, Layout]) -> Self:
        """Read what `to_json` wrote; columns that no layout knows are left out."""
        columns = {
            name: ColumnSketch.from_json(sketch, layouts[name].cells, _sum_cells(layouts[name]))
            for name, sketch in value["columns"].items()
            if name in layouts
        }
        return cls(tuple(value["windows"]), np.array(value["rows"], dtype=np.int64), columns)


def join_sketches(parts: Sequence[Sketches]) -> Sketches:
    """Put the windows of several sketches on the same layouts beside each other; each part has the same columns."""
    columns = {
        name: ColumnSketch(*(np.concatenate([getattr(p.columns[name], f.name) for p in parts]) for f in fields(ColumnSketch)))
        for name in parts[0].columns
    }
    windows = tuple(window for part in parts for window in part.windows)
    return Sketches(windows, np.concatenate([part.rows for part in parts]), columns)


def _sum_cells(layout: Layout) -> int:
    return layout.cells if isinstance(layout, NumericBins) else 0


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
