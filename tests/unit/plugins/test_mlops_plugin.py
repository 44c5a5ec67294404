from __future__ import annotations

import pytest

from mlops_plugin import libraries_to_preload


@pytest.mark.parametrize("arguments", [["airflow", "scheduler", "--skip-serve-logs"], ["airflow", "celery", "worker"]])
def test_the_process_that_forks_tasks_imports_the_slow_libraries(arguments: list[str]) -> None:
    assert libraries_to_preload(arguments) == ("pandas", "pyarrow.parquet", "great_expectations")


@pytest.mark.parametrize("arguments", [["airflow", "api-server"], ["airflow", "dags", "list"], ["pytest"], []])
def test_no_other_process_does(arguments: list[str]) -> None:
    assert libraries_to_preload(arguments) == ()


def test_the_environment_replaces_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_PRELOAD", "json,not_installed_here")
    assert libraries_to_preload(["airflow", "scheduler"]) == ("json",)
    monkeypatch.setenv("MLOPS_PRELOAD", "")
    assert libraries_to_preload(["airflow", "scheduler"]) == ()
