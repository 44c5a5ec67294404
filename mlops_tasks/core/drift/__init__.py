"""Sketches of a window and of what is known to distances and an alarm with a stated false-alarm rate.

A window alarms when its largest standardised column distance (maxT) ranks among the largest of the
pipeline's own history, each of its windows compared with all others, and the distance itself is large
enough to matter. What belongs to the history, `settling` says; what is done about a row of alarms,
`core.retraining` decides.
"""

from mlops_tasks.core.drift.baseline import Baseline, training_baseline
from mlops_tasks.core.drift.distances import (
    column_distances,
    jensen_shannon,
    kolmogorov_smirnov,
    missing_shares,
    psi,
    shares,
)
from mlops_tasks.core.drift.keeping import Records, acknowledged_windows, open_records, read_records
from mlops_tasks.core.drift.looking import Lookout
from mlops_tasks.core.drift.records import Acknowledgement, WindowRecord
from mlops_tasks.core.drift.scoring import Calibration, ColumnScore, WindowScore, calibrate, score_window
from mlops_tasks.core.drift.settling import YEAR, Judged, settle

__all__ = [
    "YEAR",
    "Acknowledgement",
    "Baseline",
    "Calibration",
    "ColumnScore",
    "Judged",
    "Lookout",
    "Records",
    "WindowRecord",
    "WindowScore",
    "acknowledged_windows",
    "calibrate",
    "column_distances",
    "jensen_shannon",
    "kolmogorov_smirnov",
    "missing_shares",
    "open_records",
    "psi",
    "read_records",
    "score_window",
    "settle",
    "shares",
    "training_baseline",
]
