"""`mlops retrain`: whether a model is to be trained again, and the training itself where no Airflow is there to start it."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_tasks.cli.run import run_loop
from mlops_tasks.errors import NothingToDo, PipelineError, SpecError
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner import Invocation, Runner
from mlops_tasks.runner.retraining import read_state, read_trainings, reconcile, resume, review, settle_outcomes
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import argparse

    from mlops_tasks.core.retraining import RetrainRequest


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Say what would be decided now; do it with `--run`. Raises: NothingToDo (nothing was monitored yet), PipelineError."""
    now, adapters = datetime.now(UTC), Adapters()
    if args.resume:
        return _resume(args, now, adapters)
    return _train(args.name, now, adapters) if args.run else _say(args.name, now, adapters)


def _say(name: str, now: datetime, adapters: Adapters) -> dict[str, Any]:
    pipeline = load_pipeline(name)
    state = read_state(pipeline, adapters, read_trainings(adapters.store, name), now=now)
    if state is None:
        msg = f"{name}: no window was monitored under a champion yet, so there is nothing to decide on"
        raise NothingToDo(msg)
    decision = review(pipeline, state)
    return {
        "model": name,
        "champion": state.version,
        "as_of": state.as_of.isoformat(),
        "action": decision.action,
        "reason": decision.reason,
        "causes": [cause.model_dump(mode="json") for cause in decision.causes],
        "trainings": len(state.requests),
        "outstanding": state.outstanding.run_id if state.outstanding else None,
    }


def _resume(args: argparse.Namespace, now: datetime, adapters: Adapters) -> dict[str, Any]:
    if not args.reason:
        msg = "mlops retrain --resume: --reason is missing; say why trainings may be started again"
        raise SpecError(msg)
    done = resume(args.name, who=getpass.getuser(), reason=args.reason, now=now, adapters=adapters)
    return {"model": args.name, "resumed_after": done.after, "reason": done.reason}


def _train(name: str, now: datetime, adapters: Adapters) -> dict[str, Any]:
    """Train if it is time. A failure that a retry can't mend ends the training; any other is tried again by the next call."""
    found = reconcile(name, now=now, run_state=lambda _: None, adapters=adapters)
    if found.request is None:
        return {"model": name, "action": found.action, "reason": found.reason}
    try:
        summary = run_loop(Runner(load_pipeline(name), adapters), _invocation(name, found.request, now))
    except PipelineError as error:
        if not error.retryable:
            settle_outcomes(adapters.store, name, now=datetime.now(UTC), run_state=lambda _: "failed")
        raise
    settle_outcomes(adapters.store, name, now=datetime.now(UTC), run_state=lambda _: "success")
    return {"model": name, "action": "trained", "reason": found.reason, "run": summary}


def _invocation(name: str, request: RetrainRequest, now: datetime) -> Invocation:
    return Invocation(
        stage="collect",
        pipeline=name,
        run_id=f"train-{request.run_id}",
        intent="drift",
        start=request.start,
        end=request.end,
        reason=request.reason,
        who="cli",
        now=now,
    )
