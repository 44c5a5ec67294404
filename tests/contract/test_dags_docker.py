"""The same DAGs where stages run in containers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from mlops_docker import DockerStageOperator
from mlops_reaper import RemoveLostContainers
from mlops_tasks.pipeline import BY_NAME
from tests.contract.test_dags import NAME, ROOT, parse, stages_of


@pytest.fixture(scope="module")
def both() -> dict[str, dict[str, DAG]]:
    found = {}
    for runtime in ("process", "docker"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLOPS_RUNTIME", runtime)
            found[runtime], errors = parse(ROOT / "dags" / "pipelines")
        assert errors == {}
    return found


def edges(dag: DAG) -> dict[str, Any]:
    return {task.task_id: (sorted(task.upstream_task_ids), task.trigger_rule, task.pool) for task in dag.tasks}


def test_both_runtimes_have_the_same_dags(both: dict[str, dict[str, DAG]]) -> None:
    assert set(both["docker"]) - set(both["process"]) == {"mlops.reaper"}
    for dag_id, dag in both["process"].items():
        assert edges(both["docker"][dag_id]) == edges(dag)


def test_each_stage_runs_in_its_image(both: dict[str, dict[str, DAG]]) -> None:
    stages = stages_of(both["docker"][f"{NAME}.train"])
    assert {type(task) for task in stages.values()} == {DockerStageOperator}
    assert {name: task.image for name, task in stages.items()} == {
        name: f"mlops-tasks/{BY_NAME[name].image}:latest" for name in stages
    }


def test_the_reaper_is_on_and_never_runs_twice_at_once(both: dict[str, dict[str, DAG]]) -> None:
    dag: Any = both["docker"]["mlops.reaper"]
    (task,) = dag.tasks
    assert isinstance(task, RemoveLostContainers)
    assert task.retries == 2
    assert task.retry_delay == timedelta(seconds=30)
    assert (dag.max_active_runs, dag.catchup, dag.is_paused_upon_creation) == (1, False, False)
    assert dag.timetable.expression == "*/10 * * * *"
