"""A challenger on trial, by what it and the champion answered: promoted, withdrawn, or waited for.

`trials.py` reads from the ledger what is tried and from the log what was answered; `answers.py` brings both sides' rows
together; `comparison.py` measures them; `chance.py` tells what chance explains, however often it is looked;
`decision.py` is the rule.
"""

from mlops_tasks.core.rollout.comparison import Comparison, Side, compare, describe_comparison
from mlops_tasks.core.rollout.decision import Decision, decide
from mlops_tasks.core.rollout.differences import Measured
from mlops_tasks.core.rollout.trials import (
    Trial,
    Tried,
    compare_in,
    compare_trial,
    read_labels,
    read_log,
    running_trial,
    trials,
)

__all__ = [
    "Comparison",
    "Decision",
    "Measured",
    "Side",
    "Trial",
    "Tried",
    "compare",
    "compare_in",
    "compare_trial",
    "decide",
    "describe_comparison",
    "read_labels",
    "read_log",
    "running_trial",
    "trials",
]
