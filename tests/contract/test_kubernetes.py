"""Rendered manifests against the API's own schemas, and against what the server really answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from mlops_tasks.cli import main
from mlops_tasks.cli.parser import build_parser
from mlops_tasks.errors import SpecError
from mlops_tasks.rendering.kubernetes import render_kserve, render_server
from mlops_tasks.rendering.options import KubernetesOptions
from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.slot import Slot
from tests.kserve_sdk.environment import run_with_kserve
from tests.served_pipeline import PIPELINE

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
VERSIONS = ("1.31", "1.34", kubernetes_validate.latest_version())
OPTIONS = KubernetesOptions(registry_uri="http://mlflow:5000", store="s3://bucket/prefix")
KINDS = {
    "ServiceAccount": 1,
    "ConfigMap": 2,
    "Service": 2,
    "Deployment": 1,
    "HorizontalPodAutoscaler": 1,
    "PodDisruptionBudget": 1,
    "NetworkPolicy": 1,
}


def of_kind(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def values(node: Any) -> Iterator[Any]:
    """Yield every value below a node."""
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from values(child)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_for_the_api_with_no_unknown_field(version: str) -> None:
    manifests = render_server(PIPELINE, OPTIONS)
    found = [manifest["kind"] for manifest in manifests]
    assert {kind: found.count(kind) for kind in found} == KINDS
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


@settings(deadline=None, max_examples=30)
@given(
    name=st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True),
    replicas=st.integers(1, 20),
    cpu=st.sampled_from(["500m", "1", "2.5"]),
    memory=st.sampled_from(["512Mi", "2Gi"]),
    tokens=st.booleans(),
    version=st.none() | st.integers(1, 999),
)
def test_any_pipeline_and_options_give_valid_objects(
    name: str, replicas: int, cpu: str, memory: str, *, tokens: bool, version: int | None
) -> None:
    options = KubernetesOptions(
        registry_uri="http://mlflow:5000",
        store="s3://bucket/prefix",
        replicas=replicas,
        max_replicas=replicas * 3,
        cpu=cpu,
        memory=memory,
        tokens=tokens,
        version=version,
    )
    manifests = render_server(PIPELINE.model_copy(update={"name": name}), options)
    for manifest in manifests:
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", manifest["metadata"]["name"])


def test_the_pieces_fit_together() -> None:
    manifests = render_server(PIPELINE, OPTIONS)
    deployment = of_kind(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"].items() <= labels.items()
    assert of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels.items()
    target = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"]
    assert target == of_kind(manifests, "Deployment")["metadata"]["name"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    maps = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ConfigMap"}
    asked = {node["configMapRef"]["name"] for node in values(container) if isinstance(node, dict) and "configMapRef" in node}
    assert asked <= maps
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["terminationGracePeriodSeconds"] > 40  # requests under way, then the rest of the request log


def test_the_container_starts_with_arguments_that_mlops_takes_and_probes_that_the_server_answers() -> None:
    manifests = render_server(PIPELINE, KubernetesOptions(registry_uri="http://m:1", store="s3://bucket/p", version=7))
    (container,) = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    args = build_parser().parse_args(container["args"])
    assert (args.command, args.name, args.version, args.port) == ("serve", "shop", 7, 8090)
    client = TestClient(make_app(Parts(Slot("shop"))))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        answer = client.get(container[probe]["httpGet"]["path"])
        assert answer.status_code == (503 if probe == "readinessProbe" else 200), probe


def test_every_variable_is_one_that_the_code_reads() -> None:
    manifests = render_server(PIPELINE, OPTIONS)
    (container,) = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    maps = [set(manifest["data"]) for manifest in manifests if manifest["kind"] == "ConfigMap"]
    names = {item["name"] for item in container["env"]} | {name for found in maps for name in found if name.isupper()}
    code = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "mlops_tasks").rglob("*.py") if "rendering" not in path.parts
    )
    assert "MLOPS_STORE" in names
    assert {name for name in names if name.startswith("MLOPS_") and f'"{name}"' not in code} == set()


def test_kserve_gets_one_pinned_version_of_the_same_image() -> None:
    options = KubernetesOptions(registry_uri="http://m:1", store="s3://bucket/p", version=7, canary_percent=10)
    service = of_kind(render_kserve(PIPELINE, options), "InferenceService")
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    predictor = service["spec"]["predictor"]
    assert predictor["canaryTrafficPercent"] == 10
    (container,) = predictor["containers"]
    assert build_parser().parse_args(container["args"]).version == 7
    assert container["image"] == options.image


def kserve_s_word(service: dict[str, Any]) -> list[str]:
    return run_with_kserve("check_manifest.py", given=json.dumps(service)).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"canary_percent": 10, "log_claim": "log", "otlp_endpoint": "http://otlp:4318"}])
def test_the_inference_service_has_only_what_kserve_s_own_types_have(more: dict[str, Any]) -> None:
    options = KubernetesOptions(registry_uri="http://m:1", store="s3://bucket/p", version=7, **more)
    service = of_kind(render_kserve(PIPELINE, options), "InferenceService")
    assert kserve_s_word(service) == [""]


@pytest.mark.slow
def test_kserve_s_own_types_find_what_is_wrong() -> None:
    options = KubernetesOptions(registry_uri="http://m:1", store="s3://bucket/p", version=7)
    service = of_kind(render_kserve(PIPELINE, options), "InferenceService")
    predictor = service["spec"]["predictor"]
    predictor |= {"canaryPercent": 10, "minReplicas": "2"}
    predictor["containers"][0]["ports"][0] |= {"containerPort": "http"}
    del predictor["volumes"][0]["name"]
    assert kserve_s_word(service) == [
        "InferenceService.spec.predictor.minReplicas: must be int, got '2'",
        "InferenceService.spec.predictor.containers.0.ports.0.containerPort: must be int, got 'http'",
        "InferenceService.spec.predictor.volumes.0: name is missing",
        "InferenceService.spec.predictor: V1beta1PredictorSpec has no field 'canaryPercent'",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registry_uri": "sqlite:///mlflow.db"}, "sqlite:///mlflow.db"),
        ({"namespace": "Not_Valid"}, "Not_Valid"),
        ({"cpu": "much"}, "much"),
        ({"memory": "0"}, "0"),
        ({"replicas": 0}, "0"),
        ({"store": ".mlops/store"}, ".mlops/store"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"registry_uri": "http://mlflow:5000", "store": "s3://bucket/prefix"} | change
    with pytest.raises(SpecError, match=re.escape(message)):
        render_server(PIPELINE, KubernetesOptions(**given))


def test_the_command_writes_yaml_without_any_secret_and_the_same_every_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLOPS_PIPELINES", str(ROOT / "dags" / "pipelines"))
    monkeypatch.setenv("MLOPS_HASH_KEY", "a-secret-that-nobody-may-see")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-that-nobody-may-see")
    command = ["render", "kubernetes", "nyc_flights", "--registry-uri", "http://mlflow:5000", "--store", "s3://bucket/prefix"]
    texts = []
    for _ in range(2):
        assert main(command) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "nobody-may-see" not in texts[0]
    documents = list(yaml.safe_load_all(texts[0]))
    assert len(documents) == sum(KINDS.values())
    files = next(d for d in documents if d["kind"] == "ConfigMap" and "pipeline.yaml" in d["data"])
    assert files["data"]["pipeline.yaml"] == (ROOT / "dags/pipelines/nyc_flights/pipeline.yaml").read_text(encoding="utf-8")
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["manifests"] == documents
