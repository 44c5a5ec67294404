"""Who may take the champion's place: rules without side effects, and the way back.

The champion after any set of runs is the promotable model whose training ends last, whatever the order
in which the runs finished: a slow old run can't replace a newer model.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlops_tasks.core.golden import load_proven
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from mlops_tasks.artifacts import Deployment, Intent
    from mlops_tasks.ports import ModelRegistry

CHAMPION: Literal["champion"] = "champion"
CHALLENGER: Literal["challenger"] = "challenger"
ROLLBACK = "rollback: "
"""How the reason of a rollback's ledger entry begins."""
ROLLOUT = "rollout: "
"""How the reason begins of an entry by which a trial on live traffic ends."""
LOOSE_TOLERANCE = 1e-4
"""For rollback and serving, looser than a deployment's: another machine's rounding must not stop a proven model."""

Promote = Literal["auto", "ask", "never"]


@dataclass(frozen=True)
class Standing:
    """A version that may hold or take an alias."""

    version: int
    training_end: datetime


@dataclass(frozen=True)
class Decision:
    """Which alias a candidate takes, and why; `none`: it is registered only."""

    alias: Literal["champion", "challenger", "none"]
    reason: str


def decide(
    candidate: Standing,
    champion: Standing | None,
    challenger: Standing | None,
    *,
    intent: Intent,
    promote: Promote,
    withdrawn: bool = False,
    failed_trial: bool = False,
    trial: bool = False,
) -> Decision:
    """Decide which alias a candidate that passed its gate takes.

    Args:
        candidate: the new version.
        champion: what serves now.
        challenger: what waits for a person's decision.
        intent: why the run was started.
        promote: the run's or the pipeline's wish.
        withdrawn: somebody rolled back from this very version.
        failed_trial: this very version was tried on live traffic and withdrawn.
        trial: models are tried on live traffic before they become champion; the first has none to be tried against.

    """
    if champion is not None and champion.version == candidate.version:
        return Decision(CHAMPION, "is the champion already")
    refused = _why_it_is_none(candidate, champion, intent, withdrawn=withdrawn, failed_trial=failed_trial, trial=trial)
    if refused:
        return Decision("none", refused)
    waits = _why_it_waits(candidate, champion, promote, trial=trial)
    if waits is None:
        return Decision(
            CHAMPION, "the first model" if champion is None else f"its training ends after version {champion.version}'s"
        )
    if _is_behind(candidate, challenger):
        return Decision("none", f"{waits}, and the challenger's training ends later")
    return Decision(CHALLENGER, waits)


def _why_it_is_none(
    candidate: Standing, champion: Standing | None, intent: Intent, *, withdrawn: bool, failed_trial: bool, trial: bool
) -> str:
    """Return why the candidate is registered only; empty if it may take an alias."""
    if intent in {"backfill", "reproduce"}:
        return f"a {intent} registers a model and never promotes it"
    if withdrawn:
        return "was rolled back from; only `mlops rollback --to` brings it back"
    if failed_trial:
        return "was withdrawn from its trial; only `mlops run --recompute deploy` puts it on trial again"
    if trial and champion is not None and is_outdated(candidate.training_end, champion.training_end):
        return f"version {champion.version}, the champion, is trained on newer data: it is not tried"
    return ""


def _why_it_waits(candidate: Standing, champion: Standing | None, promote: Promote, *, trial: bool) -> str | None:
    """Return why the candidate may not become champion by itself, or None."""
    if promote != "auto":
        return f"promote is {promote}: a person decides"
    if trial and champion is not None:
        return f"is tried on live traffic beside version {champion.version}, the champion"
    if champion is not None and candidate.training_end <= champion.training_end:
        return f"its training does not end after that of version {champion.version}, the champion"
    return None


def is_outdated(training_end: datetime, champion_end: datetime) -> bool:
    """Tell whether a model knows less than the champion does, so that no trial lets it take its place.

    One whose training ends with the champion's, e.g. of another kind, may win on live traffic. Without a trial the
    champion must not depend on the order in which runs end, so there such a one waits for a person.
    """
    return training_end < champion_end


def _is_behind(candidate: Standing, challenger: Standing | None) -> bool:
    return (
        challenger is not None and challenger.version != candidate.version and challenger.training_end > candidate.training_end
    )


def is_withdrawn(history: Sequence[dict[str, str]], version: int) -> bool:
    """Tell from the ledger whether the version's last move away from champion was a rollback."""
    for entry in reversed(history):
        if entry["alias"] != CHAMPION:
            continue
        if entry["to"] == str(version):
            return False
        if entry["from"] == str(version):
            return entry["reason"].startswith(ROLLBACK)
    return False


def has_failed_trial(history: Sequence[dict[str, str]], version: int) -> bool:
    """Tell from the ledger whether the version's last move was its withdrawal from a trial."""
    for entry in reversed(history):
        if entry["to"] == str(version):
            return False
        if entry["alias"] == CHALLENGER and entry["from"] == str(version):
            return not entry["to"] and entry["reason"].startswith(ROLLOUT)
    return False


def champion_before(history: Sequence[dict[str, str]], champion: int) -> int | None:
    """Return the version that served before the present champion came, leaving out those rolled back from."""
    served = [entry for entry in history if entry["alias"] == CHAMPION]
    stack: list[int] = []
    for entry in served:
        if not entry["to"]:
            del stack[-1:]
            continue
        version = int(entry["to"])
        if version in stack:  # a way back: what came after it is no longer beneath it
            del stack[stack.index(version) :]
        stack.append(version)
    if champion in stack:
        del stack[stack.index(champion) :]
    return stack[-1] if stack else None


def roll_back(registry: ModelRegistry, name: str, to: int | None = None, *, reason: str, who: str) -> Deployment:
    """Move the champion alias back, after the target has loaded and repeated its golden rows.

    Args:
        registry: where the model is registered.
        name: the model's, that is the pipeline's, name.
        to: the version to go to; None: the champion before the present one.
        reason: for the ledger.
        who: likewise.

    Raises:
        ModelRejected: there is no such version, or it does not pass its golden rows; nothing was moved.
        RegistryUnavailable: the registry does not answer.

    """
    champion = registry.alias(name, CHAMPION)
    if champion is None:
        msg = f"model {name}: nothing serves yet, so there is nothing to roll back; `mlops run {name}` makes a first model"
        raise ModelRejected(msg)
    target = champion_before(registry.history(name), champion) if to is None else to
    if target is None:
        msg = f"model {name}: version {champion} is the first champion; name another with --to, see `mlops models {name}`"
        raise ModelRejected(msg)
    if target == champion:
        msg = f"model {name}: version {champion} is the champion already; `mlops models {name}` lists the others"
        raise ModelRejected(msg)
    return _prove_and_move(registry, name, target, expected=champion, reason=f"{ROLLBACK}{reason}", who=who)


def promote(
    registry: ModelRegistry, name: str, version: int, *, reason: str, who: str, instead_of: int | None = None
) -> Deployment:
    """Make a version the champion because a person or a rule decided so, after it has loaded and repeated its golden rows.

    Args:
        registry: where the model is registered.
        name: the model's, that is the pipeline's, name.
        version: the new champion.
        reason: for the ledger.
        who: likewise.
        instead_of: the champion that the decision was about; None: whichever it is.

    Raises:
        ModelRejected: there is no such version, it fails its golden rows, or another is champion now; nothing was moved.
        RegistryUnavailable: the registry does not answer.

    """
    champion = registry.alias(name, CHAMPION)
    if champion == version:
        return deployment_of(registry, name, version)
    return _prove_and_move(registry, name, version, expected=instead_of or champion, reason=reason, who=who)


def _prove_and_move(
    registry: ModelRegistry, name: str, version: int, *, expected: int | None, reason: str, who: str
) -> Deployment:
    deployment = deployment_of(registry, name, version).model_copy(update={"alias": CHAMPION})
    with tempfile.TemporaryDirectory() as temporary:
        folder = registry.fetch(name, version, Path(temporary))
        load_proven(folder, LOOSE_TOLERANCE, what=f"model {name} version {version}")
    registry.record(deployment)
    registry.promote(name, CHAMPION, version, expected=expected, reason=reason, who=who)
    return deployment


def deployment_of(registry: ModelRegistry, name: str, version: int) -> Deployment:
    """Return a version's deployment record. Raises: ModelRejected when there is none."""
    try:
        return registry.deployment(name, version)
    except KeyError as error:
        msg = f"model {name}: there is no deployed version {version}; `mlops models {name}` lists what there is"
        raise ModelRejected(msg) from error
