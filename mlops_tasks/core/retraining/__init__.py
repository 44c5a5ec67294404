"""What is known of a model's alarms, age, data and trainings to the decision to train it again.

Level-triggered: the decision depends on what is recorded now, not on which event was heard, so a monitor that was killed,
a window that came late and a scheduler that restarted lose nothing and double nothing. Time is event time, the end of the
newest monitored window, so that history can be replayed through the very same functions; the budget alone is of real time.
"""

from mlops_tasks.core.retraining.decision import Decision, State, alarmed_rows, decide
from mlops_tasks.core.retraining.records import Cause, Resumption, RetrainOutcome, RetrainRequest, Seen

__all__ = [
    "Cause",
    "Decision",
    "Resumption",
    "RetrainOutcome",
    "RetrainRequest",
    "Seen",
    "State",
    "alarmed_rows",
    "decide",
]
