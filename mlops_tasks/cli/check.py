"""`mlops check`: every mistake of every pipeline's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.core.gates import check_metrics
from mlops_tasks.errors import SpecError
from mlops_tasks.loading import load_pipeline, pipeline_names

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read the named pipeline or all. Raises: SpecError with every problem."""
    names = [args.name] if args.name else pipeline_names()
    problems: list[str] = []
    pipelines: dict[str, Any] = {}
    for name in names:
        try:
            spec = load_pipeline(name)
            check_metrics(spec.evaluate, spec.features.task, f"pipelines/{name}/pipeline.yaml")
        except SpecError as error:
            problems.append(str(error))
            continue
        pipelines[name] = {
            "cadence": spec.cadence,
            "task": spec.features.task,
            "sources": sorted(spec.collect.sources),
            "features": len(spec.features.columns),
            "expectations": len(spec.validate_features.expectations) + sum(map(len, spec.validate_raw.expectations.values())),
            "model": spec.train.model,
        }
    if problems:
        raise SpecError("\n".join(problems))
    return {"pipelines": pipelines}
