"""Raw data to raw data that met its expectations."""

from __future__ import annotations

from collections.abc import Sequence

from mlops_tasks.artifacts import RawData, ValidRaw
from mlops_tasks.core.validation import Batch, Proof, prove
from mlops_tasks.ports import Ports
from mlops_tasks.specs import ValidateRawSpec


def run(spec: ValidateRawSpec, raw: Sequence[RawData], *, ports: Ports) -> list[ValidRaw]:
    """Check the raw rows of every window; fail closed.

    A window without rows of the primary source (allowed by collect, or before the source begins) has nothing to
    break a rule: it passes without a check.

    Raises:
        DataRejected: an expectation does not hold.
        SpecError: an expectation can't be computed.

    """
    asked = {name: items for name, items in spec.expectations.items() if items}
    filled = [item for item in raw if item.rows]
    empty = [item for item in raw if not item.rows]
    proofs = dict(zip((r.digest for r in filled), prove(_batches(filled), asked, kind="raw", ports=ports), strict=True))
    proofs |= dict(zip((r.digest for r in empty), prove(_batches(empty), {}, kind="raw", ports=ports), strict=True))
    return [_valid(item, proofs[item.digest]) for item in raw]


def _batches(raw: Sequence[RawData]) -> list[Batch]:
    return [Batch(r.window, {name: table.file for name, table in r.tables.items()}, r.digest) for r in raw]


def _valid(raw: RawData, proof: Proof) -> ValidRaw:
    return ValidRaw(digest=proof.digest, files=proof.files, raw=raw)
