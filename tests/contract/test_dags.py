from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, CronDataIntervalTimetable
from airflow.sdk.exceptions import ParamValidationError

from mlops_tasks.pipeline import BY_NAME, INGEST, TRAIN

ROOT = Path(__file__).parents[2]
NAME = "nyc_flights"
RESOLVED_BY_RUNNER = {"windows", "champion", "deployment"}
HEAVY = {"torch", "pyspark", "pandas", "mlflow", "great_expectations", "docker", "pyarrow", "numpy", "sklearn", "fastapi"}


def parse(pipelines: Path) -> tuple[dict[str, DAG], dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_PIPELINES", str(pipelines))
        bag = DagBag(str(ROOT / "dags"))
    return bag.dags, bag.import_errors


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    found, errors = parse(ROOT / "dags" / "pipelines")
    assert errors == {}
    return found


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "dags" / "pipelines" / NAME, tmp_path / NAME)
    return tmp_path


def stages_of(dag: DAG) -> dict[str, Any]:
    """Return stage name -> task."""
    return {task.stage: task for task in dag.tasks if hasattr(task, "stage")}


def test_every_pipeline_has_its_six_dags(dags: dict[str, DAG]) -> None:
    assert set(dags) == {f"{NAME}.{kind}" for kind in ("ingest", "train", "monitor", "retrain", "rollback", "acknowledge")}


def test_a_pipeline_that_tries_challengers_has_a_seventh_dag(folders: Path) -> None:
    path = folders / NAME / "pipeline.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "\nserve: {challenger: {mode: canary, check: 30m}}\n", encoding="utf-8")
    found, errors = parse(folders)
    assert errors == {}
    kinds = ("ingest", "train", "monitor", "retrain", "rollback", "rollout", "acknowledge")
    assert set(found) == {f"{NAME}.{kind}" for kind in kinds}
    dag = found[f"{NAME}.rollout"]
    assert dag.schedule == timedelta(minutes=30)
    assert dag.max_active_runs > 1, "a run that waits for a person keeps no check from withdrawing the challenger"
    assert {task.task_id: task.upstream_task_ids for task in dag.tasks} == {
        "judge": set(),
        "approve": {"judge"},
        "settle": {"judge", "approve"},
    }


def test_a_pipeline_that_keeps_its_log_for_a_while_has_a_dag_that_looks_after_it(folders: Path) -> None:
    path = folders / NAME / "pipeline.yaml"
    path.write_text(path.read_text(encoding="utf-8") + "\nserve: {log: {retain: 90d}}\n", encoding="utf-8")
    found, errors = parse(folders)
    assert errors == {}
    dag = found[f"{NAME}.maintain"]
    assert str(dag.schedule) == "30 0 * * *"
    assert [task.task_id for task in dag.tasks] == ["remove_old_answers"]


@pytest.mark.parametrize(
    ("kind", "stages"), [("ingest", INGEST), ("train", (*INGEST, *TRAIN)), ("monitor", (*INGEST, "monitor"))]
)
def test_a_dag_chains_its_stages_as_the_stage_table_says(dags: dict[str, DAG], kind: str, stages: tuple[str, ...]) -> None:
    tasks = stages_of(dags[f"{NAME}.{kind}"])
    assert set(tasks) == set(stages)
    for name, task in tasks.items():
        consumes = {k: v for k, v in BY_NAME[name].consumes.items() if k not in RESOLVED_BY_RUNNER}
        assert set(task.inputs) == set(consumes)
        for parameter, wanted in consumes.items():
            producer = BY_NAME[task.inputs[parameter].operator.stage]
            assert element(producer.produces) is element(wanted), f"{name}.{parameter}"
            assert task.inputs[parameter].operator.task_id in task.upstream_task_ids


def element(kind: Any) -> Any:
    return get_args(kind)[0] if get_args(kind) else kind


def test_training_asks_between_judging_and_deploying(dags: dict[str, DAG]) -> None:
    dag = dags[f"{NAME}.train"]
    assert dag.get_task("approve").upstream_task_ids == {"evaluate"}
    assert dag.get_task("deploy").upstream_task_ids == {"evaluate", "approve"}
    assert dag.get_task("deploy").trigger_rule == "none_failed_min_one_success"


def test_only_training_takes_the_gpu_pool(dags: dict[str, DAG]) -> None:
    pools = {(dag_id, task.task_id): task.pool for dag_id, dag in dags.items() for task in dag.tasks}
    assert {key for key, pool in pools.items() if pool == "gpu"} == {(f"{NAME}.train", "train")}


def test_every_task_and_dag_is_documented_and_owned(dags: dict[str, DAG]) -> None:
    for dag in dags.values():
        assert dag.doc_md
        assert "late" in dag.doc_md, "the pipeline's own description"
        assert {"mlops", NAME, "example"} <= set(dag.tags)
        for task in dag.tasks:
            assert task.owner == "flights-team"
        for name, task in stages_of(dag).items():
            assert task.doc_md == BY_NAME[name].summary
            assert task.execution_timeout.total_seconds() == BY_NAME[name].timeout_s


def test_trainings_are_looked_after_by_every_monitoring_run_and_by_a_dag_of_its_own(dags: dict[str, DAG]) -> None:
    assert dags[f"{NAME}.monitor"].get_task("start_training").upstream_task_ids == {"monitor"}
    alone = dags[f"{NAME}.retrain"]
    assert alone.schedule == timedelta(hours=1)
    assert alone.max_active_runs == 1
    assert [task.task_id for task in alone.tasks] == ["start_training"]


def test_who_watches_another_pipelines_model_does_not_look_after_its_trainings(folders: Path) -> None:
    shutil.copytree(folders / NAME, folders / "watch")
    path = folders / "watch" / "pipeline.yaml"
    text = path.read_text(encoding="utf-8").replace(f"name: {NAME}", "name: watch")
    path.write_text(text.replace("monitor:\n", f"monitor:\n  model: {NAME}\n"), encoding="utf-8")
    found, errors = parse(folders)
    assert errors == {}
    assert f"{NAME}.retrain" in found
    assert "watch.retrain" not in found


def test_ingest_has_one_true_interval_a_window(dags: dict[str, DAG]) -> None:
    for kind in ("ingest", "monitor"):
        timetable = dags[f"{NAME}.{kind}"].timetable
        assert isinstance(timetable, CronDataIntervalTimetable)
        assert timetable.expression == "0 0 * * *"
    weekly = dags[f"{NAME}.train"].timetable
    assert isinstance(weekly, CronDataIntervalTimetable)
    assert weekly.expression == "0 6 * * 1"


def test_the_form_of_train(dags: dict[str, DAG]) -> None:
    params = dags[f"{NAME}.train"].params
    assert list(params) == ["start", "end", "promote", "trials", "reason", "intent"]
    defaults = {"start": None, "end": None, "promote": "auto", "trials": 1, "reason": None, "intent": None}
    assert params.dump() == defaults
    for name in params:
        schema = params.get_param(name).schema
        assert schema["title"]
        assert schema["description_md"], f"{name} needs a help text"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("start", "someday"),
        ("promote", "maybe"),
        ("trials", 0),
        ("trials", 1001),
        ("trials", "3"),
        ("reason", 7),
        ("intent", "fun"),
    ],
)
def test_train_refuses_wrong_params(dags: dict[str, DAG], name: str, wrong: object) -> None:
    with pytest.raises(ParamValidationError):
        dags[f"{NAME}.train"].params.get_param(name).resolve(wrong)


def test_a_rollback_needs_a_reason(dags: dict[str, DAG]) -> None:
    params = dags[f"{NAME}.rollback"].params
    assert params.get_param("version").resolve() is None
    with pytest.raises(ParamValidationError):
        params.get_param("reason").resolve("")


def test_an_acknowledgement_needs_a_window_and_a_reason(dags: dict[str, DAG]) -> None:
    params = dags[f"{NAME}.acknowledge"].params
    assert params.get_param("through").resolve() is None
    for name in ("window", "reason"):
        with pytest.raises(ParamValidationError):
            params.get_param(name).resolve(None)


def test_a_broken_folder_is_reported_and_takes_no_other_down(folders: Path) -> None:
    shutil.copytree(folders / NAME, folders / "broken")
    (folders / "broken" / "pipeline.yaml").write_text((folders / NAME / "pipeline.yaml").read_text() + "cadense: day\n")
    found, errors = parse(folders)
    assert set(found) == {f"{NAME}.{kind}" for kind in ("ingest", "train", "monitor", "retrain", "rollback", "acknowledge")}
    ((file, error),) = errors.items()
    assert Path(file).name == "check.py"
    assert f"{folders.name}/broken/pipeline.yaml: cadense is not a known key; did you mean 'cadence'?" in error


def test_unscheduled_pipelines_run_only_when_triggered(folders: Path) -> None:
    file = folders / NAME / "pipeline.yaml"
    text = file.read_text().replace('train: "0 6 * * 1"', "ingest: false\n  monitor: false")
    file.write_text(text)
    found, _ = parse(folders)
    assert {dag.schedule for dag in found.values()} == {None}


LIGHT = """
import importlib.machinery, importlib.util, json, sys
from pathlib import Path
ids = []
for file in sorted(Path(sys.argv[1]).glob("*.py")):
    loader = importlib.machinery.SourceFileLoader("dag_" + file.stem, str(file))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
from airflow.sdk.definitions._internal.contextmanager import DagContext
print(json.dumps({"modules": sorted({m.partition(".")[0] for m in sys.modules}),
                  "dags": sorted(d.dag_id for d, _ in DagContext.autoregistered_dags)}))
"""


def parsed_alone(**environment: str) -> dict[str, list[str]]:
    plugins = f"{ROOT}{os.pathsep}{ROOT / 'plugins'}"
    env = {**os.environ, "PYTHONPATH": plugins, "MLOPS_PIPELINES": str(ROOT / "dags" / "pipelines"), **environment}
    # Airflow collects the DAGs of a file only while it loads one: name the module that is being loaded.
    code = LIGHT.replace("    loader.exec_module", "    _begin(module)\n    loader.exec_module").replace(
        "ids = []",
        "from airflow.sdk.definitions._internal.contextmanager import DagContext\n"
        "def _begin(module):\n"
        "    sys.modules[module.__name__] = module\n"
        "    DagContext.current_autoregister_module_name = module.__name__",
    )
    command = [sys.executable, "-c", code, str(ROOT / "dags")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_no_heavy_import_is_reached_by_the_dag_files() -> None:
    found = parsed_alone()
    assert len(found["dags"]) == 6
    assert HEAVY & set(found["modules"]) == set()


def test_a_tasks_process_builds_only_its_own_dag() -> None:
    assert parsed_alone(_AIRFLOW_PARSING_CONTEXT_DAG_ID=f"{NAME}.train")["dags"] == [f"{NAME}.train"]
