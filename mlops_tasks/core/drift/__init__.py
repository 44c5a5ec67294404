"""Sketches of a window and of the training data to distances and an alarm with a stated false-alarm rate.

A window alarms when its largest standardised column distance (maxT) ranks among the largest of the
pipeline's own training windows, each compared with all others, and the distance itself is large
enough to matter. What is done about a row of alarms, `core.retraining` decides.
"""

from mlops_tasks.core.drift.distances import column_distances, missing_shares, psi, shares
from mlops_tasks.core.drift.records import WindowRecord
from mlops_tasks.core.drift.scoring import Calibration, ColumnScore, WindowScore, calibrate, score_window

__all__ = [
    "Calibration",
    "ColumnScore",
    "WindowRecord",
    "WindowScore",
    "calibrate",
    "column_distances",
    "missing_shares",
    "psi",
    "score_window",
    "shares",
]
