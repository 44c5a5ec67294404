"""Rows of a window to a small, mergeable summary of each column, on bins frozen by the training data.

A numeric column is counted on the quantile bins of the training data, with values that are frequent
by themselves (atoms) in bins of their own, and summed per bin in whole quanta (2^-16 of a standard
deviation); a categorical column is counted by the most frequent training categories and OTHER.
Everything added up is an integer, so merging sketches, in any order, equals one pass exactly.
A quantile sketch (KLL) is left out on purpose: it costs 4 to 12 KB per column and window, and its
merge depends on the order.
"""

from mlops_tasks.core.sketches.counting import QUANTA_PER_SD, sketch_windows
from mlops_tasks.core.sketches.counts import ColumnSketch, Sketches, join_sketches
from mlops_tasks.core.sketches.layouts import Categories, Layout, NumericBins, lay_out
from mlops_tasks.core.sketches.predictions import add_prediction, prediction_column
from mlops_tasks.core.sketches.reference import Reference, build_reference, sketch_parts, sketch_window

__all__ = [
    "QUANTA_PER_SD",
    "Categories",
    "ColumnSketch",
    "Layout",
    "NumericBins",
    "Reference",
    "Sketches",
    "add_prediction",
    "build_reference",
    "join_sketches",
    "lay_out",
    "prediction_column",
    "sketch_parts",
    "sketch_window",
    "sketch_windows",
]
