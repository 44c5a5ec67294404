"""Features to features that met their expectations."""

from __future__ import annotations

from collections.abc import Sequence

from mlops_tasks.artifacts import Features, ValidFeatures
from mlops_tasks.core.validation import Batch, prove
from mlops_tasks.ports import Ports
from mlops_tasks.specs import Expectation, ValidateSpec

TABLE = "features"


def run(spec: ValidateSpec, features: Sequence[Features], *, ports: Ports) -> list[ValidFeatures]:
    """Check the features of every window; fail closed.

    A window without rows has no values that could break a rule: it must only meet the rules of the table itself
    (`expect_table_...`), so that features whose code dropped every row don't pass where rows are asked for.

    Raises:
        DataRejected: an expectation does not hold.
        SpecError: an expectation can't be computed.

    """
    filled, empty = [f for f in features if f.rows], [f for f in features if not f.rows]
    of_table = [item for item in spec.expectations if item.expect.startswith("expect_table_")]
    proven = _prove(filled, spec.expectations, ports) + _prove(empty, of_table, ports)
    return sorted(proven, key=lambda item: item.window.start)


def _prove(features: Sequence[Features], asked: Sequence[Expectation], ports: Ports) -> list[ValidFeatures]:
    batches = [Batch(f.window, {TABLE: f.file("features.parquet")}, f.digest) for f in features]
    proofs = prove(batches, {TABLE: asked} if asked else {}, kind="features", ports=ports) if batches else []
    return [ValidFeatures(digest=p.digest, files=p.files, features=f) for f, p in zip(features, proofs, strict=True)]
