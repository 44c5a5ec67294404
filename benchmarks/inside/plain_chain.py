"""The same stage functions called plainly, one after another: no runner, no cache, no records, no command line."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime

from mlops_tasks.core.windows import lookback_windows, windows_between
from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.ports import RunContext
from mlops_tasks.stages import collect, deploy, evaluate, preprocess, snapshot, train, validate, validate_raw
from mlops_tasks.wiring import Adapters


def main(name: str, start: str, end: str, overrides: str) -> None:
    """Run collect to deploy on a range of dates; `overrides` is JSON."""
    spec = apply_overrides(load_pipeline(name), json.loads(overrides))
    now = datetime.now(UTC)
    ports = Adapters().ports(RunContext(pipeline=name, run_id="plain", intent="manual", now=now, code_version="plain"))
    first, last = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    windows = windows_between(first, last, spec.cadence)
    before = lookback_windows(windows, spec.preprocess.lookback, spec.cadence)
    raw = collect.run(spec.collect, [*before, *windows], ports=ports)
    valid_raw = validate_raw.run(spec.validate_raw, raw, ports=ports)
    features = preprocess.run(spec.preprocess, valid_raw, windows, ports=ports)
    valid = validate.run(spec.validate_features, features, ports=ports)
    dataset = snapshot.run(spec.snapshot, valid, ports=ports)
    candidate = train.run(spec.train, dataset, ports=ports)
    verdict = evaluate.run(spec.evaluate, candidate, dataset, None, ports=ports)
    deployment = deploy.run(spec.deploy, verdict, ports=ports)
    sys.stdout.write(json.dumps({"version": deployment.version, "metrics": verdict.metrics}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
