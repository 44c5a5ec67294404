"""A pipeline's clean history to the monitor's false-alarm rate, and changed history to how soon it sees a change."""

from mlops_tasks.core.drift_backtest.rates import Rate, propose_rate
from mlops_tasks.core.drift_backtest.replay import Detection, Replay, Replayed, count_rows, replay_clean, replay_shift
from mlops_tasks.core.drift_backtest.shifts import Shift, parse_shift, usual_shifts

__all__ = [
    "Detection",
    "Rate",
    "Replay",
    "Replayed",
    "Shift",
    "count_rows",
    "parse_shift",
    "propose_rate",
    "replay_clean",
    "replay_shift",
    "usual_shifts",
]
