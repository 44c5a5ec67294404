"""The training data to `reference.json`, and new windows to sketches on its layouts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from mlops_tasks.core.sketches.counting import sketch_windows
from mlops_tasks.core.sketches.counts import Sketches, join_sketches
from mlops_tasks.core.sketches.layouts import Layout, lay_out, layout_from, layout_json
from mlops_tasks.core.sketches.predictions import prediction_name
from mlops_tasks.errors import DataRejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas as pd

    from mlops_tasks.artifacts import FeatureSchema

FORMAT = 1


@dataclass(frozen=True)
class Reference:
    """The training data as windows are compared with it: frozen layouts, one sketch per training window, and their sum."""

    layouts: dict[str, Layout]
    label: str
    history: Sketches
    merged: Sketches
    prediction: str | None = None
    """The column of the model's own scores; None for models trained before there was one."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of `reference.json`."""
        return {
            "format": FORMAT,
            "label": self.label,
            "prediction": self.prediction,
            "layouts": {name: layout_json(layout) for name, layout in self.layouts.items()},
            "merged": self.merged.to_json(),
            "history": self.history.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            DataRejected: it has another format.

        """
        if value.get("format") != FORMAT:
            msg = f"reference.json: format must be {FORMAT}, got {value.get('format')!r}; train the model again"
            raise DataRejected(msg)
        layouts = {name: layout_from(layout) for name, layout in value["layouts"].items()}
        history, merged = (Sketches.from_json(value[part], layouts) for part in ("history", "merged"))
        return cls(layouts, value["label"], history, merged, value.get("prediction"))

    @property
    def optional(self) -> frozenset[str]:
        """Columns that a window may lack: labels come late, and scores are made by the model."""
        return frozenset({self.label, self.prediction} - {None})  # type: ignore[arg-type]  # None is taken away


def build_reference(
    frame: pd.DataFrame, schema: FeatureSchema, window_of: pd.Series[Any], prediction: pa.Array | None = None
) -> dict[str, Any]:
    """Summarise the training data: layouts, one sketch per window, their sum.

    Args:
        frame: N training rows with the inputs and the label.
        schema: names and kinds of the inputs, the label and the task.
        window_of: window label per row, e.g. `2013-01-31`, N.
        prediction: what the model gives each row, N: a column of its own.

    Returns:
        The JSON-able content of `reference.json`; `Reference.from_json` reads it.

    Raises:
        DataRejected: a column is missing or has the wrong type.

    """
    names = [*(c.name for c in schema.columns), schema.label]
    missing = sorted(set(names) - set(frame.columns))
    if missing:
        raise DataRejected(_missing("training data", missing))
    table = pa.table({name: _from_pandas(name, frame[name]) for name in names})
    numeric = {*schema.numeric, *([schema.label] if schema.task == "regression" else [])}
    predicted = None
    if prediction is not None:
        predicted = prediction_name(names)
        table = table.append_column(predicted, prediction)
        numeric |= {predicted} if pa.types.is_floating(prediction.type) else set()
    layouts = {n: lay_out(table[n], f"training data: column {n!r}", numeric=n in numeric) for n in table.column_names}
    windows, codes = np.unique(window_of.to_numpy().astype(str), return_inverse=True)
    history = sketch_windows(table, layouts, tuple(windows.tolist()), codes.astype(np.int64), "training data")
    return Reference(layouts, schema.label, history, history.merged("training"), predicted).to_json()


def sketch_window(table: pa.Table, reference: Reference, window: str) -> Sketches:
    """Summarise one window's rows on the reference's layouts; a table without the label or the prediction is fine.

    Raises:
        DataRejected: an input column is missing or has the wrong type.

    """
    missing = [name for name in reference.layouts if name not in table.column_names and name not in reference.optional]
    if missing:
        raise DataRejected(_missing(f"window {window}", missing))
    for name in reference.optional - set(table.column_names):
        table = table.append_column(name, pa.nulls(table.num_rows))
    codes = np.zeros(table.num_rows, dtype=np.int64)
    return sketch_windows(table, reference.layouts, (window,), codes, f"window {window}")


def sketch_parts(parts: Iterable[pa.Table], reference: Reference, window: str) -> Sketches:
    """Summarise one window that is read in parts, at least one, of which no two are held at once; exactly as in one pass.

    Raises:
        DataRejected: an input column is missing or has the wrong type.

    """
    return reduce(
        lambda so_far, part: join_sketches([so_far, part]).merged(window), (sketch_window(p, reference, window) for p in parts)
    )


def _from_pandas(name: str, series: pd.Series[Any]) -> pa.Array:
    try:
        return pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        msg = f"training data: column {name!r} mixes types ({error}); cast it to one type in the features"
        raise DataRejected(msg) from error


def _missing(where: str, names: Iterable[str]) -> str:
    return f"{where}: columns {', '.join(names)} are missing, which the model reads; check the features"
