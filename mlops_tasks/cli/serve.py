"""`mlops serve`: the champion over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.loading import load_pipeline
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> None:
    """Serve until a signal. Raises: SpecError when there is no such pipeline."""
    pipeline = load_pipeline(args.name)
    adapters = Adapters()
    from mlops_tasks.serving.server import serve  # noqa: PLC0415 - loads ONNX Runtime

    serve(
        args.name,
        adapters.registry,
        pipeline.serve,
        copies=Path(os.environ.get("MLOPS_MODEL_COPIES") or ".mlops/serving"),
        host=args.host,
        port=args.port,
        poll_s=args.poll,
        threads=args.threads,
        announce=adapters.progress.note,
    )
