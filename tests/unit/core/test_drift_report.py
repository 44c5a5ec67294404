from __future__ import annotations

import json
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_tasks.artifacts import Deployment, Features, ValidFeatures, Window
from mlops_tasks.core.drift import Judged, WindowRecord, calibrate, score_window, training_baseline
from mlops_tasks.core.drift_report import Comparison, describe_drift, render_drift
from mlops_tasks.core.drift_report.bars import BARS, rebin
from mlops_tasks.core.drift_report.charts import draw_categories, draw_history, draw_numeric, ticks
from mlops_tasks.core.sketches import Categories, NumericBins, Reference, build_reference, sketch_window
from mlops_tasks.specs import MonitorSpec
from tests.drifting import SCHEMA, label_of, make_day, make_days, window

HISTORY = 40
RECORD = WindowRecord(window=window(50), model_version=3, features="d", status="ok", columns=(), reason="")


@pytest.fixture(scope="module")
def reference() -> Reference:
    frame = make_days(HISTORY)
    return Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))


def compare(reference: Reference, frame: pd.DataFrame, spec: MonitorSpec | None = None) -> Comparison:
    spec = spec or MonitorSpec(ignore=("rain",))
    baseline = training_baseline(reference)
    calibration = calibrate(baseline, spec)
    sketch = sketch_window(pa.Table.from_pandas(frame), reference, window(50).label)
    features = Features(digest="d", files=(), window=window(50), feature_schema=SCHEMA, rows=len(frame), rejected={})
    deployment = Deployment(
        digest="d",
        files=(),
        model="shop",
        version=3,
        alias="champion",
        fingerprint="f",
        dataset_version="d",
        training=Window(start=window(0).start, end=window(HISTORY).start),
        feature_schema=SCHEMA,
        mlflow_run_id="r",
    )
    return Comparison(
        pipeline="shop",
        item=ValidFeatures(digest="d", files=(), features=features),
        deployment=deployment,
        spec=spec,
        judged=Judged(RECORD, sketch, baseline, calibration, score_window(baseline, calibration, sketch, spec)),
    )


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"src", "href"}]


def shifted() -> pd.DataFrame:
    frame = make_day(50)
    return frame.assign(price=frame["price"] * 1.6, shop=frame["shop"].where(frame["shop"] != "north", "<b>North</b>"))


def test_the_page_has_a_plot_per_alarmed_column_and_needs_nothing_else(reference: Reference) -> None:
    made = compare(reference, shifted())
    text = render_drift(made)
    page = Page(text)

    assert [c.column for c in made.score.alarmed] == ["price", "shop"]
    assert page.tags.count("svg") == 3
    assert page.links == []
    assert made.reason[1:] in text
    for start in [k for k in range(len(text)) if text.startswith("<svg", k)]:
        ET.fromstring(text[start : text.index("</svg>", start) + len("</svg>")])


def test_an_ordinary_page_has_the_history_and_the_table(reference: Reference) -> None:
    page = Page(render_drift(compare(reference, make_day(50))))

    assert page.tags.count("svg") == 1
    assert page.tags.count("tr") == 1 + 4


def test_names_from_data_are_escaped() -> None:
    frame = make_days(HISTORY).assign(shop="<script>alert(1)</script>")
    spoiled = Reference.from_json(build_reference(frame, SCHEMA, label_of(frame)))

    assert "<script" not in render_drift(compare(spoiled, make_day(50)))


@pytest.mark.parametrize(
    "frame",
    [
        make_day(50).iloc[:0],
        make_day(50).iloc[:1],
        make_day(50).assign(price=np.nan, shop=None),
        make_day(50).assign(price=np.inf),
        make_day(50).assign(price=1e300),
        make_day(50).drop(columns="bought"),
    ],
    ids=["empty", "one row", "all null", "infinite", "huge", "no label"],
)
def test_bad_windows_have_a_page_and_json(reference: Reference, frame: pd.DataFrame) -> None:
    made = compare(reference, frame)

    text = render_drift(made)

    assert "nan" not in text.lower().replace("nano", "")
    assert json.dumps(describe_drift(made), allow_nan=False)


def test_the_same_comparison_gives_the_same_bytes(reference: Reference) -> None:
    assert render_drift(compare(reference, shifted())) == render_drift(compare(reference, shifted()))


def test_warming_up_has_a_page_without_a_threshold(reference: Reference) -> None:
    made = compare(reference, make_day(50), MonitorSpec(min_history=100))

    assert "too little history" in render_drift(made)
    assert describe_drift(made)["threshold"] is None


def test_equal_bars_hold_all_rows(reference: Reference) -> None:
    made = compare(reference, shifted())
    layout = reference.layouts["price"]
    assert isinstance(layout, NumericBins)

    found = rebin(layout, made.sketch.columns["price"], reference.merged.columns["price"])

    assert found is not None
    edges, then, now = found
    assert edges.size == BARS + 1
    assert then.sum() == pytest.approx(1, abs=0.02)
    assert now.sum() == pytest.approx(1, abs=0.02)
    middle = (edges[1:] + edges[:-1]) / 2
    assert (then * middle).sum() == pytest.approx(make_days(HISTORY)["price"].mean(), rel=0.02)
    assert (now * middle).sum() == pytest.approx(shifted()["price"].mean(), rel=0.05)


def test_charts_name_other_and_null(reference: Reference) -> None:
    made = compare(reference, shifted())
    layout = reference.layouts["shop"]
    assert isinstance(layout, Categories)

    assert "(other)" in draw_categories(layout, made.sketch.columns["shop"], reference.merged.columns["shop"])


def test_charts_of_nothing_are_drawn(reference: Reference) -> None:
    made = compare(reference, make_day(50).iloc[:0])
    empty = NumericBins((), 0.0, 1.0)
    column = made.sketch.columns["price"]
    blank = type(column)(
        counts=np.zeros((1, 1), dtype=np.int64),
        sums=np.zeros((1, 1), dtype=np.int64),
        nulls=column.nulls,
        infinite=column.infinite,
        squares=column.squares,
        minimum=column.minimum,
        maximum=column.maximum,
    )

    assert draw_numeric(empty, blank, blank) == ""
    assert "<svg" in draw_history(reference.history.windows, made.calibration, "w", made.score)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 7, [-2, 0, 2, 4, 6]), (5, 5, [5]), (0, 0.037, [0, 0.01, 0.02, 0.03])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
