"""Sketches of a window and of the training data to distances, an alarm with a stated false-alarm rate, and a decision.

A window alarms when its largest standardised column distance (maxT) ranks among the largest of the
pipeline's own training windows, each compared with all others, and the distance itself is large
enough to matter. A training is started by a row of alarmed windows, outside the cool-down.
"""

from mlops_tasks.core.drift.decision import Decision, RetrainRecord, WindowRecord, decide
from mlops_tasks.core.drift.distances import column_distances, missing_shares, psi, shares
from mlops_tasks.core.drift.scoring import Calibration, ColumnScore, WindowScore, calibrate, score_window

__all__ = [
    "Calibration",
    "ColumnScore",
    "Decision",
    "RetrainRecord",
    "WindowRecord",
    "WindowScore",
    "calibrate",
    "column_distances",
    "decide",
    "missing_shares",
    "psi",
    "score_window",
    "shares",
]
