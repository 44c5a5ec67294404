"""Synthetic days of a small shop whose columns vary from day to day more than chance alone, as real ones do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from mlops_tasks.artifacts import FeatureColumn, FeatureSchema, Window

START = datetime(2024, 1, 1, tzinfo=UTC)
SCHEMA = FeatureSchema(
    columns=(
        FeatureColumn(name="price", kind="numeric"),
        FeatureColumn(name="rain", kind="numeric"),
        FeatureColumn(name="shop", kind="categorical"),
    ),
    label="bought",
    task="binary",
    event_time="at",
    entity_key=("id",),
)


def window(day: int) -> Window:
    return Window(start=START + timedelta(days=day), end=START + timedelta(days=day + 1))


def label(day: int) -> str:
    return window(day).label


def make_day(day: int, rows: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng([seed, day])
    price = rng.normal(100 + rng.normal(0, 4), 20, rows)
    rain = np.where(rng.random(rows) < 0.9, 0.0, rng.exponential(5 * rng.random(), rows))
    shop = rng.choice(["north", "south", "east"], rows, p=rng.dirichlet([50, 30, 20]))
    return pd.DataFrame(
        {
            "at": pd.Timestamp(window(day).start) + pd.to_timedelta(np.arange(rows), unit="s"),
            "id": np.arange(rows),
            "price": np.where(rng.random(rows) < 0.02, np.nan, price),
            "rain": rain,
            "shop": shop.astype(object),
            "bought": rng.random(rows) < 0.3,
        }
    )


def make_days(days: int, rows: int = 200, seed: int = 0) -> pd.DataFrame:
    return pd.concat([make_day(day, rows, seed) for day in range(days)], ignore_index=True)


def label_of(frame: pd.DataFrame) -> pd.Series[str]:
    labels: pd.Series[str] = frame["at"].dt.strftime("%Y-%m-%d")
    return labels
