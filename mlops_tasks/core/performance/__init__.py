"""A deployed model, new windows and labels that come late to how well it does, and to an alarm when it does worse.

A window is measured when its labels are due, `label_delay` after its end, by the windows that were held out from the
model's training: an alarm is an error that ranks among their highest, and so much higher that it matters. Until then,
metrics are estimated from the scores alone, where these are calibrated.
"""

from mlops_tasks.core.performance.records import Measured, PerformanceRecord
from mlops_tasks.core.performance.watching import Watched, watch

__all__ = ["Measured", "PerformanceRecord", "Watched", "watch"]
