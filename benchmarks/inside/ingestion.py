"""Bring a range of windows in, as `mlops run` does before it trains; print the handle of the valid features as JSON."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from mlops_tasks.loading import load_pipeline
from mlops_tasks.pipeline import INGEST
from mlops_tasks.runner import Handle, Invocation, Runner


def main(name: str, start: str, end: str) -> None:
    """Run collect to validate on a range of dates."""
    runner = Runner(load_pipeline(name))
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    inputs: dict[str, Handle] = {}
    for stage, parameter in zip(INGEST, ("raw", "raw", "features", "features"), strict=True):
        invocation = Invocation(
            stage=stage, pipeline=name, run_id="ingestion", intent="manual",
            start=first, end=last, inputs=inputs, now=datetime.now(UTC),
        )  # fmt: skip
        inputs = {parameter: runner.invoke(invocation).handle}
    sys.stdout.write(inputs["features"].model_dump_json() + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
