"""What stages hand on: frozen references to published results, never the results themselves.

An artifact says where its files lie (`FileRef.key`, relative to the store), what they are
(`sha256`, bytes, rows) and what was proven about them. `digest` identifies the content;
the same content has the same digest wherever and whenever it was made.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Task = Literal["binary", "multiclass", "regression"]
ColumnKind = Literal["numeric", "categorical"]
Split = Literal["train", "validation", "test"]
Intent = Literal["scheduled", "manual", "backfill", "drift", "reproduce"]


def _as_utc(value: datetime) -> datetime:
    """Read a time without a zone as UTC; move one with a zone to UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_as_utc)]


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def digest_of(value: Any) -> str:
    """Hash a JSON-serialisable value or model: sha256 hex of its canonical JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Window(Frozen):
    """A half-open interval of event time, `[start, end)`, in UTC."""

    start: UtcTime
    end: UtcTime

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.end <= self.start:
            msg = f"a window must end after it starts, got start {self.start:%Y-%m-%dT%H:%M} and end {self.end:%Y-%m-%dT%H:%M}"
            raise ValueError(msg)
        return self

    @property
    def label(self) -> str:
        """The window's start as a path segment and for people, e.g. `2013-01-31` or `2013-01-31T05`."""
        return f"{self.start:%Y-%m-%d}" if self.start.hour == 0 else f"{self.start:%Y-%m-%dT%H}"

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%M}, {self.end:%Y-%m-%dT%H:%M})"


class FileRef(Frozen):
    """One published, immutable file: its key in the store, size in bytes, sha256 and rows (None: not a table)."""

    key: str
    bytes: int
    sha256: str
    rows: int | None = None


class Artifact(Frozen):
    """A published result: the files that hold it and the digest of their content."""

    digest: str
    files: tuple[FileRef, ...]

    def file(self, name: str) -> FileRef:
        """Return the file whose key ends with `/name`. Raises: KeyError."""
        for ref in self.files:
            if ref.key.rsplit("/", 1)[-1] == name:
                return ref
        raise KeyError(name)


class FeatureColumn(Frozen):
    """One model input."""

    name: str = Field(description="the column's name in the features table")
    kind: ColumnKind = Field(description="`numeric`: a quantity; `categorical`: a text or a code, unknown values allowed")


class FeatureSchema(Frozen):
    """What a features table holds: model inputs, label, time and entity columns."""

    columns: tuple[FeatureColumn, ...] = Field(description="the model's inputs, in its order")
    label: str = Field(description="the column to predict")
    task: Task = Field(description="what kind of value the label is")
    event_time: str = Field(description="the column with the time of the event, by which windows and splits are cut")
    entity_key: tuple[str, ...] = Field(description="columns that, with the event time, identify a row")
    positive: str | None = Field(default=None, description="binary: the label value that counts as positive; None: true or 1")

    @property
    def numeric(self) -> list[str]:
        """Names of the numeric inputs, in model order."""
        return [c.name for c in self.columns if c.kind == "numeric"]

    @property
    def categorical(self) -> list[str]:
        """Names of the categorical inputs, in model order."""
        return [c.name for c in self.columns if c.kind == "categorical"]


class TableRef(Frozen):
    """One source's rows of one window (or all rows of a static source)."""

    file: FileRef
    columns: dict[str, str] = Field(description="column name -> type name")


class RawData(Artifact):
    """The rows of every source for one window, as they came; privacy rules already applied."""

    window: Window
    tables: dict[str, TableRef]
    rows: int = Field(description="rows of the primary source")
    duplicates: int = Field(description="rows of the primary source dropped by the duplicate rule")


class ValidRaw(Artifact):
    """Raw data that met every raw expectation; `files` hold the validation result and its report."""

    raw: RawData

    @property
    def window(self) -> Window:
        """The window of the raw data."""
        return self.raw.window


class Features(Artifact):
    """Model-ready rows of one window (`features.parquet`) and the rejected ones (`rejected.parquet`, absent if none)."""

    window: Window
    feature_schema: FeatureSchema
    rows: int
    rejected: dict[str, int] = Field(description="row rule -> rows it rejected")


class ValidFeatures(Artifact):
    """Features that met every expectation; `files` hold the validation result and its report."""

    features: Features

    @property
    def window(self) -> Window:
        """The window of the features."""
        return self.features.window


class SplitRef(Frozen):
    """The rows of one split: event time within `window`, read from the listed files."""

    window: Window
    files: tuple[FileRef, ...]


class Dataset(Artifact):
    """An immutable dataset version: `digest` is the version; splits are disjoint in time."""

    as_of: UtcTime = Field(description="only rows and labels known at this time are in it")
    feature_schema: FeatureSchema
    splits: dict[Split, SplitRef]
    rows: int

    @property
    def version(self) -> str:
        """The short form of the version, for people and names."""
        return self.digest[:12]


class Candidate(Artifact):
    """A trained model that nobody judged yet.

    `files`: `model.onnx` (large weights in `model.onnx.data`), `signature.json`, `golden.json`, `reference.json`
    (sketches of the training data), `baseline.onnx` with `baseline_signature.json` (HistGradientBoosting),
    `training.json` (params, curves, seeds, hardware, versions, the constant baseline).
    """

    fingerprint: str = Field(description="cache key of the training: one per spec, code and dataset")
    dataset_version: str
    training: Window = Field(description="event time of the training rows, validation included")
    task: Task
    mlflow_run_id: str
    feature_schema: FeatureSchema | None = Field(default=None, description="the dataset's; None: derive it from signature.json")


class Judgement(Frozen):
    """One rule of the gate: what was asked, what was seen."""

    rule: str
    passed: bool
    reason: str


class Verdict(Artifact):
    """A candidate, judged; `files`: `evaluation.json`, `report.html`, `model_card.md`."""

    candidate: Candidate
    passed: bool
    judgements: tuple[Judgement, ...]
    metrics: dict[str, float] = Field(description="scikit-learn metric name -> value on the test split")
    champion_version: int | None = Field(description="registry version it was compared with")


class Deployment(Artifact):
    """A registered model version and the alias it holds; `files` are the served model's files."""

    model: str
    version: int
    alias: Literal["champion", "challenger", "none"] = Field(description="what it took when deployed; `none`: registered only")
    fingerprint: str
    dataset_version: str
    training: Window
    feature_schema: FeatureSchema
    mlflow_run_id: str


class ColumnDrift(Frozen):
    """One column of one window against the reference."""

    column: str
    distance: float = Field(description="Wasserstein / sd (numeric) or total variation (categorical)")
    standardised: float = Field(description="distance in robust standard deviations of the pipeline's own history")
    psi: float
    js: float = Field(default=0.0, description="Jensen-Shannon distance, base 2")
    ks: tuple[float, float] | None = Field(
        default=None, description="bounds of the Kolmogorov-Smirnov statistic; None for categories"
    )
    missing: float = Field(default=0.0, description="share of null or infinite values, less that of the reference")
    alarmed: bool


class DriftReport(Artifact):
    """One window against what the champion learned from and saw since; `files`: `drift.json`, `report.html`, `sketch.json`."""

    window: Window
    model_version: int
    status: Literal["ok", "alarm", "warming_up"]
    columns: tuple[ColumnDrift, ...]
    reason: str
