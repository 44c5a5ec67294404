"""What a report and a model card say beside the evaluation: which model, which data, which run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_tasks.artifacts import Window


@dataclass(frozen=True)
class Details:
    """Facts about the candidate and the run; texts as they are shown."""

    pipeline: str
    description: str
    owner: str
    fingerprint: str
    dataset_version: str
    training: Window
    training_rows: int
    champion_version: int | None
    champion_training: Window | None
    run_id: str
    intent: str
    code_version: str
    evaluated_at: str
    tracker_url: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
