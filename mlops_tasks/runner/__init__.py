"""Stages of runs to results: everything that starts a stage goes through `Runner.invoke`, a duty through `dispatch`.

That is the command line, Airflow's operator, and a container. `work.py` has a method a stage: read it to see what
a result depends on.
"""

from __future__ import annotations

from mlops_tasks.runner.duties import invoke
from mlops_tasks.runner.invocation import Handle, Invocation, Outcome
from mlops_tasks.runner.runner import RESOLVED, Runner, roll_back

__all__ = ["RESOLVED", "Handle", "Invocation", "Outcome", "Runner", "invoke", "roll_back"]
