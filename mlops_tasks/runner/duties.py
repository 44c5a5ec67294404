"""An invocation to its outcome: a stage's, or that of a duty, which is what is done about a model beside its stages.

A duty is asked for as a stage is, so it runs wherever stages run: in the task's process or in a container that has the
libraries it needs. Its result is a JSON object, which is the outcome's facts.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from mlops_tasks.loading import apply_overrides, load_pipeline
from mlops_tasks.runner.invocation import Handle, Invocation, Outcome, result_key
from mlops_tasks.runner.runner import Runner, roll_back
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mlops_tasks.specs import PipelineSpec

    Duty = Callable[[PipelineSpec, Invocation, Adapters], Mapping[str, Any]]

IMAGE: Literal["train"] = "train"
"""The image that a duty's container is made of: it proves models and reads logs."""


def _roll_back(pipeline: PipelineSpec, invocation: Invocation, adapters: Adapters) -> Mapping[str, Any]:
    return roll_back(
        pipeline.name,
        version=invocation.arguments["version"],
        reason=invocation.reason,
        who=invocation.who,
        run_id=invocation.run_id,
        now=invocation.now,
        adapters=adapters,
    )


def _judge_rollout(pipeline: PipelineSpec, invocation: Invocation, adapters: Adapters) -> Mapping[str, Any]:
    from mlops_tasks.runner import rollout  # noqa: PLC0415 - heavy: stages don't need it

    return rollout.judge(pipeline.name, now=invocation.now, adapters=adapters, pipeline=pipeline)


def _settle_rollout(pipeline: PipelineSpec, invocation: Invocation, adapters: Adapters) -> Mapping[str, Any]:
    from mlops_tasks.runner import rollout  # noqa: PLC0415 - likewise

    del pipeline
    return rollout.settle(invocation.arguments["judged"], who=invocation.who, adapters=adapters)


def _acknowledge(pipeline: PipelineSpec, invocation: Invocation, adapters: Adapters) -> Mapping[str, Any]:
    from mlops_tasks.runner import acknowledging  # noqa: PLC0415 - likewise

    return acknowledging.acknowledge(
        pipeline.name,
        start=datetime.fromisoformat(invocation.arguments["start"]),
        through=datetime.fromisoformat(invocation.arguments["through"]),
        reason=invocation.reason,
        who=invocation.who,
        now=invocation.now,
        adapters=adapters,
        pipeline=pipeline,
    )


DUTIES: Mapping[str, Duty] = {
    "roll_back": _roll_back,
    "judge_rollout": _judge_rollout,
    "settle_rollout": _settle_rollout,
    "acknowledge": _acknowledge,
}


def invoke(invocation: Invocation, *, adapters: Adapters | None = None) -> Outcome:
    """Run one task of one run with the pipeline as its folder is now and its overrides. Raises: PipelineError."""
    pipeline = apply_overrides(load_pipeline(invocation.pipeline), invocation.overrides)
    return dispatch(pipeline, invocation, adapters or Adapters())


def dispatch(pipeline: PipelineSpec, invocation: Invocation, adapters: Adapters) -> Outcome:
    """Run a stage or do a duty of a pipeline. Raises: PipelineError."""
    if invocation.stage not in DUTIES:
        return Runner(pipeline, adapters).invoke(invocation)
    done = dict(DUTIES[invocation.stage](pipeline, invocation, adapters))
    data = json.dumps({"results": [done]}).encode()
    key = result_key(pipeline.name, invocation.run_id, invocation.stage)
    adapters.store.write(key, data)
    handle = Handle(uri=key, digest=hashlib.sha256(data).hexdigest())
    return Outcome(handle=handle, cached=0, computed=1, note="done", facts=done)
