"""What a server's manifests are made of, checked: names, quantities, addresses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_tasks.specs import PipelineSpec

LONGEST_NAME = 50
"""Characters: with a suffix of ours or of KServe it stays below the 63 of a DNS label."""
PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CPU = re.compile(r"(?=.*[1-9])(\d+(\.\d{1,3})?|\d+m)")
_BYTES = re.compile(r"[1-9]\d*(k|M|G|T|Ki|Mi|Gi|Ti)?")
_IMAGE = re.compile(
    r"[a-z0-9]([\w.-]*[a-z0-9])?(:\d+)?(/[a-z0-9]([\w.-]*[a-z0-9])?)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


@dataclass(frozen=True)
class KubernetesOptions:
    """What people choose of a server in a cluster, which no pipeline says. Raises: SpecError, for the first mistake."""

    registry_uri: str
    """MLflow's address inside the cluster."""
    store: str
    """`s3://bucket/prefix`, where the request log goes; empty if the pipeline logs nothing."""
    namespace: str = "default"
    image: str = "mlops-tasks/serve:latest"
    replicas: int = 2
    """Fewest; the autoscaler adds more."""
    max_replicas: int = 6
    cpu: str = "1"
    memory: str = "1Gi"
    copies: str = "4Gi"
    """Disk for copies of versions: five times a model at the most."""
    log_claim: str = ""
    """A PersistentVolumeClaim for the request log; empty: a folder that goes with the pod."""
    store_endpoint: str = ""
    """Of an S3 that is not Amazon's."""
    otlp_endpoint: str = ""
    """Of an OpenTelemetry collector; empty: no traces."""
    tokens: bool = True
    """Whether the server asks for tokens, which stand in a Secret."""
    version: int | None = None
    """Serve this one and follow no alias."""
    canary_percent: int | None = None
    """KServe's share of the traffic for this version; the rest goes to the version before."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The pipeline's files: name to text."""

    def __post_init__(self) -> None:
        """Refuse what the cluster would refuse."""
        _require(_LABEL, self.namespace, "--namespace", "lower-case letters, digits and '-', 63 at most")
        _require(_IMAGE, self.image, "--image", "an image such as registry.example/serve:1.2")
        _require(_CPU, self.cpu, "--cpu", "cores such as 2, 0.5 or 500m")
        _require(_BYTES, self.memory, "--memory", "a size such as 512Mi or 2Gi")
        _require(_BYTES, self.copies, "--copies", "a size such as 4Gi")
        if self.log_claim:
            _require(_LABEL, self.log_claim, "--log-claim", "the name of a PersistentVolumeClaim")
        _require_range(self.replicas, "--replicas", 1, 1000)
        _require_range(self.max_replicas, "--max-replicas", self.replicas, 10_000)
        if self.version is not None:
            _require_range(self.version, "--version", 1, 1 << 31)
        if self.canary_percent is not None:
            _require_range(self.canary_percent, "--canary-percent", 0, 100)
        _require_address(self.registry_uri, "--registry-uri")
        for address, option in ((self.store_endpoint, "--store-endpoint"), (self.otlp_endpoint, "--otlp-endpoint")):
            if address:
                _require_address(address, option)
        if self.store and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/[\w./-]*)?", self.store):
            msg = f"--store: must be s3://bucket/prefix, which pods can reach, got {self.store!r}"
            raise SpecError(msg)

    def ports_called(self) -> list[int]:
        """Return the TCP ports that a server calls, ascending."""
        addresses = [self.registry_uri, self.store_endpoint or ("https://s3" if self.store else ""), self.otlp_endpoint]
        parts = [urlsplit(address) for address in addresses if address]
        return sorted({part.port or PORTS[part.scheme] for part in parts})

    def environment(self) -> dict[str, str]:
        """Return the variables that are no secret."""
        named = {
            "MLFLOW_TRACKING_URI": self.registry_uri,
            "MLOPS_STORE": self.store,
            "AWS_ENDPOINT_URL": self.store_endpoint,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.otlp_endpoint,
        }
        return {name: value for name, value in named.items() if value}


def object_name(pipeline: str) -> str:
    """Return a pipeline's name as a DNS-1035 label; what had to be cut off becomes a hash, so no two pipelines share one."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", pipeline):
        msg = f"pipeline {pipeline!r}: its name must begin with a letter and hold a-z, 0-9 and _ alone, 63 at most; rename it"
        raise SpecError(msg)
    name = pipeline.replace("_", "-")
    if len(name) <= LONGEST_NAME and not name.endswith("-"):
        return name
    digest = hashlib.sha256(pipeline.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9].rstrip('-')}-{digest}"


def machine_size(pipeline: PipelineSpec) -> tuple[str, str]:
    """Return CPU and memory as `resources.deploy` says, whose stage loads a model as a server does; else one core and 1Gi."""
    resources = pipeline.resources.get("deploy")
    cpus, memory = (resources.cpus, resources.memory) if resources else (None, None)
    return f"{max(1, round((cpus or 1) * 1000))}m", f"{memory[:-1]}{memory[-1].upper()}i" if memory else "1Gi"


def _require(pattern: re.Pattern[str], value: str, option: str, wanted: str) -> None:
    if not pattern.fullmatch(value):
        msg = f"{option}: must be {wanted}, got {value!r}"
        raise SpecError(msg)


def _require_range(value: int, option: str, least: int, most: int) -> None:
    if not least <= value <= most:
        msg = f"{option}: must be {least} to {most}, got {value}"
        raise SpecError(msg)


def _require_address(address: str, option: str) -> None:
    """Refuse what pods can't reach, and credentials, which would be written down."""
    try:
        parts = urlsplit(address)
        fits = parts.scheme in PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        msg = f"{option}: must be http://host:port or https://..., as pods reach it, got {address.rpartition('@')[2]!r}"
        raise SpecError(msg)
    if "@" in parts.netloc or parts.query:
        msg = f"{option}: holds credentials or a query; give the address alone, secrets belong into the Secret of the server"
        raise SpecError(msg)
