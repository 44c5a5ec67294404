"""`mlops stage`: one stage of one run, the entry of a container."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.arguments import read_overrides, read_pairs, read_time
from mlops_tasks.errors import SpecError
from mlops_tasks.runner import Handle, Invocation, invoke

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the stage; return its outcome."""
    outcome = invoke(
        Invocation(
            stage=args.stage,
            pipeline=args.name,
            run_id=args.run_id,
            intent=args.intent,
            start=read_time(args.start, "--start"),
            end=read_time(args.end, "--end"),
            inputs={name: _handle(name, text) for name, text in read_pairs(args.inputs, "--input").items()},
            overrides=read_overrides(args.overrides),
            reason=args.reason,
            who="cli",
            now=datetime.now(UTC),
            recompute=args.recompute,
        )
    ).model_dump(mode="json")
    if args.output:
        _write(Path(args.output), outcome)
    return outcome


def _handle(name: str, text: str) -> Handle:
    uri, sign, digest = text.rpartition("@")
    if not sign:
        msg = f"--input {name}: must be {name}=KEY@DIGEST, got {text!r}"
        raise SpecError(msg)
    return Handle(uri=uri, digest=digest)


def _write(path: Path, outcome: dict[str, Any]) -> None:
    """Write the outcome in one step, so that a reader sees all of it or none."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(outcome), encoding="utf-8")
    temporary.replace(path)
