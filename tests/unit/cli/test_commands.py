"""The command line: exit codes, one object with --json, and the words for each mistake."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.cli import main
from mlops_tasks.errors import DataRejected, ModelRejected, NothingToDo, PipelineError, RegistryUnavailable, StoreUnavailable

ROOT = Path(__file__).resolve().parents[3]
RUN = ("run", "nyc_flights", "--start", "2013-01-01", "--end", "2013-01-03")


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "dags/pipelines/nyc_flights", tmp_path / "pipelines/nyc_flights")
    monkeypatch.setenv("MLOPS_PIPELINES", str(tmp_path / "pipelines"))
    monkeypatch.setenv("MLOPS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLOPS_CODE_VERSION", "test")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, dict[str, Any], str]:
    code = main([*argv, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out), captured.err


MISTAKES: list[tuple[tuple[str, ...], str]] = [
    (
        ("run", "nyc_flights", "--start", "2013-01-01T06:00", "--end", "2013-01-03"),
        (
            "start: 2013-01-01T06:00 is not aligned to the cadence 'day', whose windows start at midnight UTC; "
            "use 2013-01-01 or 2013-01-02"
        ),
    ),
    (
        ("run", "nyc_flights", "--start", "2013-01-03", "--end", "2013-01-01"),
        "end: must be after start 2013-01-03, got 2013-01-01; the end itself is not part of the range",
    ),
    (
        ("run", "nyc_flights", "--start", "yesterday", "--end", "2013-01-01"),
        "--start: must be a date such as 2013-01-01 or 2013-01-01T06:00, got 'yesterday'",
    ),
    (
        ("run", "nyc_flight", "--start", "2013-01-01", "--end", "2013-01-03"),
        "PIPELINES: there is no pipeline 'nyc_flight'; did you mean 'nyc_flights'?",
    ),
    ((*RUN, "--set", "train.sed=1"), "nyc_flights overrides: train.sed is not a known key; did you mean 'seed'?"),
    ((*RUN, "--set", "trian.seed=1"), "nyc_flights overrides: trian.seed is not a known key; did you mean 'train'?"),
    ((*RUN, "--set", "train.seed=one"), "nyc_flights overrides: train.seed must be a whole number, got 'one'"),
    ((*RUN, "--set", "train.seed=-1"), "nyc_flights overrides: train.seed must be at least 0, got -1"),
    ((*RUN, "--set", "train.seed"), "--set: must be KEY=VALUE, got 'train.seed'"),
    ((*RUN, "--set", "name=x"), "nyc_flights overrides: name can't be overridden; change it in the pipeline's folder"),
    ((*RUN, "--trials", "0"), "nyc_flights overrides: train.trials must be at least 1, got 0"),
    (
        ("stage", "validate_raw", *RUN[1:], "--run-id", "r", "--input", "raw=x"),
        "--input raw: must be raw=KEY@DIGEST, got 'x'",
    ),
    (
        ("stage", "validate_raw", *RUN[1:], "--run-id", "r", "--input", "row=x@y"),
        "validate_raw: has no input 'row'; it takes raw",
    ),
    (
        ("stage", "validate_raw", *RUN[1:], "--run-id", "r"),
        "validate_raw: input 'raw' is missing; give the handle that its producer returned",
    ),
    (("check", "nope"), "PIPELINES: there is no pipeline 'nope'; there are: nyc_flights"),
    (("status", "nope"), "PIPELINES: there is no pipeline 'nope'; there are: nyc_flights"),
    (("models", "nope"), "PIPELINES: there is no pipeline 'nope'; there are: nyc_flights"),
    (("rollback", "nope", "--reason", "x"), "PIPELINES: there is no pipeline 'nope'; there are: nyc_flights"),
    (("serve", "nope"), "PIPELINES: there is no pipeline 'nope'; there are: nyc_flights"),
]


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=[m[1][:50] for m in MISTAKES])
def test_mistakes_end_with_2_and_a_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, argv: tuple[str, ...], message: str
) -> None:
    code, described, told = call(capsys, *argv)
    message = message.replace("PIPELINES", str(tmp_path / "pipelines"))
    assert code == 2
    assert described == {"error": "SpecError", "message": message, "exit_code": 2}
    assert f"SpecError: {message}\n" in told


def test_a_store_of_another_kind_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_STORE", "gs://bucket/x")
    code, described, _ = call(capsys, "status", "nyc_flights")
    assert code == 2
    wanted = "MLOPS_STORE: must be a folder or s3://bucket/prefix, got 'gs://bucket/x'; unset it for ./.mlops/store"
    assert described["message"] == wanted


@pytest.mark.parametrize("kind", [DataRejected, ModelRejected, StoreUnavailable, RegistryUnavailable, NothingToDo])
def test_each_error_ends_with_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: type[PipelineError]
) -> None:
    _command_raises(monkeypatch, kind("why"))
    code, described, told = call(capsys, "check")
    assert code == kind.exit_code == described["exit_code"]
    assert described == {"error": kind.__name__, "message": "why", "exit_code": kind.exit_code}
    assert told == f"{kind.__name__}: why\n"


def test_an_interruption_says_that_work_is_kept(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _command_raises(monkeypatch, KeyboardInterrupt())
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "interrupted; what was finished is kept\n"


def test_anything_else_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    _command_raises(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["check"])


def _command_raises(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_: object) -> None:
        raise error

    monkeypatch.setattr(importlib, "import_module", lambda _: type("Module", (), {"run": staticmethod(run)}))


def test_check_names_every_mistake_of_every_pipeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(tmp_path / "pipelines/nyc_flights", tmp_path / "pipelines" / name)
    code, described, _ = call(capsys, "check")
    assert code == 2
    assert described["message"].splitlines() == [
        "pipelines/one/pipeline.yaml: name must be 'one', the folder's name, got 'nyc_flights'",
        "pipelines/two/pipeline.yaml: name must be 'two', the folder's name, got 'nyc_flights'",
    ]


def test_check_tells_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, found, told = call(capsys, "check")
    assert (code, told) == (0, "")
    assert found["pipelines"]["nyc_flights"]["features"] == 22
    assert main(["check"]) == 0
    assert "nyc_flights" in capsys.readouterr().out


def test_status_and_models_of_a_new_pipeline_are_empty(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, status, _ = call(capsys, "status", "nyc_flights")
    assert code == 0
    assert status["windows"]["collect"] == {"count": 0, "first": None, "last": None}
    assert (status["champion"], status["drift"], status["performance"], status["runs"]) == (None, [], [], [])
    code, models, _ = call(capsys, "models", "nyc_flights")
    assert (code, models) == (0, {"model": "nyc_flights", "versions": [], "promotions": []})
    assert not (tmp_path / "store").exists(), "looking makes nothing"
    for command in ("status", "models"):
        assert main([command, "nyc_flights"]) == 0
        assert "nothing yet" in capsys.readouterr().out


def test_nothing_to_roll_back(capsys: pytest.CaptureFixture[str]) -> None:
    code, described, _ = call(capsys, "rollback", "nyc_flights", "--reason", "x")
    assert code == 4
    assert described["message"] == (
        "model nyc_flights: nothing serves yet, so there is nothing to roll back; `mlops run nyc_flights` makes a first model"
    )


@pytest.mark.parametrize(
    "argv",
    [[], ["fly"], ["run", "x"], ["run", "x", "--start", "a"], ["stage", "fit", "x"], [*RUN, "--recompute", "monitor"]],
    ids=" ".join,
)
def test_what_the_grammar_refuses_ends_with_2(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: mlops" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "run", "stage", "status", "serve", "models", "rollback", "spark"])
def test_help_has_examples(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert "examples:\n  " in shown
    assert "--json" in shown
