"""The stage table: what each stage is called, consumes, produces and runs in. Read this first."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlops_tasks.artifacts import (
    Candidate,
    Dataset,
    Deployment,
    DriftReport,
    Features,
    RawData,
    ValidFeatures,
    ValidRaw,
    Verdict,
    Window,
)
from mlops_tasks.specs import (
    CollectSpec,
    DeploySpec,
    EvaluateSpec,
    MonitorSpec,
    PipelineSpec,
    PreprocessSpec,
    SnapshotSpec,
    TrainSpec,
    ValidateRawSpec,
    ValidateSpec,
)


@dataclass(frozen=True)
class Stage:
    """One step of the flow."""

    name: str
    summary: str
    spec: type
    consumes: dict[str, Any]
    """Parameter name -> type, as in the stage's `run`."""
    produces: Any
    image: Literal["spark", "train"]
    section: str
    """The attribute of `PipelineSpec` that holds its spec."""
    gpu: bool = False
    timeout_s: int = 3600
    libraries: tuple[str, ...] = field(default=())
    """Distributions whose versions are part of the cache key."""

    @property
    def per_window(self) -> bool:
        """Whether the stage gives one result per window."""
        return getattr(self.produces, "__origin__", None) is list

    def function(self) -> Callable[..., Any]:
        """Import the stage's module and return its `run`."""
        function: Callable[..., Any] = importlib.import_module(f"mlops_tasks.stages.{self.name}").run
        return function

    def spec_of(self, pipeline: PipelineSpec) -> Any:
        """Return the stage's part of a pipeline's spec."""
        return getattr(pipeline, self.section)


STAGES: tuple[Stage, ...] = (
    Stage(
        name="collect",
        summary="Read one window's rows from every source; apply the privacy rules; store them unchanged.",
        spec=CollectSpec,
        consumes={"windows": Sequence[Window]},
        produces=list[RawData],
        image="spark",
        section="collect",
        libraries=("pyarrow",),
    ),
    Stage(
        name="validate_raw",
        summary="Check raw rows against their expectations; fail closed.",
        spec=ValidateRawSpec,
        consumes={"raw": Sequence[RawData]},
        produces=list[ValidRaw],
        image="spark",
        section="validate_raw",
        libraries=("great-expectations",),
    ),
    Stage(
        name="preprocess",
        summary="Clean, join, label and make features in Spark; keep rejected rows with their reasons.",
        spec=PreprocessSpec,
        consumes={"raw": Sequence[ValidRaw], "windows": Sequence[Window]},
        produces=list[Features],
        image="spark",
        section="preprocess",
        libraries=("pyspark", "pyarrow"),
    ),
    Stage(
        name="validate",
        summary="Check features against their expectations in one pass; fail closed.",
        spec=ValidateSpec,
        consumes={"features": Sequence[Features]},
        produces=list[ValidFeatures],
        image="spark",
        section="validate_features",
        libraries=("great-expectations",),
    ),
    Stage(
        name="snapshot",
        summary="Fix a dataset version: which rows of which files, split by time, known at its end.",
        spec=SnapshotSpec,
        consumes={"features": Sequence[ValidFeatures]},
        produces=Dataset,
        image="train",
        section="snapshot",
    ),
    Stage(
        name="train",
        summary="Train the model and the baselines it must beat; export to ONNX.",
        spec=TrainSpec,
        consumes={"dataset": Dataset},
        produces=Candidate,
        image="train",
        section="train",
        gpu=True,
        timeout_s=24 * 3600,
        libraries=("torch", "scikit-learn", "onnx"),
    ),
    Stage(
        name="evaluate",
        summary="Judge the candidate on held-out later rows, against the baselines and the champion.",
        spec=EvaluateSpec,
        consumes={"candidate": Candidate, "dataset": Dataset, "champion": Deployment | None},
        produces=Verdict,
        image="train",
        section="evaluate",
        libraries=("scikit-learn", "onnxruntime"),
    ),
    Stage(
        name="deploy",
        summary="Register the model; check golden rows; move the alias that the server follows.",
        spec=DeploySpec,
        consumes={"verdict": Verdict},
        produces=Deployment,
        image="train",
        section="deploy",
        libraries=("onnxruntime", "mlflow"),
    ),
    Stage(
        name="monitor",
        summary="Compare new windows with the champion's training data; measure the champion where labels are due.",
        spec=MonitorSpec,
        consumes={"features": Sequence[ValidFeatures], "deployment": Deployment},
        produces=list[DriftReport],
        image="train",
        section="monitor",
    ),
)

BY_NAME = {stage.name: stage for stage in STAGES}
INGEST = ("collect", "validate_raw", "preprocess", "validate")
TRAIN = ("snapshot", "train", "evaluate", "deploy")
