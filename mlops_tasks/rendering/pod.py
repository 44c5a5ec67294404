"""The pod of a server: its container, what it mounts and how it ends. Deployment and KServe share it."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlops_tasks.rendering.options import object_name

if TYPE_CHECKING:
    from mlops_tasks.rendering.options import KubernetesOptions
    from mlops_tasks.specs import PipelineSpec

PORT = 8090
USER = 10001
"""Of the image."""
NOTICE_S = 10
"""Between a pod's removal from the endpoints and its SIGTERM, so that every node knows it is gone."""
GRACE_S = 75
"""NOTICE_S, 20 s for requests under way, 20 s to ship the log, and a third more."""
PIPELINES, TOKENS, STATE = "/etc/mlops/pipelines", "/etc/mlops/tokens", "/var/lib/mlops"
TOKENS_KEY = "tokens"


def labels(pipeline: str, version: int | None = None) -> dict[str, str]:
    """Return an object's labels; those of `selector` among them."""
    pinned = {} if version is None else {"app.kubernetes.io/version": str(version)}
    return selector(pipeline) | {"app.kubernetes.io/part-of": "mlops-tasks", "app.kubernetes.io/managed-by": "mlops"} | pinned


def selector(pipeline: str) -> dict[str, str]:
    """Return the labels that find a server's pods and never change."""
    return {"app.kubernetes.io/name": "mlops-serve", "app.kubernetes.io/instance": object_name(pipeline)}


def pod_annotations(options: KubernetesOptions) -> dict[str, str]:
    """Tell Prometheus where to look, and replace the pods when what they mount changes."""
    config = json.dumps([dict(options.files), options.environment()], sort_keys=True)
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
        "checksum/config": hashlib.sha256(config.encode()).hexdigest(),
    }


def container(pipeline: PipelineSpec, options: KubernetesOptions, name: str) -> dict[str, Any]:
    """Return the container, without what only a plain Deployment knows."""
    pinned = [] if options.version is None else ["--version", str(options.version)]
    own = object_name(pipeline.name)
    return {
        "name": name,
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["serve", pipeline.name, "--host", "0.0.0.0", "--port", str(PORT), *pinned],  # noqa: S104 - all of a pod's own
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "env": [{"name": key, "value": value} for key, value in _paths(options).items()],
        "envFrom": [
            {"configMapRef": {"name": f"{own}-env"}},
            {"secretRef": {"name": f"{own}-env", "optional": True}},
        ],
        "resources": {
            "requests": {"cpu": options.cpu, "memory": options.memory},
            "limits": {"memory": options.memory},
        },
        "readinessProbe": _probe("/v2/health/ready", period=2, failures=2),
        "livenessProbe": _probe("/v2/health/live", period=10, failures=6),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": _mounts(pipeline, options),
    }


def volumes(pipeline: PipelineSpec, options: KubernetesOptions) -> list[dict[str, Any]]:
    """Return what the container mounts; what it writes has a limit."""
    own, log = object_name(pipeline.name), pipeline.serve.log
    kept = f"{log.keep + 2 * log.segment_mb}Mi"
    requests = {"persistentVolumeClaim": {"claimName": options.log_claim}} if options.log_claim else _folder(kept)
    found: list[dict[str, Any]] = [
        {"name": "pipeline", "configMap": {"name": f"{own}-pipeline"}},
        {"name": "tmp", **_folder("1Gi")},
        {"name": "models", **_folder(options.copies)},
        {"name": "requests", **requests},
    ]
    if options.tokens:
        found.append({"name": "tokens", "secret": {"secretName": f"{own}-tokens"}})
    return found


def _paths(options: KubernetesOptions) -> dict[str, str]:
    tokens = {"MLOPS_SERVE_TOKENS": f"{TOKENS}/{TOKENS_KEY}"} if options.tokens else {}
    return {
        "MLOPS_PIPELINES": PIPELINES,
        "MLOPS_MODEL_COPIES": f"{STATE}/models",
        "MLOPS_REQUEST_LOG": f"{STATE}/requests",
        **tokens,
    }


def _mounts(pipeline: PipelineSpec, options: KubernetesOptions) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "pipeline", "mountPath": f"{PIPELINES}/{pipeline.name}", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's own
        {"name": "models", "mountPath": f"{STATE}/models"},
        {"name": "requests", "mountPath": f"{STATE}/requests"},
    ]
    if options.tokens:  # the folder, since a file by subPath would never see a rotation
        found.append({"name": "tokens", "mountPath": TOKENS, "readOnly": True})
    return found


def _folder(size: str) -> dict[str, Any]:
    return {"emptyDir": {"sizeLimit": size}}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT},
        "periodSeconds": period,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    }


def startup_probe() -> dict[str, Any]:
    """Give the process two minutes to listen; a model it may wait for much longer."""
    return _probe("/v2/health/live", period=2, failures=60)
