"""What is logged: lines as asked for, and never what a request held."""

from __future__ import annotations

import json
import logging
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from mlops_tasks.cli.arguments import read_time
from mlops_tasks.errors import SpecError
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.logs import logging_to_stderr, teller
from mlops_tasks.serving.slot import Slot

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a value of a request"
log = logging.getLogger("mlops_tasks.serving.tests")


def fail() -> None:
    try:
        float(SECRET)
    except ValueError as error:
        raise KeyError(SECRET) from error


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take pytest's own handlers away, which format records too, and what other tests' servers (Airflow's too) set."""
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    monkeypatch.setattr(logging, "_warnings_showwarning", None)  # as if nobody had captured warnings yet
    for name in ("uvicorn", "uvicorn.error", "py.warnings"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    yield
    root.handlers = kept


def test_records_and_errors_are_json_objects_without_what_errors_quote(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("json"):
        log.warning("two\nlines")
        try:
            fail()
        except KeyError:
            log.exception("request %s failed", "abc")
        logging.getLogger("uvicorn.error").error(
            "Exception in ASGI application\n", exc_info=SpecError("train.epochs: must be 1")
        )
        warnings.warn("an old way", UserWarning, stacklevel=1)
        teller("json", print)("serves")
    said = capsys.readouterr().err
    lines: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    assert [(line["level"], line["logger"]) for line in lines] == [
        ("warning", "mlops_tasks.serving.tests"),
        ("error", "mlops_tasks.serving.tests"),
        ("error", "uvicorn.error"),
        ("warning", "py.warnings"),
        ("info", "mlops.serve"),
    ]
    assert lines[0]["message"] == "two\nlines"
    assert lines[1]["message"] == "request abc failed"
    assert [error["type"] for error in lines[1]["errors"]] == ["KeyError", "ValueError"]
    place = lines[1]["errors"][0]["at"][-1]
    assert place.endswith(" fail")
    assert f"{__file__}:" in place
    assert lines[2]["errors"] == [{"type": "mlops_tasks.errors.SpecError", "message": "train.epochs: must be 1", "at": []}]
    assert SECRET not in said


def test_errors_are_shown_to_people_without_what_they_quote(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr("text"):
        try:
            fail()
        except KeyError:
            log.exception("request %s to %s failed", "abc", "/v2\nERROR forged")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "ERROR mlops_tasks.serving.tests: request abc to /v2\\nERROR forged failed"
    assert lines[1] == "KeyError"
    assert f"  {__file__}:" in lines[2]
    assert "ValueError" in lines
    assert SECRET not in "\n".join(lines)


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_crash_is_logged_in_the_same_way_and_ends_with_1(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    with pytest.raises(SystemExit) as ended, logging_to_stderr(log_format):
        fail()
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "the server crashed" in said
    assert "KeyError" in said
    assert SECRET not in said
    if log_format == "json":
        assert json.loads(said)["level"] == "critical"


def test_what_was_foreseen_goes_on_to_who_asked() -> None:
    with pytest.raises(SpecError, match="--start"), logging_to_stderr("json"):
        read_time("wrong", "--start")


def test_a_failing_request_is_logged_with_its_id_and_without_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    from starlette.testclient import TestClient  # noqa: PLC0415 - this alone needs it

    class Failing(Slot):
        def require(self, version: str | None = None) -> Any:
            del version
            raise ValueError(SECRET)

    client = TestClient(make_app(Parts(Failing("shop"))))
    with logging_to_stderr("json"):
        answer = client.post("/v2/models/shop/infer", json={}, headers={"x-request-id": "req-1"})
    assert (answer.status_code, SECRET in answer.text) == (500, False)
    said = capsys.readouterr().err
    line = json.loads(said)
    assert "req-1" in line["message"]
    assert line["errors"][0]["type"] == "ValueError"
    assert SECRET not in said
