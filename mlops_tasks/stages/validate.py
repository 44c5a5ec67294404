"""Features to features that met their expectations."""

from __future__ import annotations

from collections.abc import Sequence

from mlops_tasks.artifacts import Features, ValidFeatures
from mlops_tasks.core.validation import Batch, prove
from mlops_tasks.ports import Ports
from mlops_tasks.specs import ValidateSpec

TABLE = "features"


def run(spec: ValidateSpec, features: Sequence[Features], *, ports: Ports) -> list[ValidFeatures]:
    """Check the features of every window; fail closed.

    Raises:
        DataRejected: an expectation does not hold.
        SpecError: an expectation can't be computed.

    """
    batches = [Batch(f.window, {TABLE: f.file("features.parquet")}, f.digest) for f in features]
    asked = {TABLE: spec.expectations} if spec.expectations else {}
    proofs = prove(batches, asked, kind="features", ports=ports)
    return [
        ValidFeatures(digest=p.digest, files=p.files, features=f) for f, p in zip(features, proofs, strict=True)
    ]
