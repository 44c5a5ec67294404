"""A judged model to a registered version, proven by its golden rows, and the alias that the server follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops_tasks.artifacts import Deployment, FeatureColumn, FeatureSchema, digest_of
from mlops_tasks.core.golden import load_proven
from mlops_tasks.core.promotion import (
    CHALLENGER,
    CHAMPION,
    ROLLBACK,
    Decision,
    Standing,
    decide,
    deployment_of,
    has_failed_trial,
    is_withdrawn,
)
from mlops_tasks.core.publishing import gather_files, hash_file
from mlops_tasks.core.scoring import MODEL, WEIGHTS, ModelSignature
from mlops_tasks.errors import ChampionMoved, ModelRejected

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mlops_tasks.artifacts import Candidate, FileRef, Verdict
    from mlops_tasks.ports import ArtifactStore, Ports
    from mlops_tasks.specs import DeploySpec

MODEL_FILES = (MODEL, "signature.json", "golden.json", "reference.json")
VERDICT_FILES = ("evaluation.json", "model_card.md")
TRIES = 5


def run(spec: DeploySpec, verdict: Verdict, *, ports: Ports) -> Deployment:
    """Register the model, check what was registered, and move the alias that the promotion rule gives it.

    Nothing is copied but into the registry; called again it finds its version and its alias.

    Raises:
        ChampionMoved: it would replace a champion that it was not judged against.
        ModelRejected: the verdict, the golden rows or a server say no; nothing serves otherwise than before.
        RegistryUnavailable: the registry does not answer; a retry goes on.
        StoreUnavailable: a file of the model is gone.

    """
    _require_passed(verdict)
    name = ports.run.pipeline
    refs = _files_of(verdict)
    with ports.store.staging() as folder:
        files = gather_files(ports.store, refs, folder / "model")
        load_proven(folder / "model", spec.tolerance, what=f"{name}: model of {verdict.candidate.training}")
        version = ports.registry.register(name, verdict.candidate, verdict, files, _tags(ports, verdict))
        _check_registered(ports, name, version, refs, folder / "registered")
    return _settle(spec, verdict, version, refs, ports)


def _require_passed(verdict: Verdict) -> None:
    """Refuse a verdict that did not pass. Raises: ModelRejected naming the failed rules."""
    if verdict.passed:
        return
    failed = "; ".join(f"{item.rule}: {item.reason}" for item in verdict.judgements if not item.passed) or "no rule says why"
    msg = (
        f"evaluate: the model of {verdict.candidate.training} did not pass its gate: {failed}; "
        "nothing was registered and what serves now stays: train on more or other data, or change evaluate.gates"
    )
    raise ModelRejected(msg)


def _files_of(verdict: Verdict) -> tuple[FileRef, ...]:
    """Return what goes into the registry: the model's files and what was found out about it."""
    wanted = {ref.key.rsplit("/", 1)[-1]: ref for ref in verdict.candidate.files}
    missing = [name for name in MODEL_FILES if name not in wanted]
    if missing:
        msg = f"deploy: the model of {verdict.candidate.training} lacks {missing}; train it again with --recompute train"
        raise ModelRejected(msg)
    weights = [wanted[WEIGHTS]] if WEIGHTS in wanted else []
    judged = [ref for ref in verdict.files if ref.key.rsplit("/", 1)[-1] in VERDICT_FILES]
    return (*(wanted[name] for name in MODEL_FILES), *weights, *judged)


def _tags(ports: Ports, verdict: Verdict) -> Mapping[str, str]:
    """Say of the version what people look for in the registry; given with its creation, so never half there."""
    return {
        "mlops.pipeline": ports.run.pipeline,
        "mlops.run_id": ports.run.run_id,
        "mlops.intent": ports.run.intent,
        "mlops.code_version": ports.run.code_version,
        "mlops.reason": ports.run.reason,
        "mlops.dataset_version": verdict.candidate.dataset_version,
        "mlops.training": str(verdict.candidate.training),
        **{f"mlops.metric.{metric}": f"{value:.6g}" for metric, value in verdict.metrics.items()},
    }


def _check_registered(ports: Ports, name: str, version: int, refs: tuple[FileRef, ...], folder: Path) -> None:
    """Compare what the registry gives out with what was judged. Raises: ModelRejected."""
    fetched = ports.registry.fetch(name, version, folder)
    for ref in refs:
        file = ref.key.rsplit("/", 1)[-1]
        if not (fetched / file).is_file() or (file not in VERDICT_FILES and hash_file(fetched / file) != ref.sha256):
            msg = f"model {name} version {version}: the registry's {file} is not the one judged; delete the version, run again"
            raise ModelRejected(msg)


def _settle(spec: DeploySpec, verdict: Verdict, version: int, refs: tuple[FileRef, ...], ports: Ports) -> Deployment:
    """Decide, record and move the alias; when another run moved it meanwhile, decide anew."""
    name, registry, candidate = ports.run.pipeline, ports.registry, verdict.candidate
    for _ in range(TRIES):
        held: dict[str, Standing | None] = {alias: _standing(ports, alias) for alias in (CHAMPION, CHALLENGER)}
        history = registry.history(name)
        decision = decide(
            Standing(version, candidate.training.end),
            held[CHAMPION],
            held[CHALLENGER],
            intent=ports.run.intent,
            promote=spec.promote,
            withdrawn=is_withdrawn(history, version),
            failed_trial=has_failed_trial(history, version) and not ports.run.forced,
            trial=ports.run.trial,
        )
        _require_judged(decision, verdict, version, held[CHAMPION], ports)
        deployment = _deployment(version, candidate, refs, decision, ports)
        # Before the alias moves: whoever follows an alias finds the record of what it names.
        registry.record(deployment)
        before = held.get(decision.alias)
        if _take(decision, version, before, ports):
            _require_served(decision, version, before, ports)
            ports.progress.note(f"{name} version {version}: {decision.alias}: {decision.reason}")
            return deployment
    msg = f"model {name}: other runs moved its aliases {TRIES} times meanwhile; run again"
    raise ModelRejected(msg)


def _require_judged(decision: Decision, verdict: Verdict, version: int, champion: Standing | None, ports: Ports) -> None:
    """Refuse to replace a champion that the candidate was not judged against. Raises: ChampionMoved."""
    if decision.alias != CHAMPION or champion is None or champion.version in {version, verdict.champion_version}:
        return
    judged = "no champion" if verdict.champion_version is None else f"version {verdict.champion_version}"
    msg = (
        f"model {ports.run.pipeline}: version {version} was judged against {judged}, but version {champion.version} "
        "is champion now; run evaluate and deploy again"
    )
    raise ChampionMoved(msg)


def _take(decision: Decision, version: int, held: Standing | None, ports: Ports) -> bool:
    """Move the alias that was decided on, unless it is there already; return False when another run moved it first."""
    if decision.alias == "none" or (held is not None and held.version == version):
        return True
    name, registry = ports.run.pipeline, ports.registry
    expected = None if held is None else held.version
    try:
        registry.promote(name, decision.alias, version, expected=expected, reason=_reason(ports, decision), who=ports.run.who)
    except ModelRejected:
        if registry.alias(name, decision.alias) == expected:
            raise
        return False
    return True


def _require_served(decision: Decision, version: int, before: Standing | None, ports: Ports) -> None:
    """Wait until the known servers serve the version under its alias; give the alias back if one does not.

    Raises:
        ModelRejected: naming each server and what it says.

    """
    if decision.alias == "none" or (decision.alias == CHALLENGER and not ports.run.trial):
        return
    name = ports.run.pipeline
    answers = ports.servers.load(name, version, role=decision.alias)
    said = "; ".join(f"{answer.server}: {answer.problem}" for answer in answers if answer.problem)
    if not said:
        return
    if before is not None and before.version == version:
        msg = f"model {name}: version {version}, the {decision.alias}, is not served: {said}; mend the server or roll back"
        raise ModelRejected(msg)
    now = _give_back(decision.alias, version, before, said, ports)
    msg = f"model {name}: version {version} is not served, so {now} is {decision.alias} again: {said}"
    raise ModelRejected(msg)


def _give_back(alias: str, version: int, before: Standing | None, said: str, ports: Ports) -> str:
    """Move an alias back to what it named, and tell the servers; return what it names, in words."""
    name, registry, reason = ports.run.pipeline, ports.registry, f"version {version} is not served: {said}"
    if before is None:
        # No rollback in the ledger's words: once the servers are mended, a run may give it the alias again.
        registry.retire(name, alias, expected=version, reason=reason, who=ports.run.who)
        return "no version"
    registry.promote(name, alias, before.version, expected=version, reason=f"{ROLLBACK}{reason}", who=ports.run.who)
    ports.servers.load(name, before.version, role=alias)
    return f"version {before.version}"


def _standing(ports: Ports, alias: str) -> Standing | None:
    name = ports.run.pipeline
    version = ports.registry.alias(name, alias)
    if version is None:
        return None
    return Standing(version, deployment_of(ports.registry, name, version).training.end)


def _reason(ports: Ports, decision: Decision) -> str:
    return "; ".join(part for part in (decision.reason, ports.run.intent, ports.run.reason) if part)


def _deployment(version: int, candidate: Candidate, refs: tuple[FileRef, ...], decision: Decision, ports: Ports) -> Deployment:
    """Describe what was deployed; its digest is that of the model and knows neither time nor alias."""
    hashes = {ref.key.rsplit("/", 1)[-1]: ref.sha256 for ref in refs}
    identity = {
        "model": ports.run.pipeline,
        "fingerprint": candidate.fingerprint,
        "files": {name: sha256 for name, sha256 in hashes.items() if name not in VERDICT_FILES},
    }
    return Deployment(
        digest=digest_of(identity),
        files=refs,
        model=ports.run.pipeline,
        version=version,
        alias=decision.alias,
        fingerprint=candidate.fingerprint,
        dataset_version=candidate.dataset_version,
        training=candidate.training,
        feature_schema=candidate.feature_schema or _schema_of(candidate, ports.store),
        mlflow_run_id=candidate.mlflow_run_id,
    )


def _schema_of(candidate: Candidate, store: ArtifactStore) -> FeatureSchema:
    """Derive the schema of a model whose candidate does not carry it; time and entity stay unknown."""
    signature = ModelSignature.model_validate_json(store.open_local(candidate.file("signature.json")).read_bytes())
    columns = [FeatureColumn(name=name, kind="numeric") for name in signature.numeric]
    columns += [FeatureColumn(name=name, kind="categorical") for name in signature.categorical]
    return FeatureSchema(columns=tuple(columns), label=signature.target, task=signature.task, event_time="", entity_key=())
