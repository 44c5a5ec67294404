"""`mlops render`: manifests of a pipeline's server."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.promotion import CHAMPION
from mlops_tasks.errors import SpecError, StoreUnavailable
from mlops_tasks.loading import load_pipeline, pipelines_root
from mlops_tasks.rendering.kubernetes import notes, render_kserve, render_server, to_yaml
from mlops_tasks.rendering.options import KubernetesOptions, machine_size, object_name
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.specs import PipelineSpec

MOST_BYTES = 1_000_000
"""A ConfigMap may hold 1 MiB."""


def run(args: argparse.Namespace) -> dict[str, Any] | None:
    """Write a server's manifests. Raises: SpecError, RegistryUnavailable, StoreUnavailable (the output can't be written)."""
    pipeline = load_pipeline(args.name)
    options = _options(args, pipeline)
    manifests = render_kserve(pipeline, options) if args.kserve else render_server(pipeline, options)
    said = notes(pipeline, options)
    text = to_yaml(manifests, said)
    path = _write(Path(args.output), object_name(pipeline.name), text) if args.output else None
    if args.json:
        return {"version": options.version, "output": path and str(path), "notes": said, "manifests": manifests}
    if path is None:
        sys.stdout.write(text)
    else:
        sys.stderr.write(f"{path}: {len(manifests)} objects; its first lines say which secrets they need\n")
    return None


def _options(args: argparse.Namespace, pipeline: PipelineSpec) -> KubernetesOptions:
    cpu, memory = machine_size(pipeline)
    version = args.version
    if version is None and args.kserve:
        version = _champion(pipeline.name)
    registry_uri = args.registry_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    store = args.store or os.environ.get("MLOPS_STORE", "")
    if pipeline.serve.log.enabled and not store:
        msg = "--store: the request log needs one that pods can reach: s3://bucket/prefix; or set serve.log.enabled to false"
        raise SpecError(msg)
    return KubernetesOptions(
        registry_uri=registry_uri,
        store=store,
        namespace=args.namespace,
        image=args.image or os.environ.get("MLOPS_IMAGE_SERVE") or KubernetesOptions.image,
        replicas=args.replicas,
        max_replicas=3 * args.replicas if args.max_replicas is None else args.max_replicas,
        cpu=args.cpu or cpu,
        memory=args.memory or memory,
        copies=args.copies,
        log_claim=args.log_claim,
        store_endpoint=args.store_endpoint or os.environ.get("AWS_ENDPOINT_URL", ""),
        otlp_endpoint=args.otlp_endpoint or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        tokens=not args.no_tokens,
        version=version,
        canary_percent=args.canary_percent,
        files=_files(pipelines_root() / pipeline.name),
    )


def _champion(name: str) -> int:
    version = Adapters().registry.alias(name, CHAMPION)
    if version is None:
        msg = f"model {name} has no champion to pin; deploy one, or give --version N"
        raise SpecError(msg)
    return version


def _files(folder: Path) -> dict[str, str]:
    """Read a pipeline's files. Raises: SpecError: they don't fit into a ConfigMap."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", path.name):
            msg = f"{path}: a ConfigMap's names hold letters, digits, '-', '_' and '.' alone; rename the file"
            raise SpecError(msg)
        try:
            found[path.name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            msg = f"{path}: is not UTF-8 at byte {error.start}; only texts belong into a pipeline's folder"
            raise SpecError(msg) from error
    size = sum(len(text.encode()) for text in found.values())
    if size > MOST_BYTES:
        msg = f"{folder}: its files have {size} bytes, a ConfigMap takes {MOST_BYTES}; keep data out of the folder"
        raise SpecError(msg)
    return found


def _write(target: Path, name: str, text: str) -> Path:
    """Write into a folder that exists, else to the file of that name."""
    path = target / f"{name}.yaml" if target.is_dir() else target
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"--output: {path} can't be written: {error.strerror}"
        raise StoreUnavailable(msg) from error
    return path
