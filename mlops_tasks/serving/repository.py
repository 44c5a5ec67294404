"""The Open Inference Protocol's model repository extension: what is loaded, and loading what the registry names now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from mlops_tasks.core.promotion import CHALLENGER, CHAMPION
from mlops_tasks.serving.decoding import BadRequest, kind_of, parse_json

if TYPE_CHECKING:
    from mlops_tasks.serving.slot import Role, Slot
    from mlops_tasks.serving.watcher import LoadOutcome, Watcher

ROLES = (CHAMPION, CHALLENGER)


def loaded_versions(slot: Slot) -> list[int]:
    """Return the versions that are loaded, the champion's first."""
    return [model.version for model in (slot.model, slot.challenger) if model is not None]


def repository_index(raw: bytes, slot: Slot) -> list[dict[str, str]]:
    """List the models: each version that is loaded, or why none is; with `ready` in the body those. Raises: BadRequest."""
    ready = (parse_json(raw) if raw.strip() else {}).get("ready", False)
    if not isinstance(ready, bool):
        msg = f"ready must be true or false, got {kind_of(ready)}"
        raise BadRequest(msg)
    versions = loaded_versions(slot)
    if not versions and not ready:
        reason = slot.problem or "it is being loaded"
        return [{"name": slot.name, "version": "", "state": "UNAVAILABLE", "reason": reason}]
    return [{"name": slot.name, "version": str(version), "state": "READY", "reason": ""} for version in versions]


async def load_model(raw: bytes, slot: Slot, watcher: Watcher | None) -> dict[str, Any]:
    """Let the watcher look at the registry now; return what serves then.

    Raises:
        BadRequest: the body is malformed (400), what serves is not what was asked for (409), or nothing serves (503).

    """
    version, role = _asked(raw)
    if watcher is None:
        msg = f"this server follows no registry: it goes on serving model {slot.name} as it was started"
        raise BadRequest(msg, 409)
    outcome: LoadOutcome = await watcher.load(version, role)
    if outcome.problem or outcome.version is None:
        msg = outcome.problem or f"model {slot.name} has no {role} yet"
        raise BadRequest(msg, 409 if slot.model is not None else 503)
    return {
        "name": slot.name,
        "version": outcome.version,
        "role": outcome.role,
        "pause_s": outcome.pause_s,
        "mode": outcome.mode,
    }


def _asked(raw: bytes) -> tuple[int | None, Role]:
    """Return the version and role in a body, which may be empty. Raises: BadRequest."""
    parameters = (parse_json(raw) if raw.strip() else {}).get("parameters") or {}
    if not isinstance(parameters, dict) or not parameters.keys() <= {"version", "role"}:
        msg = "parameters may hold version and role; files and configurations are not taken: register the model and deploy it"
        raise BadRequest(msg)
    version, role = parameters.get("version"), parameters.get("role", CHAMPION)
    if version is not None and (type(version) is not int or version < 1):
        msg = "parameters.version must be a version's number, 1 or more"
        raise BadRequest(msg)
    if role not in ROLES:
        msg = f"parameters.role must be one of {', '.join(ROLES)}"
        raise BadRequest(msg)
    return version, cast("Role", role)


def unload_refusal(slot: Slot) -> BadRequest:
    """Return why models are not unloaded."""
    return BadRequest(
        f"model {slot.name} is not unloaded by a request: stop the server, or deploy or roll back to another version"
    )
