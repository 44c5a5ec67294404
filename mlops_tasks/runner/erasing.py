"""Somebody's answers out of a request log; days of a log that are older than they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlops_tasks.core.request_log import remove_old
from mlops_tasks.errors import NothingToDo, SpecError
from mlops_tasks.loading import load_pipeline
from mlops_tasks.runner.derived import list_derived
from mlops_tasks.wiring import Adapters

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mlops_tasks.specs import PipelineSpec


@dataclass(frozen=True)
class Subject:
    """Whose or which answers are meant."""

    entities: tuple[str, ...] = ()
    """As clients send them in `X-Entity-Key`, or their hashes as the log has them."""
    key: Mapping[str, str] | None = None
    """Instead: the value of each column of the pipeline's entity key."""
    ids: tuple[str, ...] = ()
    """Prediction ids; a request's id stands for all its rows."""


def erase(
    name: str,
    subject: Subject,
    *,
    who: str,
    reason: str,
    now: datetime,
    dry_run: bool = False,
    adapters: Adapters | None = None,
) -> dict[str, Any]:
    """Take answers out of a pipeline's request log, and list what was made of those days and may hold them still.

    Raises:
        SpecError: nobody is named, or entities can't be hashed as the log's were.
        DataRejected: a file of the log is damaged; all others are done.
        StoreUnavailable: the store does not answer; what was done holds, so erase again.

    """
    from mlops_tasks.core.erasure import Erasure, apply_erasures, days_of_erasure, write_down  # noqa: PLC0415 - pyarrow

    adapters, pipeline = adapters or Adapters(), load_pipeline(name)
    hashed = _hashes(pipeline, subject, adapters.environ)
    if not hashed and not subject.ids:
        msg = "erase: nobody is named; give --entity, --key or --id"
        raise SpecError(msg)
    erasure = Erasure(at=now, entities=tuple(sorted(hashed)), ids=tuple(sorted(set(subject.ids))), who=who, reason=reason)
    if dry_run:
        done = apply_erasures(adapters.store, name, dry=[erasure])
        days = sorted(done.days)
    else:
        write_down(adapters.store, name, erasure)
        done = apply_erasures(adapters.store, name)
        days = days_of_erasure(adapters.store, name, erasure)
    return {
        "pipeline": name,
        "erasure": erasure.subject,
        "dry_run": dry_run,
        "rows": done.rows,
        "files": done.files,
        "days": [day.isoformat() for day in days],
        "may_still_hold": list_derived(name, days, erasure.at, adapters),
        "not_reached": _elsewhere(name, adapters.environ),
    }


def _hashes(pipeline: PipelineSpec, subject: Subject, environ: Mapping[str, str]) -> set[str]:
    """Return the hashes that a log may have of a subject's entities: one for each secret that is known here."""
    from mlops_tasks.serving.recording.entities import entity_hasher, is_hash, known_keys  # noqa: PLC0415 - loads ONNX Runtime
    from mlops_tasks.serving.recording.segments import log_folder  # noqa: PLC0415 - likewise

    texts = [*subject.entities, *([_entity(pipeline, subject.key, environ)] if subject.key else [])]
    secrets = known_keys(log_folder(pipeline.name, environ), environ)
    if not secrets and not all(is_hash(text) for text in texts):
        msg = (
            "erase: entities can't be hashed as the log's were: set MLOPS_HASH_KEY as it is for the server, run this where "
            "the log's folder is (MLOPS_REQUEST_LOG), or give the hash itself"
        )
        raise SpecError(msg)
    return {entity_hasher(secret)(text).hex() for text in texts for secret in secrets or [b""]}


def _entity(pipeline: PipelineSpec, key: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """Return the text that the server makes of the entity's columns. Raises: SpecError."""
    from mlops_tasks.serving.private import entity_text  # noqa: PLC0415 - loads ONNX Runtime

    wanted = pipeline.features.entity_key
    if set(key) != set(wanted):
        msg = f"erase: --key must be given for each of {', '.join(wanted)}, got {', '.join(sorted(key))}"
        raise SpecError(msg)
    return entity_text(pipeline, key, environ)


def _elsewhere(name: str, environ: Mapping[str, str]) -> list[str]:
    """Say what of the log lies where this does not reach."""
    from mlops_tasks.serving.recording.segments import DAMAGED, log_folder, segments  # noqa: PLC0415 - loads numpy

    folder = log_folder(name, environ)
    said = ["segments that wait on servers' disks: they meet this erasure when they are shipped"]
    if segments(folder):
        said[0] += f"; {len(segments(folder))} wait in {folder}"
    aside = len(list((folder / DAMAGED).glob("*"))) if (folder / DAMAGED).is_dir() else 0
    said.append(f"pieces that were damaged and set aside on servers' disks: look into `damaged` there ({aside} here)")
    return said


def retain(name: str, *, now: datetime, adapters: Adapters | None = None) -> dict[str, Any]:
    """Remove the days of a request log that are older than `serve.log.retain`.

    Raises:
        NothingToDo: the pipeline keeps its log for ever, or nothing is older.
        StoreUnavailable: the store does not answer.

    """
    adapters, pipeline = adapters or Adapters(), load_pipeline(name)
    kept = pipeline.serve.log.retain
    if kept is None:
        msg = f"{name}: its request log is kept for ever; set serve.log.retain, such as 90d, to remove older days"
        raise NothingToDo(msg)
    files, days = remove_old(adapters.store, name, now - kept)
    if not files:
        msg = f"{name}: no day of its request log ended before {now - kept:%Y-%m-%d %H:%M} UTC"
        raise NothingToDo(msg)
    return {"pipeline": name, "files": files, "days": [day.isoformat() for day in days]}
