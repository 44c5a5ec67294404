"""Pipelines whose folder can't be read become an import error in Airflow's UI; the others' DAGs stay.

An exception in a DAG file takes all of its DAGs down, so this file, which has none, is the one that raises.
"""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from mlops_dags import problems
from mlops_tasks.errors import SpecError

if get_parsing_context().dag_id is None and (found := problems()):
    raise SpecError("\n".join(found))
