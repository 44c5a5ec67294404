"""Raw tables to feature rows, in Spark: row rules, the user's features, types, one output partition a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_tasks.core.request_log import SCORE, VERSION
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pyspark.sql import Column, DataFrame, SparkSession

    from mlops_tasks.artifacts import FeatureSchema, Window
    from mlops_tasks.specs import PreprocessSpec

WINDOW = "__window"
"""The partition's name while Spark writes; no column of a source or of the features has it."""
REASON = "rejected_by"
"""The column of rejected rows that names the first rule that a row broke."""


ANSWERED = (VERSION, SCORE)
"""Columns of the request log that are kept beside the features, so that what was really answered can be measured."""
NUMERIC = ("tinyint", "smallint", "int", "bigint", "float", "double", "decimal", "boolean")
NESTED = ("array", "map", "struct", "binary", "variant")


@dataclass(frozen=True)
class Prepared:
    """Two lazy frames: feature rows, and primary rows that a row rule rejected with their `reason`."""

    features: DataFrame
    rejected: DataFrame


def prepare(
    session: SparkSession, spec: PreprocessSpec, tables: Mapping[str, DataFrame], time: str, windows: tuple[Window, ...]
) -> Prepared:
    """Plan the features of contiguous windows; nothing runs yet.

    Args:
        session: where the plan will run.
        spec: the user's code, row rules and schema.
        tables: source name -> rows, lookback included; static sources whole.
        time: event time column of the primary source.
        windows: the windows to make, contiguous, in order.

    Raises:
        SpecError: the code or a rule does not compile, or lacks a column of the schema.

    """
    primary = tables[spec.primary]
    _require_free_names(primary, spec)
    reason = _first_broken_rule(spec, primary)
    judged = primary.withColumn(REASON, reason)
    rejected = _within(judged.where(judged[REASON].isNotNull()), time, windows)
    accepted = judged.where(judged[REASON].isNull()).drop(REASON)
    made = _user_features(session, spec, {**tables, spec.primary: accepted})
    schema = spec.feature_schema
    features = _within(_typed(made, schema, spec.features), schema.event_time, windows)
    return Prepared(features=_with_window(features, schema.event_time, windows), rejected=_with_window(rejected, time, windows))


def order_totally(first: Sequence[str], frame: DataFrame) -> list[str]:
    """Return the columns that order a window's rows: `first`, then all others, so that the same rows give the same bytes."""
    return list(dict.fromkeys([*first, *(name for name in frame.columns if name != WINDOW)]))


def _require_free_names(primary: DataFrame, spec: PreprocessSpec) -> None:
    if REASON in primary.columns:
        msg = (
            f"collect.sources.{spec.primary}: column {REASON!r} must have another name: rejected rows get a column of this one"
        )
        raise SpecError(msg)


def _first_broken_rule(spec: PreprocessSpec, primary: DataFrame) -> Column:
    """Return a column with the name of the first rule that a row breaks; a condition that is null is broken."""
    from pyspark.errors import PySparkException  # noqa: PLC0415 - seconds to import
    from pyspark.sql import functions as F  # noqa: N812, PLC0415 - the name that Spark's users know

    reason = F.lit(None).cast("string")
    for name, condition in reversed(spec.row_rules.items()):
        broken = ~F.coalesce(F.expr(condition), F.lit(False))  # noqa: FBT003 - a literal column
        try:
            primary.select(broken.alias(name)).schema  # noqa: B018 - makes the server analyse the condition
        except PySparkException as error:
            if error.getCondition() is None:  # not about the condition: Spark does not answer
                raise
            msg = f"preprocess.row_rules.{name}: {condition!r} is no condition on source {spec.primary!r}: {first_line(error)}"
            raise SpecError(msg) from error
        reason = F.when(broken, F.lit(name)).otherwise(reason)
    return reason


def _user_features(session: SparkSession, spec: PreprocessSpec, tables: Mapping[str, DataFrame]) -> DataFrame:
    from pyspark.errors import PySparkException  # noqa: PLC0415 - seconds to import

    try:
        if spec.features.endswith(".sql"):
            for name, table in tables.items():
                table.createOrReplaceTempView(name)
            made = session.sql(spec.code.rstrip().rstrip(";"))
        else:
            made = _user_function(spec)(dict(tables))
        made.schema  # noqa: B018 - makes the server analyse the plan
    except PySparkException as error:
        if error.getCondition() is None:
            raise
        msg = f"{spec.features}: Spark does not accept it: {first_line(error)}"
        raise SpecError(msg) from error
    return made


def _user_function(spec: PreprocessSpec) -> Callable[[dict[str, DataFrame]], DataFrame]:
    """Return the function `features` of a pipeline's features.py: its user's own code, run as such."""
    scope: dict[str, object] = {"__name__": "features"}
    try:
        exec(compile(spec.code, spec.features, "exec"), scope)  # noqa: S102 - the pipeline's own code
    except SyntaxError as error:
        msg = f"{spec.features}: line {error.lineno}: {error.msg}"
        raise SpecError(msg) from error
    function = scope.get("features")
    if not callable(function):
        msg = f"{spec.features}: must define a function features(tables: dict[str, DataFrame]) -> DataFrame"
        raise SpecError(msg)
    return function


def _typed(made: DataFrame, schema: FeatureSchema, where: str) -> DataFrame:
    """Select the schema's columns in its order, with its types, and what the request log knows of the answers."""
    from pyspark.sql import functions as F  # noqa: N812, PLC0415 - the name that Spark's users know

    wanted = dict.fromkeys([schema.event_time, *schema.entity_key, *(c.name for c in schema.columns), schema.label])
    wanted |= dict.fromkeys(name for name in ANSWERED if name in made.columns)
    missing = [name for name in wanted if name not in made.columns]
    if missing:
        lacking = ", ".join(f"{name} (the label)" if name == schema.label else name for name in missing)
        has = ", ".join(made.columns)
        msg = f"{where}: its result lacks {lacking}, which `features` in pipeline.yaml asks for; it has {has}"
        raise SpecError(msg)
    _require_types(dict(made.dtypes), schema, where)
    types = dict.fromkeys(schema.numeric, "double") | dict.fromkeys(schema.categorical, "string")
    types[schema.event_time] = "timestamp"
    if schema.task == "regression":
        types[schema.label] = "double"
    return made.select(*(F.col(n).cast(types[n]).alias(n) if n in types else F.col(n) for n in wanted))


def _require_types(have: Mapping[str, str], schema: FeatureSchema, where: str) -> None:
    for name in [*schema.numeric, *([schema.label] if schema.task == "regression" else [])]:
        if not have[name].startswith(NUMERIC):
            hint = "cast it" if name == schema.label else "cast it, or make its kind categorical"
            msg = f"{where}: column {name} must be numeric, got {have[name]}; {hint}"
            raise SpecError(msg)
    for name in schema.categorical:
        if have[name].startswith(NESTED):
            msg = f"{where}: column {name} must be a text or a code, got {have[name]}; cast it"
            raise SpecError(msg)
    if have[schema.event_time] not in {"timestamp", "date", "timestamp_ntz"}:
        msg = f"{where}: column {schema.event_time} must be a timestamp, got {have[schema.event_time]}; cast it"
        raise SpecError(msg)


def _within(frame: DataFrame, time: str, windows: tuple[Window, ...]) -> DataFrame:
    from pyspark.sql import functions as F  # noqa: N812, PLC0415 - the name that Spark's users know

    start, end = (F.lit(t.strftime("%Y-%m-%d %H:%M:%S")).cast("timestamp") for t in (windows[0].start, windows[-1].end))
    return frame.where((F.col(time) >= start) & (F.col(time) < end))


def _with_window(frame: DataFrame, time: str, windows: tuple[Window, ...]) -> DataFrame:
    """Add the label of each row's window: the greatest start that is not after its event time."""
    from pyspark.sql import functions as F  # noqa: N812, PLC0415 - the name that Spark's users know

    start = F.date_trunc(_truncation(windows[0]), F.col(time))
    day, hour = F.date_format(start, "yyyy-MM-dd"), F.date_format(start, "yyyy-MM-dd'T'HH")
    return frame.withColumn(WINDOW, F.when(F.hour(start) == 0, day).otherwise(hour))  # as `Window.label` has it


def _truncation(window: Window) -> str:
    """Return Spark's name of a window's length; its weeks start on Monday, as ours."""
    hours = (window.end - window.start).total_seconds() / 3600
    return {1: "hour", 24: "day", 168: "week"}.get(int(hours), "month")


def first_line(error: Exception) -> str:
    """Return the first line of an engine's message, at most 300 characters."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
