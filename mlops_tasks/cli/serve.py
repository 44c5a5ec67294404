"""`mlops serve`: the champion over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.cli.serve_grammar import require_bounds
from mlops_tasks.loading import load_pipeline
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.serving.settings import ServeSettings
    from mlops_tasks.specs import PipelineSpec


def run(args: argparse.Namespace) -> None:
    """Serve until a signal. Raises: SpecError when there is no such pipeline, or a flag is out of range."""
    require_bounds(args)
    pipeline = load_pipeline(args.name)
    if args.swap is not None:
        pipeline = _with_swap(pipeline, args.swap)
    adapters = Adapters()
    from mlops_tasks.serving.server import serve  # noqa: PLC0415 - loads ONNX Runtime

    serve(pipeline, adapters.registry, _settings(args), announce=adapters.progress.note)


def _with_swap(pipeline: PipelineSpec, swap: str) -> PipelineSpec:
    return pipeline.model_copy(update={"serve": pipeline.serve.model_copy(update={"swap": swap})})


def _settings(args: argparse.Namespace) -> ServeSettings:
    """Read flags, and the environment for what has none there."""
    from mlops_tasks.serving.gate import Bounds  # noqa: PLC0415 - loads ONNX Runtime
    from mlops_tasks.serving.settings import ServeSettings  # noqa: PLC0415 - likewise

    tokens = args.tokens or os.environ.get("MLOPS_SERVE_TOKENS") or None
    return ServeSettings(
        host=args.host,
        port=args.port,
        poll_s=args.poll,
        threads=args.threads,
        version=args.version,
        copies=Path(os.environ.get("MLOPS_MODEL_COPIES") or ".mlops/serving"),
        tokens=Path(tokens) if tokens else None,
        admin_token=os.environ.get("MLOPS_SERVE_ADMIN_TOKEN", ""),
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        waiting=Bounds(args.max_waiting, args.max_waiting_size << 20, args.swap_deadline),
        max_body_bytes=args.max_body << 20,
        max_bodies_bytes=args.max_bodies << 20,
        max_requests=args.max_requests,
        max_connections=args.max_connections,
        header_s=args.header_timeout,
        body_s=args.body_timeout,
        write_s=args.answer_timeout,
        keep_alive_s=args.keep_alive,
        drain_delay_s=args.drain_delay,
        drain_s=args.drain,
        request_log=not args.no_request_log,
        log_format=args.log_format,
    )
