"""A try handed over through the store and its answer: one folder each, later ones fence earlier ones off."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_tasks.cli import main
from mlops_tasks.errors import DataRejected, SpecError, StoreUnavailable, Superseded
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner import Handle, Invocation, Outcome, Runner, assignment
from mlops_tasks.runner.assignment import assign, perform, read_answer, tries
from mlops_tasks.wiring import Adapters

SPEC = load_pipeline("nyc_flights", Path(__file__).parents[2] / "dags" / "pipelines")
NOW = datetime(2014, 1, 1, tzinfo=UTC)
INVOCATION = Invocation(
    stage="train",
    pipeline="nyc_flights",
    run_id="train-manual__2014-01-01T00:00:00+00:00",
    intent="manual",
    start=datetime(2013, 1, 1, tzinfo=UTC),
    end=datetime(2013, 7, 1, tzinfo=UTC),
    overrides={"train.max_epochs": 2},
    now=NOW,
)
OUTCOME = Outcome(handle=Handle(uri="k", digest="d"), cached=0, computed=1, note="n", facts={"rows": 3})
FOLDER = "nyc_flights/tries/train-manual__2014-01-01T00_00_00_00_00/train/"


@pytest.fixture
def adapters(tmp_path: Path) -> Adapters:
    return Adapters({"MLOPS_STORE": str(tmp_path / "store")})


@pytest.fixture
def works(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Runner], Any]], None]:
    """Put something in the place of all stages' work."""

    def replace(work: Callable[[Runner], Any]) -> None:
        monkeypatch.setattr(Runner, "invoke", lambda self, invocation: work(self))  # noqa: ARG005 - the method's signature

    return replace


def later(seconds: float) -> Invocation:
    return INVOCATION.model_copy(update={"now": NOW + timedelta(seconds=seconds)})


def test_a_try_gets_the_whole_spec_overrides_applied_and_answers(adapters: Adapters, works: Any) -> None:
    seen: list[Any] = []

    def work(runner: Runner) -> Outcome:
        seen.append(runner.pipeline)
        return OUTCOME

    works(work)
    key = assign(adapters.store, INVOCATION, SPEC, 3)
    assert key == f"{FOLDER}0003/assignment.json"
    assert read_answer(adapters.store, key) is None
    assert perform(key, adapters) == OUTCOME
    assert read_answer(adapters.store, key) == OUTCOME
    assert seen[0].train.max_epochs == 2
    assert seen[0].collect == SPEC.collect


def test_the_command_leaves_its_log_to_the_stage(
    adapters: Adapters, works: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    works(lambda _: OUTCOME)
    monkeypatch.setenv("MLOPS_STORE", adapters.environ["MLOPS_STORE"])
    key = assign(adapters.store, INVOCATION, SPEC)
    assert main(["perform", key]) == 0
    assert capsys.readouterr().out == ""
    assert main(["perform", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["handle"] == {"uri": "k", "digest": "d"}


@pytest.mark.parametrize("kind", [DataRejected, StoreUnavailable])
def test_an_anticipated_error_is_answered_and_raised_again(adapters: Adapters, works: Any, kind: type[Exception]) -> None:
    def work(_: Runner) -> Outcome:
        msg = "window 2013-01-01: no"
        raise kind(msg)

    works(work)
    key = assign(adapters.store, INVOCATION, SPEC)
    with pytest.raises(kind):
        perform(key, adapters)
    with pytest.raises(kind, match="window 2013-01-01: no"):
        read_answer(adapters.store, key)


def test_a_bug_answers_nothing(adapters: Adapters, works: Any) -> None:
    def work(_: Runner) -> Outcome:
        raise ZeroDivisionError

    works(work)
    key = assign(adapters.store, INVOCATION, SPEC)
    with pytest.raises(ZeroDivisionError):
        perform(key, adapters)
    assert read_answer(adapters.store, key) is None


def test_no_folder_is_used_twice(adapters: Adapters, works: Any) -> None:
    """A run that was deleted and made again has tries of the same numbers, and must not find their answers."""
    works(lambda _: OUTCOME)
    first = assign(adapters.store, INVOCATION, SPEC, 1)
    perform(first, adapters)
    again = assign(adapters.store, later(86_400), SPEC, 1)
    assert again == f"{FOLDER}0002/assignment.json"
    assert read_answer(adapters.store, again) is None


def test_a_zombie_publishes_and_answers_nothing(adapters: Adapters, works: Any) -> None:
    store = adapters.store
    old = assign(store, INVOCATION, SPEC)

    def work(runner: Runner) -> Outcome:
        assign(store, later(60), SPEC, 2)  # meanwhile
        runner.adapters.store.write("nyc_flights/runs/r/train.json", b"stale")
        return OUTCOME

    works(work)
    with pytest.raises(Superseded):
        perform(old, adapters)
    assert not store.exists("nyc_flights/runs/r/train.json")
    assert read_answer(store, old) is None


def test_a_zombie_that_changed_nothing_answers_nothing_either(adapters: Adapters, works: Any) -> None:
    store = adapters.store
    old = assign(store, INVOCATION, SPEC)

    def work(_: Runner) -> Outcome:
        assign(store, later(60), SPEC, 2)
        return OUTCOME

    works(work)
    with pytest.raises(Superseded):
        perform(old, adapters)
    assert read_answer(store, old) is None


def test_a_task_that_was_given_up_assigns_nothing(adapters: Adapters) -> None:
    assign(adapters.store, later(60), SPEC, 1)
    with pytest.raises(Superseded, match="superseded by try 1, which started at 2014-01-01T00:01:00Z; it does nothing"):
        assign(adapters.store, INVOCATION, SPEC, 1)


def test_of_two_that_assign_at_once_each_gets_a_folder(adapters: Adapters, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = iter([set[int](), set[int](), {1}])  # neither of the two sees what the other wrote
    monkeypatch.setattr(assignment, "numbers", lambda *_: next(seen))
    keys = [assign(adapters.store, later(n), SPEC) for n in (0, 1)]
    assert keys == [f"{FOLDER}0001/assignment.json", f"{FOLDER}0002/assignment.json"]


def test_other_code_is_refused_even_where_its_assignments_look_different(adapters: Adapters, works: Any) -> None:
    works(lambda _: OUTCOME)
    key = assign(adapters.store, INVOCATION, SPEC)
    plain = json.loads(adapters.store.read(key)) | {"code": "f" * 64, "new_field": 1}
    adapters.store.write(key, json.dumps(plain).encode())
    with pytest.raises(SpecError, match=r"image: it holds the package.s code \w{12}, the scheduler has f{12}; build"):
        perform(key, adapters)
    with pytest.raises(SpecError, match="build the images anew"):
        read_answer(adapters.store, key)


def test_a_missing_assignment_asks_for_the_store(adapters: Adapters) -> None:
    with pytest.raises(SpecError, match=r"there is no assignment a/assignment\.json; is MLOPS_STORE the scheduler's\?"):
        perform("a/assignment.json", adapters)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"{}", "is no answer of this version's"),
        (b"{}garbage", "is no answer of this version's"),
        (b'{"failure": {"error": "annotations", "message": "m"}}', "names the unknown error 'annotations'"),
    ],
)
def test_an_answer_that_makes_no_sense_is_named(adapters: Adapters, answer: bytes, message: str) -> None:
    adapters.store.write("a/answer.json", answer)
    with pytest.raises(SpecError, match=message):
        read_answer(adapters.store, "a/assignment.json")


def test_tries_of_a_run_lie_apart_from_other_stages(adapters: Adapters) -> None:
    assign(adapters.store, later(60), SPEC)
    other = INVOCATION.model_copy(update={"stage": "evaluate"})
    assert assign(adapters.store, other, SPEC).endswith("/evaluate/0001/assignment.json")
    assert tries(other) != tries(INVOCATION)
