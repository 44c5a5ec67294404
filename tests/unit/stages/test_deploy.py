from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.errors import ChampionMoved, ModelRejected
from mlops_tasks.specs import DeploySpec
from mlops_tasks.stages import deploy
from tests.fakes import NOW, FakeProgress, FakeRegistry, make_ports, make_run
from tests.judged_models import SCHEMA, make_verdict, write_beside

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Candidate, Deployment, Intent
    from mlops_tasks.ports import Ports


@pytest.fixture
def ports(tmp_path: Path) -> Ports:
    return make_ports(tmp_path)


def deploy_days(
    ports: Ports, days: int, *, intent: Intent = "manual", spec: DeploySpec | None = None, bias: float = 0.0
) -> Deployment:
    verdict = make_verdict(ports.store, days=days, bias=bias, against=ports.registry)
    return deploy.run(spec or DeploySpec(), verdict, ports=replace(ports, run=make_run(intent=intent)))


def champion(ports: Ports) -> int | None:
    return ports.registry.alias("shop", "champion")


def test_first_model_becomes_champion_with_its_record(ports: Ports) -> None:
    deployment = deploy_days(ports, 30)
    assert (deployment.version, deployment.alias, champion(ports)) == (1, "champion", 1)
    assert deployment.feature_schema == SCHEMA
    assert ports.registry.deployment("shop", 1) == deployment
    assert {ref.key.rsplit("/", 1)[-1] for ref in deployment.files} >= {"model.onnx", "signature.json", "golden.json"}
    assert all(ports.store.verify(ref) for ref in deployment.files)
    assert isinstance(ports.progress, FakeProgress)
    assert ports.progress.notes == ["shop version 1: champion: the first model"]


def test_again_gives_the_same_deployment_and_no_second_entry(ports: Ports) -> None:
    first = deploy_days(ports, 30)
    assert deploy_days(ports, 30) == first
    assert len(ports.registry.history("shop")) == 1
    assert len(ports.registry.versions("shop")) == 1


def test_digest_does_not_depend_on_time_or_run(tmp_path: Path) -> None:
    digests = []
    for at, day in enumerate((0, 5)):
        ports = make_ports(tmp_path / str(at), run=replace(make_run(now=NOW + timedelta(days=day)), run_id=f"run-{at}"))
        digests.append(deploy.run(DeploySpec(), make_verdict(ports.store), ports=ports).digest)
    assert digests[0] == digests[1]


def test_refuses_a_verdict_that_did_not_pass_and_names_each_rule(ports: Ports) -> None:
    verdict = make_verdict(ports.store, failed={"roc_auc": "0.55 is below 0.6", "slice origin=EWR": "0.5 is below 0.55"})
    with pytest.raises(ModelRejected) as caught:
        deploy.run(DeploySpec(), verdict, ports=ports)
    assert str(caught.value) == (
        "evaluate: the model of [2029-01-01T00:00, 2029-01-31T00:00) did not pass its gate: roc_auc: 0.55 is below 0.6; "
        "slice origin=EWR: 0.5 is below 0.55; nothing was registered and what serves now stays: "
        "train on more or other data, or change evaluate.gates"
    )
    assert ports.registry.versions("shop") == []


def test_refuses_a_model_that_does_not_repeat_its_golden_rows(ports: Ports) -> None:
    with pytest.raises(ModelRejected, match=r"golden row \d differs by 0.001, allowed is 1e-05; export or train it again"):
        deploy.run(DeploySpec(), make_verdict(ports.store, golden_error=1e-3), ports=ports)
    assert ports.registry.versions("shop") == []


def test_tolerance_of_the_golden_rows_is_a_knob(ports: Ports) -> None:
    deployment = deploy.run(DeploySpec(tolerance=1e-2), make_verdict(ports.store, golden_error=1e-3), ports=ports)
    assert deployment.version == 1


def test_refuses_when_the_registry_gives_out_another_model(tmp_path: Path) -> None:
    class Confused(FakeRegistry):
        def fetch(self, name: str, version: int, target: Path) -> Path:
            folder = super().fetch(name, version, target)
            (folder / "model.onnx").write_bytes(b"another")
            return folder

    ports = make_ports(tmp_path, registry=Confused())
    with pytest.raises(ModelRejected, match=r"shop version 1: the registry's model.onnx is not the one judged"):
        deploy_days(ports, 30)
    assert champion(ports) is None


def test_weights_beside_the_graph_are_deployed_and_proven_with_it(tmp_path: Path) -> None:
    class Confused(FakeRegistry):
        def fetch(self, name: str, version: int, target: Path) -> Path:
            folder = super().fetch(name, version, target)
            if version == 2:
                (folder / "model.onnx.data").write_bytes(b"another")
            return folder

    ports = make_ports(tmp_path, registry=Confused())
    verdict = make_verdict(ports.store, write=write_beside)
    deployment = deploy.run(DeploySpec(), verdict, ports=ports)
    assert ports.store.verify(deployment.file("model.onnx.data"))
    assert (ports.registry.fetch("shop", 1, tmp_path / "fetched") / "model.onnx.data").is_file()
    with pytest.raises(ModelRejected, match=r"version 2: the registry's model.onnx.data is not the one judged"):
        deploy.run(DeploySpec(), verdict.model_copy(update={"candidate": later(verdict.candidate)}), ports=ports)
    others = [ref for ref in verdict.candidate.files if not ref.key.endswith(".data")]
    incomplete = later(verdict.candidate).model_copy(update={"files": tuple(others)})
    with pytest.raises(ModelRejected, match="does not load"):
        deploy.run(DeploySpec(), verdict.model_copy(update={"candidate": incomplete}), ports=ports)


def later(candidate: Candidate) -> Candidate:
    """Return a candidate as of another training."""
    return candidate.model_copy(update={"fingerprint": "later"})


def test_later_training_replaces_the_champion_earlier_becomes_challenger(ports: Ports) -> None:
    deploy_days(ports, 30)
    assert deploy_days(ports, 60).alias == "champion"
    late = deploy_days(ports, 45)
    assert (late.alias, champion(ports), ports.registry.alias("shop", "challenger")) == ("challenger", 2, 3)


@pytest.mark.parametrize("intent", ["backfill", "reproduce"])
def test_backfill_and_reproduce_register_and_never_promote(ports: Ports, intent: Intent) -> None:
    deployment = deploy_days(ports, 30, intent=intent)
    assert (deployment.version, deployment.alias) == (1, "none")
    assert (champion(ports), ports.registry.history("shop")) == (None, [])


def test_a_backfilled_model_is_promoted_when_a_person_runs_it(ports: Ports) -> None:
    deploy_days(ports, 30, intent="backfill")
    assert deploy_days(ports, 30).alias == "champion"
    assert len(ports.registry.versions("shop")) == 1


@pytest.mark.parametrize("wish", ["ask", "never"])
def test_without_auto_it_becomes_challenger(ports: Ports, wish: str) -> None:
    deployment = deploy_days(ports, 30, spec=DeploySpec.model_validate({"promote": wish}))
    assert (deployment.alias, champion(ports)) == ("challenger", None)
    assert ports.registry.history("shop")[0]["reason"] == f"promote is {wish}: a person decides; manual"


def test_a_champion_that_it_was_not_judged_against_is_not_replaced(ports: Ports) -> None:
    early = make_verdict(ports.store, days=60, bias=0.6)  # judged when there was no champion
    deploy_days(ports, 30)
    with pytest.raises(ChampionMoved) as caught:
        deploy.run(DeploySpec(), early, ports=ports)
    assert str(caught.value) == (
        "model shop: version 2 was judged against no champion, but version 1 is champion now; run evaluate and deploy again"
    )
    assert champion(ports) == 1
    again = early.model_copy(update={"champion_version": 1})
    assert deploy.run(DeploySpec(), again, ports=ports).alias == "champion"


def test_who_may_not_become_champion_need_not_be_judged_again(ports: Ports) -> None:
    early = make_verdict(ports.store, days=60, bias=0.6)
    deploy_days(ports, 30)
    backfill = replace(ports, run=make_run(intent="backfill"))
    assert deploy.run(DeploySpec(), early, ports=backfill).alias == "none"


def test_when_another_run_moves_the_alias_meanwhile_it_decides_anew(tmp_path: Path) -> None:
    class Raced(FakeRegistry):
        rival = True

        def promote(self, name: str, alias: str, version: int, *, expected: int | None, reason: str, who: str) -> None:
            if self.rival:
                self.rival = False
                super().promote(name, "champion", 1, expected=None, reason="rival", who="rival")
            super().promote(name, alias, version, expected=expected, reason=reason, who=who)

    registry = Raced()
    ports = make_ports(tmp_path, registry=registry)
    deploy_days(ports, 90, intent="backfill")
    deployment = deploy_days(ports, 30)
    assert (deployment.alias, champion(ports)) == ("challenger", 1)
    assert registry.deployment("shop", 2).alias == "challenger"
