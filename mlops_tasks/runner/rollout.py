"""A challenger on trial to its promotion or its withdrawal."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_tasks.artifacts import Window
from mlops_tasks.errors import ModelRejected, NothingToDo
from mlops_tasks.loading import load_pipeline
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.core.rollout import Comparison, Trial
    from mlops_tasks.ports import ServerAnswer
    from mlops_tasks.specs import PipelineSpec

Judged = dict[str, Any]
SHORTEST = timedelta(milliseconds=1)
"""A trial that begins this moment."""


def judge(name: str, *, now: datetime, adapters: Adapters | None = None, pipeline: PipelineSpec | None = None) -> Judged:
    """Compare champion and challenger by what they answered, and say what the pipeline's rule wants done.

    Returns:
        `action` (promote, withdraw, wait; finish: a promotion that was cut off), `reason`, `champion`, `challenger`
        (versions) and `figures`.

    Raises:
        NothingToDo: there is no challenger on trial.

    """
    from mlops_tasks.core.promotion import champion_before  # noqa: PLC0415 - loads ONNX Runtime
    from mlops_tasks.core.rollout import decide, describe_comparison  # noqa: PLC0415 - likewise

    adapters, pipeline = adapters or Adapters(), pipeline or load_pipeline(name)
    champion, challenger = _versions(pipeline, adapters)
    if champion == challenger:
        before = champion_before(adapters.registry.history(name), champion)
        reason = "it is the champion already: its promotion was cut off"
        return {
            "model": name,
            "action": "finish",
            "reason": reason,
            "champion": before,
            "challenger": challenger,
            "figures": {},
        }
    trial = _trial(name, champion, challenger, adapters)
    sides = adapters.registry.deployment(name, champion), adapters.registry.deployment(name, challenger)
    found = {"model": name, "champion": champion, "challenger": challenger, "since": trial.start.isoformat()}
    unfit = _why_not_compared(*sides)
    if unfit:
        return {**found, "action": "withdraw", "reason": unfit, "figures": {}}
    seen = _compare(pipeline, adapters, sides, trial, now)
    decision = decide(pipeline.serve.challenger, seen)
    action, reason = decision.action, decision.reason
    if action == "promote" and pipeline.deploy.promote == "never":
        action, reason = "wait", f"deploy.promote is never: `mlops rollback {name} --to {challenger}` promotes it; {reason}"
    return {**found, "action": action, "reason": reason, "figures": describe_comparison(seen)}


def settle(judged: Judged, *, who: str, adapters: Adapters | None = None) -> Judged:
    """Do what was judged, if the aliases still name what was looked at; return it with what each server says.

    Raises:
        ModelRejected: the challenger does not repeat its golden rows, or a server does not serve it: then the champion
            is the former one again.
        RegistryUnavailable: the registry does not answer.

    """
    adapters, action = adapters or Adapters(), judged["action"]
    if action == "wait":
        return {**judged, "servers": {}}
    if _moved(judged, adapters):
        return _not_settled(judged)
    if action == "withdraw":
        return _withdraw(judged, who, adapters)
    return _promote(judged, who, adapters)


def _promote(judged: Judged, who: str, adapters: Adapters) -> Judged:
    """Move the champion's alias, wait for the servers, and end the trial; `finish` finds the first step done."""
    from mlops_tasks.core.promotion import CHALLENGER, promote  # noqa: PLC0415 - loads ONNX Runtime

    registry, name, version = adapters.registry, judged["model"], int(judged["challenger"])
    reason = _reason(judged)
    if judged["action"] == "promote":
        try:
            promote(registry, name, version, reason=reason, who=who, instead_of=judged["champion"])
        except ModelRejected:
            if _moved(judged, adapters):
                return _not_settled(judged)
            raise
    answers = _require_served(judged, who, adapters)
    with suppress(ModelRejected):  # a newer model is on trial already: its trial goes on
        registry.retire(name, CHALLENGER, expected=version, reason=f"promoted; {reason}", who=who)
    return {**judged, "servers": {answer.server: "serves it" for answer in answers}}


def _withdraw(judged: Judged, who: str, adapters: Adapters) -> Judged:
    from mlops_tasks.core.promotion import CHALLENGER  # noqa: PLC0415 - loads ONNX Runtime

    try:
        adapters.registry.retire(
            judged["model"], CHALLENGER, expected=int(judged["challenger"]), reason=_reason(judged), who=who
        )
    except ModelRejected:
        return _not_settled(judged)
    return {**judged, "servers": {}}


def _require_served(judged: Judged, who: str, adapters: Adapters) -> list[ServerAnswer]:
    """Wait until the known servers serve the new champion; make the former one champion again if one does not.

    Raises:
        ModelRejected: naming each server and what it says.

    """
    name, version, before = judged["model"], int(judged["challenger"]), judged["champion"]
    answers = adapters.servers.load(name, version)
    said = "; ".join(f"{answer.server}: {answer.problem}" for answer in answers if answer.problem)
    if not said:
        return answers
    if before is None or not _give_back(name, version, before, said, who=who, adapters=adapters):
        msg = f"model {name}: version {version}, the champion, is not served: {said}; mend the server or roll back"
        raise ModelRejected(msg)
    msg = (
        f"model {name}: version {version} is not served, so version {before} is champion again and it stays on trial: {said}; "
        "mend the server: the next check promotes it"
    )
    raise ModelRejected(msg)


def _give_back(name: str, version: int, before: int, said: str, *, who: str, adapters: Adapters) -> bool:
    """Make the former version champion again, unless another run moved the alias meanwhile; tell the servers."""
    from mlops_tasks.core.promotion import CHAMPION, ROLLBACK  # noqa: PLC0415 - loads ONNX Runtime

    reason = f"{ROLLBACK}version {version} is not served: {said}"
    try:
        adapters.registry.promote(name, CHAMPION, before, expected=version, reason=reason, who=who)
    except ModelRejected:
        return False
    adapters.servers.load(name, before)
    return True


def _moved(judged: Judged, adapters: Adapters) -> bool:
    """Tell whether an alias names another version than when it was judged."""
    registry, name = adapters.registry, judged["model"]
    champion = judged["challenger" if judged["action"] == "finish" else "champion"]
    held = (registry.alias(name, "champion"), registry.alias(name, "challenger"))
    return held != (champion, judged["challenger"])


def _not_settled(judged: Judged) -> Judged:
    reason = "another run moved an alias meanwhile: judged again next time"
    return {**judged, "action": "wait", "reason": reason, "servers": {}}


def _reason(judged: Judged) -> str:
    from mlops_tasks.core.promotion import ROLLOUT  # noqa: PLC0415 - loads ONNX Runtime

    return f"{ROLLOUT}{judged['reason']}"


def _versions(pipeline: PipelineSpec, adapters: Adapters) -> tuple[int, int]:
    """Return the champion's and the challenger's version. Raises: NothingToDo."""
    name = pipeline.name
    if pipeline.serve.challenger.mode == "off":
        msg = f"{name}: serve.challenger.mode is off, so no challenger is tried; set it to canary or shadow"
        raise NothingToDo(msg)
    champion, challenger = (adapters.registry.alias(name, alias) for alias in ("champion", "challenger"))
    if champion is None or challenger is None:
        msg = f"{name}: no challenger is on trial; a training that passes its gate makes one"
        raise NothingToDo(msg)
    return champion, challenger


def _trial(name: str, champion: int, challenger: int, adapters: Adapters) -> Trial:
    from mlops_tasks.core.rollout import running_trial  # noqa: PLC0415 - loads ONNX Runtime

    created = next(known.created for known in adapters.registry.versions(name) if known.version == challenger)
    return running_trial(adapters.registry.history(name), champion, challenger, created)


def _why_not_compared(champion: Deployment, challenger: Deployment) -> str:
    """Return why the challenger can't take the champion's place whatever it answers; empty if it can."""
    from mlops_tasks.core.promotion import is_outdated  # noqa: PLC0415 - loads ONNX Runtime

    if is_outdated(challenger.training.end, champion.training.end):
        return f"version {champion.version}, the champion, is trained on newer data"
    tasks = [side.feature_schema.task for side in (champion, challenger)]
    if tasks[0] != tasks[1]:
        return f"its task is {tasks[1]} and the champion's {tasks[0]}: answers can't be compared; set serve.challenger.mode off"
    return ""


def _compare(
    pipeline: PipelineSpec, adapters: Adapters, sides: tuple[Deployment, Deployment], trial: Trial, now: datetime
) -> Comparison:
    from mlops_tasks.core.rollout import compare_trial  # noqa: PLC0415 - loads ONNX Runtime

    spec = pipeline.serve.challenger
    source = pipeline.collect.sources[spec.labels] if spec.labels else None
    window = Window(start=trial.start, end=max(now, trial.start + SHORTEST))
    return compare_trial(spec, sides, window, labels=source, store=adapters.store, sources=adapters.sources)
