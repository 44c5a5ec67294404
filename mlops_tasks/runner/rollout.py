"""A challenger on trial to its promotion or its withdrawal."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mlops_tasks.errors import NothingToDo
from mlops_tasks.loading import load_pipeline
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    import pyarrow as pa

    from mlops_tasks.artifacts import Deployment
    from mlops_tasks.core.rollout import Comparison
    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.specs import PipelineSpec


def judge(name: str, *, now: datetime, adapters: Adapters | None = None) -> dict[str, Any]:
    """Compare champion and challenger by what they answered, and say what the pipeline's rule wants done.

    Returns:
        `action` (promote, withdraw or wait), `reason`, `champion`, `challenger` (versions) and `figures`.

    Raises:
        NothingToDo: there is no challenger on trial.

    """
    from mlops_tasks.core.rollout import decide  # noqa: PLC0415 - loads ONNX Runtime

    adapters, pipeline = adapters or Adapters(), load_pipeline(name)
    champion, challenger, since = _trial(pipeline, adapters)
    if challenger.training.end <= champion.training.end:
        seen, action = None, "withdraw"
        reason = f"version {champion.version}, the champion, is trained on newer data"
    else:
        seen = _compare(pipeline, adapters, champion, challenger, since=since, now=now)
        decision = decide(pipeline.serve.challenger, seen)
        action, reason = decision.action, decision.reason
    return {
        "model": name,
        "action": action,
        "reason": reason,
        "champion": champion.version,
        "challenger": challenger.version,
        "since": since.isoformat(),
        "figures": _figures(seen) if seen else {},
    }


def settle(judged: dict[str, Any], *, who: str, adapters: Adapters | None = None) -> dict[str, Any]:
    """Do what was judged, if the aliases still name what was looked at; return it with what each server says.

    Raises:
        ModelRejected: another run moved an alias meanwhile, or the challenger does not repeat its golden rows.
        RegistryUnavailable: the registry does not answer.

    """
    from mlops_tasks.core.promotion import CHALLENGER, CHAMPION, promote  # noqa: PLC0415 - loads ONNX Runtime

    adapters, name = adapters or Adapters(), judged["model"]
    version, reason = int(judged["challenger"]), f"rollout: {judged['reason']}"
    answers = []
    if judged["action"] == "promote":
        registry = adapters.registry
        if registry.alias(name, CHALLENGER) != version or registry.alias(name, CHAMPION) != judged["champion"]:
            return {**judged, "action": "wait", "reason": "another run moved an alias meanwhile: judged again next time"}
        promote(registry, name, version, reason=reason, who=who, instead_of=judged["champion"])
        registry.retire(name, CHALLENGER, expected=version, reason=f"promoted; {reason}", who=who)
        answers = adapters.servers.load(name, version)
    elif judged["action"] == "withdraw":
        adapters.registry.retire(name, CHALLENGER, expected=version, reason=reason, who=who)
    return {**judged, "servers": {answer.server: answer.problem or "serves it" for answer in answers}}


def _trial(pipeline: PipelineSpec, adapters: Adapters) -> tuple[Deployment, Deployment, datetime]:
    """Return the champion, the challenger and since when it is one. Raises: NothingToDo."""
    registry, name = adapters.registry, pipeline.name
    if pipeline.serve.challenger.mode == "off":
        msg = f"{name}: serve.challenger.mode is off, so no challenger is tried; set it to canary or shadow"
        raise NothingToDo(msg)
    versions = [registry.alias(name, alias) for alias in ("champion", "challenger")]
    if versions[0] is None or versions[1] is None or versions[0] == versions[1]:
        msg = f"{name}: no challenger is on trial; a training that passes its gate makes one"
        raise NothingToDo(msg)
    entries = [e for e in registry.history(name) if e["alias"] == "challenger" and e["to"] == str(versions[1])]
    since = datetime.fromisoformat(entries[-1]["at"]) if entries else datetime.now(UTC)
    champion, challenger = (registry.deployment(name, version) for version in versions if version is not None)
    return champion, challenger, since


def _compare(
    pipeline: PipelineSpec, adapters: Adapters, champion: Deployment, challenger: Deployment, *, since: datetime, now: datetime
) -> Comparison:
    from mlops_tasks.core.rollout import compare  # noqa: PLC0415 - loads ONNX Runtime
    from mlops_tasks.core.scoring import ModelSignature  # noqa: PLC0415 - likewise

    spec, store = pipeline.serve.challenger, adapters.store
    signature = ModelSignature.model_validate_json(store.open_local(challenger.file("signature.json")).read_bytes())
    return compare(
        read_log(store, pipeline.name, since, now),
        (champion.version, challenger.version),
        age=now - since,
        metric=spec.metric,
        signature=signature,
        labels=_labels(pipeline, adapters),
    )


def read_log(store: ArtifactStore, name: str, since: datetime, until: datetime) -> pa.Table:
    """Return what was answered, and scored in shadow, between two times. Raises: StoreUnavailable."""
    import pyarrow as pa  # noqa: PLC0415 - only a rollout needs it here
    import pyarrow.compute as pc  # noqa: PLC0415 - likewise
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    from mlops_tasks.core.request_log import TIME, day_prefix  # noqa: PLC0415 - likewise
    from mlops_tasks.core.rollout import LOG_COLUMNS, empty_log  # noqa: PLC0415 - likewise

    tables, day = [], since.astimezone(UTC).date()
    while day <= until.astimezone(UTC).date():
        for key in store.list(day_prefix(name, day)):
            rows = pq.read_table(pa.BufferReader(store.read(key)), columns=[*LOG_COLUMNS, TIME])
            tables.append(rows.filter(pc.greater_equal(rows[TIME], pa.scalar(since, rows[TIME].type))))
        day += timedelta(days=1)
    return pa.concat_tables(tables, promote_options="permissive") if tables else empty_log()


def _labels(pipeline: PipelineSpec, adapters: Adapters) -> dict[str, object]:
    """Return prediction id -> label of the pipeline's source of labels; empty where it names none."""
    source_name = pipeline.serve.challenger.labels
    if source_name is None:
        return {}
    source, label = pipeline.collect.sources[source_name], pipeline.features.label
    known: dict[str, object] = {}
    for batch in adapters.sources.read(source, None):
        known.update(zip(batch["prediction_id"].to_pylist(), batch[label].to_pylist(), strict=True))
    return known


def _figures(seen: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON has it: what is not known is null."""
    sides = {"champion": dataclasses.asdict(seen.champion), "challenger": dataclasses.asdict(seen.challenger)}
    figures: dict[str, Any] = {**sides, "score_psi": seen.score_psi, "age_s": seen.age.total_seconds()}
    return {key: _nullable(value) for key, value in figures.items()}


def _nullable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nullable(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
