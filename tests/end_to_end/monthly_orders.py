"""A pipeline of monthly windows that end with the last whole month, so that a schedule of today's has data to train on."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from tests.integration.tiny_pipeline import FEATURES, PIPELINE

NAME = "orders"
MONTHS = 17
ROWS = 250
SCHEDULE = '{start: START, train: "0 6 1 * *", train_range: 150d, ingest: false, monitor: false}'
CHANGES = {
    "name: tiny": f"name: {NAME}",
    "cadence: day": "cadence: month",
    "schedule: {start: 2024-01-01}": "schedule: " + SCHEDULE,
    "snapshot: {test: 3d,": "snapshot: {test: 31d,",
    "min_rows: 500": "min_rows: 100",
    "{metric: roc_auc, min: 0.55}": "{metric: roc_auc, min: 0.4}",
    "against: champion, tolerance: 0.05": "against: champion, tolerance: 0.5",
}
"""Gates that let every model pass: what is tested is who may take the champion's place."""


def month(today: datetime, back: int) -> datetime:
    """Return the first of the month `back` months ago."""
    year, number = divmod(today.year * 12 + today.month - 1 - back, 12)
    return datetime(year, number + 1, 1, tzinfo=UTC)


def months(today: datetime) -> list[datetime]:
    """Return the starts of all windows, oldest first, and the end of the last."""
    return [month(today, back) for back in range(MONTHS, -1, -1)]


def write_orders(folder: Path, today: datetime) -> None:
    """Write the data to `folder/orders` and the pipeline to `folder/pipelines/orders`."""
    data, pipeline = folder / NAME, folder / "pipelines" / NAME
    data.mkdir()
    pipeline.mkdir(parents=True)
    text = PIPELINE.replace("DATA", str(data))
    for old, new in CHANGES.items():
        assert old in text, old
        text = text.replace(old, new.replace("START", f"{months(today)[0]:%Y-%m-%d}"))
    (pipeline / "pipeline.yaml").write_text(text)
    (pipeline / "features.sql").write_text(FEATURES)
    (data / "orders.csv").write_text("\n".join(_rows(today)) + "\n")
    (data / "shops.csv").write_text("shop,size\nnorth,10\nsouth,20\n")


def _rows(today: datetime) -> list[str]:
    chance = random.Random(7)
    lines = ["at,order_id,shop,channel,amount,items,returned"]
    for start, end in pairwise(months(today)):
        for number in range(ROWS):
            at = start + (end - start) * number / ROWS
            channel, amount = chance.choice(("web", "phone")), round(chance.uniform(1, 100), 2)
            returned = chance.random() < 0.1 + 0.4 * (channel == "phone") + 0.004 * amount
            shop = chance.choice(("north", "south"))
            lines.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{len(lines)},{shop},{channel},{amount},1,{str(returned).lower()}")
    return lines
