"""`mlops models`: versions, aliases and the ledger of promotions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlops_tasks.loading import load_pipeline
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """List the versions of a pipeline's model. Raises: RegistryUnavailable, SpecError."""
    load_pipeline(args.name)
    registry = Adapters().registry
    versions = [
        {
            "version": v.version,
            "aliases": list(v.aliases),
            "created": v.created,
            "fingerprint": v.fingerprint[:12],
            "dataset": v.tags.get("mlops.dataset_version", ""),
        }
        for v in registry.versions(args.name)
    ]
    return {"model": args.name, "versions": versions, "promotions": registry.history(args.name)}
