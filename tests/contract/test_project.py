"""What must hold of the project as a whole: layers, reference docs, errors, set-up files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.errors_page import kinds
from docs.generate import pages, stale
from docs.specs_page import described, meaning_of
from mlops_tasks.errors import PipelineError, RegistryUnavailable, StoreUnavailable, WorkerLost

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ("errors", "artifacts", "specs", "ports", "pipeline", "loading")
HEAVY = ("torch", "pyspark", "great_expectations", "mlflow", "pandas", "sklearn", "airflow")


def test_imports_point_down() -> None:
    result = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, mlops_tasks.{module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_reference_is_up_to_date() -> None:
    assert stale() == [], "run `make docs`"


def test_every_key_of_pipeline_yaml_is_documented() -> None:
    assert [path for path, field in described() if not meaning_of(field).strip()] == []


def test_the_reference_names_unit_limits_and_default() -> None:
    page = pages()["pipeline.md"]
    assert "| `test` | duration | `30d` | the latest part of the range, held out for evaluation |" in page
    assert "| `dropout` | number, at least 0, less than 1 | `0.1` | dropout between layers |" in page
    assert "| `name` | text, matches `^[a-z][a-z0-9_]{0,62}$` | required |" in page


def test_what_the_program_fills_is_not_offered_to_users() -> None:
    paths = {path for path, _ in described()}
    assert "preprocess.features" in paths
    assert not paths & {"preprocess.code", "preprocess.feature_schema", "preprocess.primary", "preprocess.static"}


def test_exit_codes_are_unique_and_stay() -> None:
    assert {kind.__name__: kind.exit_code for kind in kinds()} == {
        "SpecError": 2,
        "DataRejected": 3,
        "ModelRejected": 4,
        "StoreUnavailable": 5,
        "RegistryUnavailable": 6,
        "Superseded": 7,
        "WorkerLost": 8,
        "ChampionMoved": 9,
        "NothingToDo": 99,
    }


def test_only_what_may_pass_by_itself_is_retried() -> None:
    assert {kind for kind in kinds() if kind.retryable} == {StoreUnavailable, RegistryUnavailable, WorkerLost}


def test_all_errors_of_the_package_are_of_the_documented_kinds() -> None:
    named = {kind.__name__ for kind in kinds()}
    elsewhere = re.compile(rf"class (\w+)\(.*\b({'|'.join({*named, PipelineError.__name__})})\b.*\):")
    found = [
        f"{path.relative_to(ROOT)}: {match[1]}"
        for path in (ROOT / "mlops_tasks").rglob("*.py")
        if path.name != "errors.py"
        for match in elsewhere.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_the_lock_meets_pyproject_and_names_no_index() -> None:
    locked = _locked()
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?:|--(extra-)?index-url|--find-links|^-i ", text, re.MULTILINE)
    missing = [name for name in _required() if name not in locked]
    assert missing == [], "run `make lock`"


def test_every_locked_version_has_its_hash() -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert [entry.split()[0] for entry in entries if "==" in entry.split("\n")[0] and "--hash=sha256:" not in entry] == []


def test_make_lists_every_command() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("setup", "demo", "stop", "test", "test-fast", "lint", "bench", "docs"):
        assert f"make {command} " in shown


def _locked() -> set[str]:
    return set(re.findall(r"^([a-z0-9][\w.-]*)==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE))


def _required() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(item for extra in project["optional-dependencies"].values() for item in extra)]
    return [re.split(r"[\[<>=!~ ;]", item)[0].lower().replace("_", "-") for item in wanted]
