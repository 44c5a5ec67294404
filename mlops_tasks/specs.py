"""What people tune: one frozen type per stage, read from `pipeline.yaml`; unknown keys are refused.

Every field's description is its reference documentation (`docs/reference/pipeline.md` is made from it).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mlops_tasks.artifacts import FeatureSchema, Frozen, UtcTime
from mlops_tasks.durations import Duration
from mlops_tasks.resources import Resources
from mlops_tasks.retrain_specs import RetrainSpec
from mlops_tasks.serve_specs import ChallengerSpec, ServeSpec, check_challenger

Cadence = Literal["hour", "day", "week", "month"]
ColumnType = Literal["int", "float", "string", "bool", "timestamp", "date"]
Privacy = Literal["keep", "private", "drop", "hash"]
StageName = Literal["collect", "validate_raw", "preprocess", "validate", "snapshot", "train", "evaluate", "deploy", "monitor"]


class SourceColumn(Frozen):
    """A column of a source. Short form in YAML: `name: float`."""

    type: ColumnType = Field(description="type of the values; `timestamp` is read as UTC unless it carries a zone")
    privacy: Privacy = Field(
        default="keep",
        description="`keep`; `private`: kept in raw data, never a feature; `drop`: never stored; "
        "`hash`: replaced at collection by HMAC-SHA256 with the secret in MLOPS_HASH_KEY",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"type": value} if isinstance(value, str) else value


class Source(Frozen):
    """Where rows come from: files or a SQL query. With `event_time` it is read by window, without it whole."""

    path: str | None = Field(
        default=None,
        description="a local glob, `s3://bucket/glob`, `package://NAME/glob` inside an installed Python package, "
        "or `requests://NAME`, what the served model of a pipeline was asked and answered; "
        ".csv, .csv.zip, .csv.gz, .jsonl, .jsonl.gz, .parquet",
    )
    url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of a database; `${VAR}` is taken from the environment, so secrets stay out of the file",
    )
    query: str | None = Field(default=None, description="SQL with the bound parameters :start and :end (UTC), for `url`")
    event_time: str | None = Field(default=None, description="column with the time of the event; None: a static table")
    null_values: tuple[str, ...] = Field(default=("",), description="texts that mean null in CSV files")
    columns: dict[str, SourceColumn] = Field(min_length=1, description="columns to read; others are ignored")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.path is None) == (self.url is None):
            msg = "needs either path or url"
            raise ValueError(msg)
        if (self.url is None) != (self.query is None):
            msg = "url and query go together"
            raise ValueError(msg)
        if self.event_time is not None and self.event_time not in self.columns:
            msg = f"event_time {self.event_time!r} is not among its columns"
            raise ValueError(msg)
        if self.event_time is not None and self.columns[self.event_time].type != "timestamp":
            msg = f"event_time {self.event_time!r} must have type timestamp, got {self.columns[self.event_time].type}"
            raise ValueError(msg)
        if self.event_time is not None and self.columns[self.event_time].privacy != "keep":
            msg = f"event_time {self.event_time!r} must have privacy keep: windows are cut by it"
            raise ValueError(msg)
        return self


class CollectSpec(Frozen):
    """What is collected for each window."""

    sources: dict[str, Source] = Field(min_length=1, description="source name (the table's name in features.sql) -> source")
    primary: str = Field(description="the source whose rows are the examples")
    entity_key: tuple[str, ...] = Field(
        min_length=1, description="columns that, with the event time, identify a row of the primary source"
    )
    duplicates: Literal["keep_last", "keep_first", "reject"] = Field(
        default="keep_last", description="what happens to rows of the primary source with the same entity key and event time"
    )
    empty: Literal["reject", "allow"] = Field(
        default="reject", description="a window without rows although the source holds later ones"
    )
    allowed_lateness: Duration = Field(
        default=timedelta(0),
        description="how long after a window's end its rows may still arrive; the window is not collected before",
    )

    @model_validator(mode="after")
    def _primary_known(self) -> Self:
        if self.primary not in self.sources:
            msg = f"primary {self.primary!r} is not one of sources {sorted(self.sources)}"
            raise ValueError(msg)
        source = self.sources[self.primary]
        if source.event_time is None:
            msg = f"primary source {self.primary!r} needs event_time"
            raise ValueError(msg)
        missing = [c for c in self.entity_key if c not in source.columns]
        if missing:
            msg = f"entity_key names {missing}, which source {self.primary!r} does not have"
            raise ValueError(msg)
        dropped = [c for c in self.entity_key if source.columns[c].privacy == "drop"]
        if dropped:
            msg = f"entity_key names {dropped}, which source {self.primary!r} drops: set their privacy to hash or private"
            raise ValueError(msg)
        unfit = [name for name in self.sources if not re.fullmatch(r"[A-Za-z_]\w{0,62}", name, re.ASCII)]
        if unfit:
            msg = f"source names must be letters, digits and _, as they name tables, got {unfit}"
            raise ValueError(msg)
        return self


class Expectation(Frozen):
    """One Great Expectations expectation by its own name, e.g. `expect_column_values_to_not_be_null`."""

    expect: str = Field(description="the expectation's name in Great Expectations, snake case")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="its arguments, as Great Expectations names them")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """Accept `{expect_x: {column: c}}` too."""
        if isinstance(value, dict) and len(value) == 1:
            ((name, kwargs),) = value.items()
            if name != "expect":
                return {"expect": name, "kwargs": kwargs or {}}
        return value


class ValidateRawSpec(Frozen):
    """What must hold of raw data, per source, before it is preprocessed."""

    expectations: dict[str, tuple[Expectation, ...]] = Field(
        default_factory=dict, description="source name -> expectations on its rows of one window"
    )


class PreprocessSpec(Frozen):
    """How features are made of raw data, in Spark."""

    features: str = Field(
        default="features.sql",
        description="`.sql`: one Spark SQL SELECT over the sources' names; "
        "`.py`: a function `features(tables: dict[str, DataFrame]) -> DataFrame`",
    )
    code: str = Field(default="", description="filled when the pipeline is read: the text of the features file")
    lookback: Duration = Field(
        default=timedelta(0), description="how far before a window its features look; raw rows of that time are given too"
    )
    row_rules: dict[str, str] = Field(
        default_factory=dict,
        description="name -> Spark SQL condition on the primary source that a row must meet; others go to rejected/",
    )
    feature_schema: FeatureSchema = Field(description="filled from the `features` section: what the table must hold")
    primary: str = Field(description="filled from collect.primary")
    primary_time: str = Field(description="filled from collect: the event time of the primary source")
    static: tuple[str, ...] = Field(default=(), description="filled from collect: the sources without an event time")


class ValidateSpec(Frozen):
    """What must hold of features before anything trains on them."""

    expectations: tuple[Expectation, ...] = Field(default=(), description="expectations on the features of one window")


class SnapshotSpec(Frozen):
    """How a range of windows becomes a dataset version, split by time."""

    test: Duration = Field(default=timedelta(days=30), description="the latest part of the range, held out for evaluation")
    validation: float = Field(
        default=0.1, gt=0, lt=0.9, description="share of the training time, its latest part, for early stopping"
    )
    embargo: Duration = Field(default=timedelta(0), description="gap between training and test that neither uses")
    label_delay: Duration = Field(
        default=timedelta(0), description="how long after the event its label is known; later rows are left out"
    )
    min_rows: int = Field(default=1000, ge=1, description="fewest training rows")


class TrainSpec(Frozen):
    """Model and training knobs."""

    model: Literal["tabm", "mlp", "linear", "hgb"] = Field(
        default="tabm", description="`tabm` (best), `mlp` (6x quicker), `linear` (logistic or ridge), `hgb` (gradient boosting)"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="`auto`: CUDA when there is one, else CPU")
    seed: int = Field(default=0, ge=0, description="seed of weights, shuffling and dropout")
    threads: int = Field(default=2, ge=0, description="CPU threads for torch, recorded; 0: all free cores")
    max_epochs: int = Field(default=40, ge=1, description="most passes over the training rows before the refit")
    patience: int = Field(default=5, ge=1, description="evaluations without improvement before early stopping; 4 per epoch")
    batch_size: int = Field(default=0, ge=0, description="rows a step; 0: 128 to 1024 by the number of rows")
    learning_rate: float = Field(default=2e-3, gt=0, le=1, description="AdamW's peak learning rate, after 100 warm-up steps")
    weight_decay: float = Field(default=1e-2, ge=0, description="AdamW's weight decay")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout between layers")
    width: int = Field(default=128, ge=8, le=4096, description="units a layer")
    depth: int = Field(default=2, ge=1, le=16, description="layers")
    members: int = Field(default=8, ge=1, le=64, description="tabm: ensemble members that share weights")
    bins: int = Field(default=32, ge=2, le=256, description="bins of the piecewise-linear embedding of a numeric column")
    ema: float = Field(default=0.995, ge=0, lt=1, description="decay of the moving average of weights; 0: off")
    class_weight: Literal["none", "balanced"] = Field(
        default="none", description="`balanced` weighs the loss by class rarity; `none` tunes the threshold instead"
    )
    refit: bool = Field(default=True, description="after early stopping, train again on all rows for the same number of steps")
    trials: int = Field(
        default=1, ge=1, le=1000, description="hyperparameter trials (Optuna TPE) judged on the validation split"
    )
    checkpoint_every: Duration = Field(default=timedelta(seconds=30), description="how often a resumable checkpoint is written")


class Gate(Frozen):
    """One rule a candidate must pass on the test split."""

    metric: str = Field(
        description="scikit-learn's metric name: roc_auc, average_precision, log_loss, ece, f1, accuracy, r2, rmse, mae ..."
    )
    min: float | None = Field(default=None, description="least value")
    max: float | None = Field(default=None, description="greatest value")
    against: Literal["constant", "hgb", "champion"] | None = Field(
        default=None, description="compare with a baseline or with what serves now, on the same rows"
    )
    tolerance: float = Field(default=0.0, ge=0, description="by how much it may be worse than `against`")

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.min is None and self.max is None and self.against is None:
            msg = "needs min, max or against"
            raise ValueError(msg)
        return self


class Slice(Frozen):
    """A group of rows that is judged by itself: every value of a categorical column with enough rows."""

    column: str = Field(description="a feature column")
    metric: str = Field(default="roc_auc", description="metric of each slice")
    floor: float | None = Field(default=None, description="least value in every slice")
    min_rows: int = Field(default=200, ge=10, description="smaller slices are shown, not judged")


class EvaluateSpec(Frozen):
    """How a candidate is judged."""

    gates: tuple[Gate, ...] = Field(default=(), description="rules that must all hold")
    slices: tuple[Slice, ...] = Field(default=(), description="groups of rows judged by themselves")
    bootstrap: int = Field(default=200, ge=0, le=10_000, description="resamples of the confidence intervals; 0: none")
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="level of the confidence intervals")
    resample: Literal["row", "day"] = Field(
        default="row",
        description="what a resample draws: single rows, or all rows of a `day` together where those resemble each other",
    )
    importance_rows: int = Field(default=5000, ge=100, description="most rows used for permutation importance")


class DeploySpec(Frozen):
    """How a model goes into service."""

    golden_rows: int = Field(default=32, ge=1, le=1000, description="real rows whose scores the served model must repeat")
    tolerance: float = Field(default=1e-5, gt=0, description="greatest difference of a score between torch and ONNX")
    promote: Literal["auto", "ask", "never"] = Field(
        default="auto",
        description="a model that passes its gate: `auto` goes into service; `ask` waits in Airflow for a person's approval; "
        "`never` is registered as challenger",
    )


class PerformanceSpec(Frozen):
    """When a model counts as worse than it was on the windows held out from its training, once labels are known."""

    min_coverage: float = Field(
        default=0.8, gt=0, le=1, description="least share of a window's rows whose label must be known before it is judged"
    )
    min_labelled: int = Field(default=30, ge=2, description="fewest labelled rows of a window that is judged")
    effect_size: float = Field(
        default=0.05,
        ge=0,
        description="least rise that matters of log loss, 1 - ROC AUC or mean squared error, as a share of it",
    )
    max_ece: float = Field(
        default=0.05,
        gt=0,
        description="greatest expected calibration error on held-out rows with which metrics are estimated without labels",
    )


class AlarmRule(Frozen):
    """How many alarmed windows make a row, which asks for a training and stays out of what is ordinary."""

    at_least: int = Field(default=2, ge=1, description="alarmed windows")
    of: int = Field(default=2, ge=1, le=100, description="among so many that adjoin each other")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.at_least > self.of:
            msg = f"at_least must be at most of, got {self.at_least} of {self.of}"
            raise ValueError(msg)
        return self


class TriedSpec(Frozen):
    """How the watched model's challengers are tried, so that a report can compare them with the champion."""

    challenger: ChallengerSpec = Field(default_factory=ChallengerSpec, description="filled from serve.challenger")
    labels: Source | None = Field(
        default=None, description="filled from collect: the source that serve.challenger.labels names"
    )


class MonitorSpec(Frozen):
    """When a window counts as drifted."""

    false_alarm_rate: float = Field(default=0.05, gt=0, lt=0.5, description="share of windows like the history that may alarm")
    effect_size: float = Field(default=0.05, ge=0, description="least Wasserstein / sd or total variation that matters")
    alarms: AlarmRule = Field(
        default_factory=AlarmRule, description="what makes a row of alarms; `consecutive: 2` is short for 2 of 2"
    )
    min_history: int = Field(default=30, ge=5, description="windows of history below which nothing alarms")
    ignore: tuple[str, ...] = Field(default=(), description="columns shown but never alarmed, e.g. the season")
    performance: PerformanceSpec = Field(default_factory=PerformanceSpec)
    label_delay: Duration = Field(default=timedelta(0), description="filled from snapshot.label_delay")
    trial: TriedSpec = Field(default_factory=TriedSpec, description="filled from serve.challenger and collect")
    model: str = Field(
        default="",
        pattern=r"^([a-z][a-z0-9_]{0,62})?$",
        description="the pipeline whose champion is watched and trained again; empty: this one. "
        "A pipeline whose source is the request log of another watches that one's production data",
    )
    season: Duration = Field(
        default=timedelta(days=28),
        description="how far around the same date a year before windows are of the same season, which a window may resemble "
        "instead of all that came before; 0: no season",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        """Accept `consecutive: 2`."""
        if not isinstance(value, dict) or "consecutive" not in value:
            return value
        rest = {key: item for key, item in value.items() if key != "consecutive"}
        return rest | {"alarms": {"at_least": value["consecutive"], "of": value["consecutive"]}}


class ScheduleSpec(Frozen):
    """When the DAGs run by themselves; None: only when triggered."""

    start: UtcTime = Field(description="first window of the pipeline's history")
    ingest: bool = Field(default=True, description="one run per window of the cadence, after the window's end")
    train: str | None = Field(default=None, description="cron of .train, e.g. `0 6 * * 1`; trains on the latest train_range")
    train_range: Duration = Field(default=timedelta(days=180), description="length of the range of a scheduled training")
    monitor: bool = Field(default=True, description="one run per window, after the window's end")
    catchup: bool = Field(default=False, description="run all windows since start when first unpaused")


class PipelineSpec(Frozen):
    """A whole pipeline, as its folder describes it."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="the folder's name; DAGs are `<name>.ingest` ...")
    description: str = Field(default="", description="one sentence for people")
    owner: str = Field(default="mlops", description="who is asked when it fails")
    tags: tuple[str, ...] = Field(default=(), description="labels in the Airflow UI")
    cadence: Cadence = Field(default="day", description="length of a window")
    schedule: ScheduleSpec
    features: FeatureSchema = Field(description="model inputs, label, task, event time and entity key")
    collect: CollectSpec
    validate_raw: ValidateRawSpec = Field(default_factory=ValidateRawSpec)
    preprocess: PreprocessSpec
    validate_features: ValidateSpec = Field(default_factory=ValidateSpec, alias="validate")
    snapshot: SnapshotSpec = Field(default_factory=SnapshotSpec)
    train: TrainSpec = Field(default_factory=TrainSpec)
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec)
    deploy: DeploySpec = Field(default_factory=DeploySpec)
    monitor: MonitorSpec = Field(default_factory=MonitorSpec)
    retrain: RetrainSpec = Field(default_factory=RetrainSpec)
    serve: ServeSpec = Field(default_factory=ServeSpec)
    resources: dict[StageName, Resources] = Field(
        default_factory=dict, description="stage -> limits of its container, and its GPUs; part of no cache key"
    )

    @model_validator(mode="after")
    def _features_are_allowed(self) -> Self:
        private = {
            (name, column)
            for name, source in self.collect.sources.items()
            for column, spec in source.columns.items()
            if spec.privacy == "private"
        }
        for feature in self.features.columns:
            for source, column in private:
                if feature.name == column:
                    msg = f"features.columns.{column} is private in source {source!r}: set its privacy to hash, or leave it out"
                    raise ValueError(msg)
        for name in self.validate_raw.expectations:
            if name not in self.collect.sources:
                msg = f"validate_raw.expectations names source {name!r}, which collect.sources does not have"
                raise ValueError(msg)
        known = {c.name for c in self.features.columns}
        for item in self.evaluate.slices:
            if item.column not in known:
                msg = f"evaluate.slices names column {item.column!r}, which features.columns does not have"
                raise ValueError(msg)
        for name in self.monitor.ignore:
            if name not in known | {self.features.label}:
                msg = f"monitor.ignore names column {name!r}, which features.columns does not have"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _serving_fits(self) -> Self:
        sources = {name: {c: spec.type for c, spec in source.columns.items()} for name, source in self.collect.sources.items()}
        check_challenger(self.serve.challenger, self.features.task, self.features.label, sources)
        unknown = sorted(set(self.serve.log.omit) - {column.name for column in self.features.columns})
        if unknown:
            msg = f"serve.log.omit names {unknown}, which features.columns does not have"
            raise ValueError(msg)
        return self
