from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mlops_retention import RemoveOldAnswers
from mlops_tasks.errors import NothingToDo, SpecError, StoreUnavailable
from mlops_tasks.runner import erasing
from tests.served_pipeline import PIPELINE


def execute(monkeypatch: pytest.MonkeyPatch, answer: Any) -> Any:
    def retain(name: str, **_: Any) -> Any:
        assert name == "shop"
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(erasing, "retain", retain)
    return RemoveOldAnswers(task_id="remove_old_answers", pipeline=PIPELINE).execute({})


def test_what_was_removed_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    removed = {"pipeline": "shop", "files": 2, "days": ["2030-01-01"]}
    assert execute(monkeypatch, removed) == removed


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (NothingToDo("no day"), AirflowSkipException),
        (SpecError("no such pipeline"), AirflowFailException),
        (StoreUnavailable("away"), StoreUnavailable),
    ],
)
def test_what_goes_wrong_ends_the_task_as_it_should(
    monkeypatch: pytest.MonkeyPatch, error: Exception, end: type[Exception]
) -> None:
    with pytest.raises(end, match=str(error)):
        execute(monkeypatch, error)
