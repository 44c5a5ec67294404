"""A pipeline's server as Kubernetes objects: plain ones, or KServe's InferenceService of one version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from mlops_tasks.errors import SpecError
from mlops_tasks.rendering import pod
from mlops_tasks.rendering.options import object_name

if TYPE_CHECKING:
    from mlops_tasks.rendering.options import KubernetesOptions
    from mlops_tasks.specs import PipelineSpec

Manifest = dict[str, Any]
CPU_PERCENT = 60
"""Of what is requested, on average: the rest is for the half minute until another pod is there."""


SECRETS = (
    "MLOPS_HASH_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
"""Variables that a Secret may give a server."""


def render_server(pipeline: PipelineSpec, options: KubernetesOptions) -> list[Manifest]:
    """Return the objects of a server that follows the registry, or serves `options.version`, in the order to create them."""
    if options.canary_percent is not None:
        msg = "--canary-percent: is KServe's; add --kserve, or set serve.challenger in pipeline.yaml"
        raise SpecError(msg)
    return [
        *_shared(pipeline, options),
        _service(pipeline, options, headless=False),
        _service(pipeline, options, headless=True),
        _deployment(pipeline, options),
        _autoscaler(pipeline, options),
        _budget(pipeline, options),
        _network_policy(pipeline, options),
    ]


def render_kserve(pipeline: PipelineSpec, options: KubernetesOptions) -> list[Manifest]:
    """Return an InferenceService of one version, which never changes under it: another one is KServe's to roll out.

    Raises:
        SpecError: no version is given.

    """
    if options.version is None:
        msg = f"{pipeline.name}: KServe rolls out versions, so one must be given; add --version N"
        raise SpecError(msg)
    canary = {} if options.canary_percent is None else {"canaryTrafficPercent": options.canary_percent}
    predictor = {
        "minReplicas": options.replicas,
        "maxReplicas": options.max_replicas,
        **canary,
        "annotations": pod.pod_annotations(options),
        "labels": pod.labels(pipeline.name, options.version),
        "serviceAccountName": object_name(pipeline.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [pod.container(pipeline, options, "kserve-container")],
        "volumes": pod.volumes(pipeline, options),
    }
    return [
        *_shared(pipeline, options),
        _object("serving.kserve.io/v1beta1", "InferenceService", pipeline, options, spec={"predictor": predictor}),
    ]


def notes(pipeline: PipelineSpec, options: KubernetesOptions) -> list[str]:
    """Return what is left to do by hand: secrets, which are never written here."""
    own, at = object_name(pipeline.name), f"--namespace {options.namespace}"
    lines = [
        "Secrets are made by hand; their values stand nowhere else. What is not needed is left out:",
        f"  kubectl create secret generic {own}-env {at} {' '.join(f'--from-literal={name}=...' for name in SECRETS)}",
    ]
    if options.tokens:
        lines += [
            "Tokens, one `<role> <token>` a line with the roles predict, admin and metrics; pods wait for this Secret:",
            f"  kubectl create secret generic {own}-tokens {at} --from-file={pod.TOKENS_KEY}=FILE",
        ]
    if options.version is None:
        lines += [
            "So that a deployment reaches every pod, set where the stage deploy runs:",
            f"  MLOPS_SERVERS=http://{own}-pods.{options.namespace}.svc:{pod.PORT}",
        ]
    return lines


def to_yaml(manifests: list[Manifest], said: list[str]) -> str:
    """Write manifests as one YAML stream below the notes; equal manifests give equal text."""
    head = "".join(f"# {line}\n" for line in said)
    documents = (yaml.dump(one, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120) for one in manifests)
    return head + "".join(f"---\n{text}" for text in documents)


class _Dumper(yaml.SafeDumper):
    """YAML without anchors, with texts of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:
        """Write equal parts out."""
        del data
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _object(
    api: str, kind: str, pipeline: PipelineSpec, options: KubernetesOptions, *, suffix: str = "", **body: Any
) -> Manifest:
    metadata = {
        "name": object_name(pipeline.name) + suffix,
        "namespace": options.namespace,
        "labels": pod.labels(pipeline.name, options.version),
    }
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}


def _shared(pipeline: PipelineSpec, options: KubernetesOptions) -> list[Manifest]:
    return [
        _object("v1", "ServiceAccount", pipeline, options, automountServiceAccountToken=False),
        _object("v1", "ConfigMap", pipeline, options, suffix="-pipeline", data=dict(sorted(options.files.items()))),
        _object("v1", "ConfigMap", pipeline, options, suffix="-env", data=options.environment()),
    ]


def _service(pipeline: PipelineSpec, options: KubernetesOptions, *, headless: bool) -> Manifest:
    """Return the service for clients, or the headless one whose name has every pod's address, for a deployment to tell each."""
    kind: dict[str, Any] = {"clusterIP": "None", "publishNotReadyAddresses": True} if headless else {"type": "ClusterIP"}
    ports = [{"name": "http", "port": pod.PORT, "targetPort": "http", "protocol": "TCP"}]
    spec = {**kind, "selector": pod.selector(pipeline.name), "ports": ports}
    return _object("v1", "Service", pipeline, options, suffix="-pods" if headless else "", spec=spec)


def _deployment(pipeline: PipelineSpec, options: KubernetesOptions) -> Manifest:
    """Return the deployment; it says no `replicas`, which are the autoscaler's and would be set back by each `apply`."""
    chosen = {"matchLabels": pod.selector(pipeline.name)}
    server = pod.container(pipeline, options, "serve") | {
        "startupProbe": pod.startup_probe(),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(pod.NOTICE_S)]}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": chosen,
    }
    template = {
        "metadata": {"labels": pod.labels(pipeline.name, options.version), "annotations": pod.pod_annotations(options)},
        "spec": {
            "serviceAccountName": object_name(pipeline.name),
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": pod.GRACE_S,
            "securityContext": {"fsGroup": pod.USER, "runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "topologySpreadConstraints": [spread],
            "containers": [server],
            "volumes": pod.volumes(pipeline, options),
        },
    }
    spec = {
        "selector": chosen,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
        "template": template,
    }
    return _object("apps/v1", "Deployment", pipeline, options, spec=spec)


def _autoscaler(pipeline: PipelineSpec, options: KubernetesOptions) -> Manifest:
    slowly = {"stabilizationWindowSeconds": 300, "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}]}
    target = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": object_name(pipeline.name)},
        "minReplicas": options.replicas,
        "maxReplicas": options.max_replicas,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {"scaleDown": slowly},
    }
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", pipeline, options, spec=spec)


def _budget(pipeline: PipelineSpec, options: KubernetesOptions) -> Manifest:
    """Return the budget by what may be away: by what must stay, a single replica would keep a node from ever being drained."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": pod.selector(pipeline.name)}}
    return _object("policy/v1", "PodDisruptionBudget", pipeline, options, spec=spec)


def _network_policy(pipeline: PipelineSpec, options: KubernetesOptions) -> Manifest:
    """Allow requests to the port; from the pod names' resolution, registry, store and collector alone."""
    called = [{"port": port, "protocol": "TCP"} for port in options.ports_called()]
    spec = {
        "podSelector": {"matchLabels": pod.selector(pipeline.name)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"ports": [{"port": "http", "protocol": "TCP"}]}],
        "egress": [{"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}, {"ports": called}],
    }
    return _object("networking.k8s.io/v1", "NetworkPolicy", pipeline, options, spec=spec)
