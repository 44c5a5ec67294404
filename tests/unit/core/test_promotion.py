from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_tasks.artifacts import Intent
from mlops_tasks.core.promotion import (
    Promote,
    Standing,
    champion_before,
    decide,
    has_failed_trial,
    is_withdrawn,
    promote,
    roll_back,
)
from mlops_tasks.errors import ModelRejected
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import FakeRegistry, make_ports, make_run
from tests.judged_models import make_verdict

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.ports import Ports

ROLLED_BACK = "was rolled back from; only `mlops rollback --to` brings it back"
NOT_LATER = "its training does not end after that of version 1, the champion"
ASKED = "promote is ask: a person decides"
START = datetime(2029, 1, 1, tzinfo=UTC)


def standing(version: int, day: int) -> Standing:
    return Standing(version, START + timedelta(days=day))


def play(runs: list[tuple[int, Intent, Promote]], order: tuple[int, ...]) -> tuple[int | None, int | None]:
    """Let runs finish in an order; return the training day of champion and challenger."""
    held: dict[str, Standing | None] = {"champion": None, "challenger": None}
    for version, at in enumerate(order, start=1):
        day, intent, wish = runs[at]
        candidate = standing(version, day)
        decision = decide(candidate, held["champion"], held["challenger"], intent=intent, promote=wish)
        if decision.alias != "none":
            held[decision.alias] = candidate
    days = [None if item is None else (item.training_end - START).days for item in held.values()]
    return days[0], days[1]


runs = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(get_args(Intent)), st.sampled_from(["auto", "ask", "never"])),
    min_size=1,
    max_size=5,
)


@given(runs)
def test_the_champion_is_the_same_in_every_completion_order(runs: list[tuple[int, Intent, Promote]]) -> None:
    promotable = [day for day, intent, wish in runs if intent not in {"backfill", "reproduce"} and wish == "auto"]
    champions = {play(runs, order)[0] for order in itertools.permutations(range(len(runs)))}
    assert champions == {max(promotable, default=None)}


@given(runs)
def test_a_backfill_or_reproduction_changes_nothing_in_any_order(runs: list[tuple[int, Intent, Promote]]) -> None:
    without = [run for run in runs if run[1] not in {"backfill", "reproduce"}]
    expected = play(without, tuple(range(len(without)))) if without else (None, None)
    assert play(sorted(runs, key=lambda run: run[1] in {"backfill", "reproduce"}), tuple(range(len(runs)))) == expected


def test_every_decision_says_why() -> None:
    day30 = standing(1, 30)
    day60, later = standing(2, 60), standing(9, 90)
    cases: list[tuple[Standing, Standing | None, Standing | None, Intent, Promote, bool, str, str]] = [
        (day60, day30, None, "drift", "auto", False, "champion", "its training ends after version 1's"),
        (day30, day30, None, "backfill", "never", False, "champion", "is the champion already"),
        (day60, None, None, "backfill", "auto", False, "none", "a backfill registers a model and never promotes it"),
        (day60, day30, None, "manual", "auto", True, "none", ROLLED_BACK),
        (standing(2, 30), day30, None, "manual", "auto", False, "challenger", NOT_LATER),
        (day60, day30, later, "manual", "ask", False, "none", f"{ASKED}, and the challenger's training ends later"),
        (day60, day30, None, "manual", "ask", False, "challenger", ASKED),
    ]
    for candidate, champion, challenger, intent, wish, withdrawn, alias, reason in cases:
        decision = decide(candidate, champion, challenger, intent=intent, promote=wish, withdrawn=withdrawn)
        assert (decision.alias, decision.reason) == (alias, reason)


def test_where_models_are_tried_one_trained_on_as_much_is_tried_and_one_on_less_is_not() -> None:
    champion = standing(1, 30)
    for day, alias, reason in (
        (60, "challenger", "is tried on live traffic beside version 1, the champion"),
        (30, "challenger", "is tried on live traffic beside version 1, the champion"),
        (29, "none", "version 1, the champion, is trained on newer data: it is not tried"),
    ):
        for wish in ("auto", "ask"):
            decision = decide(standing(2, day), champion, None, intent="manual", promote=wish, trial=True)
            assert decision.alias == alias
            assert wish == "ask" or decision.reason == reason
    failed = decide(standing(2, 60), champion, None, intent="scheduled", promote="auto", failed_trial=True, trial=True)
    assert (failed.alias, failed.reason[:29]) == ("none", "was withdrawn from its trial;")


def entry(source: int | None, target: int, reason: str = "", alias: str = "champion") -> dict[str, str]:
    return {"alias": alias, "from": str(source or ""), "to": str(target), "reason": reason, "at": "", "who": ""}


def test_champion_before_goes_down_the_stack() -> None:
    ledger = [entry(None, 1), entry(1, 2), entry(2, 3), entry(None, 9, alias="challenger")]
    assert champion_before(ledger, 3) == 2
    back = [*ledger, entry(3, 2, "rollback: bad")]
    assert champion_before(back, 2) == 1
    assert champion_before([*back, entry(2, 1, "rollback: bad")], 1) is None
    assert champion_before([*back, entry(2, 4)], 4) == 2


def test_a_version_is_withdrawn_until_it_is_champion_again() -> None:
    ledger = [entry(None, 1), entry(1, 2), entry(2, 1, "rollback: bad")]
    assert is_withdrawn(ledger, 2)
    assert not is_withdrawn(ledger, 1)
    assert not is_withdrawn([*ledger, entry(1, 2, "rollback: it was the data")], 2)


def test_a_trial_has_failed_until_the_version_is_tried_or_promoted_again() -> None:
    begun = [entry(None, 1), entry(None, 2, alias="challenger")]
    withdrawn = {**entry(2, 0, "rollout: too slow", alias="challenger"), "to": ""}
    promoted = {**entry(2, 0, "promoted; rollout: good", alias="challenger"), "to": ""}
    assert not has_failed_trial(begun, 2)
    assert has_failed_trial([*begun, withdrawn], 2)
    assert not has_failed_trial([*begun, withdrawn], 1)
    assert not has_failed_trial([*begun, withdrawn, entry(None, 2, alias="challenger")], 2)
    assert not has_failed_trial([*begun, withdrawn, entry(1, 2, "rollback: by hand")], 2)
    assert not has_failed_trial([*begun, promoted], 2)
    assert not has_failed_trial([*begun, entry(2, 3, "rollout: no", alias="challenger")], 2), "a newer one took its place"


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    """Two champions in turn: version 1 of 30 days, version 2 of 60."""
    ports = make_ports(tmp_path)
    for days in (30, 60):
        deploy.run(DeploySpec(), make_verdict(ports.store, days=days, against=ports.registry), ports=ports)
    return ports


def test_rollback_goes_to_the_champion_before_and_writes_the_ledger(ports: Ports) -> None:
    deployment = roll_back(ports.registry, "shop", reason="too many complaints", who="ann")
    assert (deployment.version, ports.registry.alias("shop", "champion")) == (1, 1)
    last = ports.registry.history("shop")[-1]
    assert (last["from"], last["to"], last["reason"], last["who"]) == ("2", "1", "rollback: too many complaints", "ann")


def test_a_rolled_back_model_is_not_promoted_by_the_next_run_of_it(ports: Ports) -> None:
    roll_back(ports.registry, "shop", reason="bad", who="ann")
    again = deploy.run(DeploySpec(), make_verdict(ports.store, days=60), ports=replace(ports, run=make_run(intent="scheduled")))
    assert (again.version, again.alias, ports.registry.alias("shop", "champion")) == (2, "none", 1)
    newer = deploy.run(DeploySpec(), make_verdict(ports.store, days=61, against=ports.registry), ports=ports)
    assert newer.alias == "champion"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (2, "model shop: version 2 is the champion already; `mlops models shop` lists the others"),
        (7, "model shop: there is no deployed version 7; `mlops models shop` lists what there is"),
    ],
)
def test_rollback_refuses_a_target_that_is_none(ports: Ports, to: int, message: str) -> None:
    with pytest.raises(ModelRejected) as caught:
        roll_back(ports.registry, "shop", to, reason="", who="ann")
    assert str(caught.value) == message
    assert ports.registry.alias("shop", "champion") == 2


def test_rollback_refuses_when_nothing_served_before(ports: Ports) -> None:
    roll_back(ports.registry, "shop", reason="", who="ann")
    with pytest.raises(ModelRejected, match="version 1 is the first champion; name another with --to"):
        roll_back(ports.registry, "shop", reason="", who="ann")


def test_rollback_loads_its_target_before_it_moves_anything(ports: Ports) -> None:
    assert isinstance(ports.registry, FakeRegistry)
    ports.registry.files["shop", 1]["model.onnx"] = b"truncated"
    with pytest.raises(ModelRejected, match="model shop version 1 does not load"):
        roll_back(ports.registry, "shop", reason="", who="ann")
    assert ports.registry.alias("shop", "champion") == 2


def test_a_person_promotes_a_challenger_and_that_withdraws_nothing(ports: Ports) -> None:
    deploy.run(DeploySpec(promote="ask"), make_verdict(ports.store, days=45), ports=ports)
    assert ports.registry.deployment("shop", 3).alias == "challenger"
    deployment = promote(ports.registry, "shop", 3, reason="approved", who="ann")
    assert (deployment.alias, ports.registry.alias("shop", "champion")) == ("champion", 3)
    assert ports.registry.deployment("shop", 3) == deployment
    assert promote(ports.registry, "shop", 3, reason="approved again", who="ann") == deployment
    history = ports.registry.history("shop")
    assert (history[-1]["reason"], history[-1]["who"]) == ("approved", "ann")
    assert not is_withdrawn(history, 2)
