"""Features of a shop's orders for tests of Spark: a query with a look back, row rules, windows of raw rows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from mlops_tasks.artifacts import FeatureColumn, Features, FeatureSchema, ValidRaw, Window
from mlops_tasks.specs import PreprocessSpec
from tests.raw_windows import HOUR, START, make_valid, orders

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlops_tasks.ports import Ports

SQL = """
SELECT at, id, price, shop,
  sum(price) OVER (PARTITION BY shop ORDER BY unix_seconds(at) RANGE BETWEEN 21600 PRECEDING AND 1 PRECEDING) AS before,
  price > 10 AS dear
FROM orders;
"""

SLOW_SQL = SQL.replace("price,", "price + 0 * aggregate(sequence(1L, 300000 + id), 0L, (sum, x) -> sum + x % 7) AS price,", 1)
"""The same rows by a query that takes a while for each, and can't be done once for all."""


def schema(**changes: Any) -> FeatureSchema:
    numeric, categorical = changes.pop("numeric", ("price", "before")), changes.pop("categorical", ("shop",))
    columns = [FeatureColumn(name=name, kind="numeric") for name in numeric]
    columns += [FeatureColumn(name=name, kind="categorical") for name in categorical]
    given = {"label": "dear", "task": "binary", "event_time": "at", "entity_key": ("id",), **changes}
    return FeatureSchema(columns=tuple(columns), **given)


def spec(code: str = SQL, **changes: Any) -> PreprocessSpec:
    given = {
        "features": "features.sql",
        "lookback": timedelta(hours=6),
        "row_rules": {"has_price": "price IS NOT NULL", "has_shop": "shop <> ''"},
        "feature_schema": schema(),
        "primary": "orders",
        "primary_time": "at",
        **changes,
    }
    return PreprocessSpec(code=code, **given)


def shop_window(ports: Ports, window: Window, count: int = 24) -> ValidRaw:
    """One order every 24th of the window; each eighth has no price, two share time and rule."""
    step = (window.end - window.start) / count
    first = int((window.start - START) / HOUR) * 100
    rows = [
        (window.start + i * step, first + i, None if i % 8 == 3 else float((first + i) % 17), "north" if i % 2 else "south")
        for i in range(count)
    ]
    rows += [(window.start + 3 * step, first + 98, None, "west"), (window.start + 3 * step, first + 97, None, "east")]
    rows += [(window.start + step, first + 99, 3.0, "")]
    return make_valid(ports.store, window, orders(*sorted(rows)))


def digests(made: Sequence[Features]) -> dict[str, Any]:
    return {f.window.label: (f.digest, f.rows, f.rejected, [(r.key, r.sha256, r.rows) for r in f.files]) for f in made}
