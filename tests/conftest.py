"""Airflow reads its settings when it is first imported: give it a home of the tests' own before that."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from mlops_tasks.adapters.spark import start_for_this_process

ROOT = Path(__file__).parents[1]

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

_home = tempfile.mkdtemp(prefix="airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    {
        "AIRFLOW_HOME": _home,
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_home}/airflow.db",
    }
)


@pytest.fixture(scope="session")
def spark_url() -> str:
    """One Spark server for all tests: it takes seconds to start. It ends with this process, after its sessions."""
    return start_for_this_process("local[2]", "1g").url
