"""The report stands alone, says the verdict first, escapes what data brings, and holds no row's values."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from mlops_tasks.core.report import render_report
from tests.unit.core.evaluations import SECRET, make_details, make_evaluation

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task

SPECS: dict[str, dict[str, object]] = {
    "binary": {
        "gates": [{"metric": "roc_auc", "min": 0.6}, {"metric": "log_loss", "against": "constant"}],
        "slices": [{"column": "city", "metric": "roc_auc", "floor": 0.55}],
    },
    "multiclass": {"gates": [{"metric": "accuracy", "min": 0.5}], "slices": [{"column": "city", "metric": "accuracy"}]},
    "regression": {"gates": [{"metric": "rmse", "max": 20}], "slices": [{"column": "city", "metric": "mae", "floor": 99}]},
}
FIGURES: dict[str, list[str]] = {
    "binary": ["ROC curve", "Precision and recall", "Calibration", "Score distribution by class", "Confusion matrix"],
    "multiclass": ["Calibration", "Confidence, right and wrong", "Confusion matrix"],
    "regression": ["Predicted against actual", "Residuals"],
}
VOID = {"meta", "link", "br", "img", "hr"}


class Balance(HTMLParser):
    """Collects every tag that opens and never closes, or closes and never opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_every_task_has_its_figures_in_sound_html(task: Task) -> None:
    html = render_report(make_evaluation(task, SPECS[task]), make_details())
    captions = re.findall(r"<figcaption>([^<]+)", html)
    assert captions[: len(FIGURES[task])] == FIGURES[task]
    assert {"Feature importance", "city"} <= set(captions)
    balance = Balance()
    balance.feed(html)
    assert (balance.wrong, balance.open) == ([], [])
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) >= 5
    for drawing in drawings:
        ET.fromstring(drawing.replace("xlink:href", "href"))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_loads_nothing_and_its_colours_are_the_pages(task: Task) -> None:
    html = render_report(make_evaluation(task, SPECS[task]), make_details())
    assert not re.search(r'(src|href)="(?!#|http://127\.0\.0\.1:5000)', html)
    assert "<script" not in html
    assert "@import" not in html
    assert "url(" not in html.replace("url(#", "")
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", drawn) == []
    assert "var(--candidate)" in drawn


def test_a_failed_verdict_says_so_first_with_its_reason() -> None:
    html = render_report(make_evaluation("binary", {"gates": [{"metric": "roc_auc", "min": 0.999}]}), make_details())
    assert "Not passed" in html
    assert "1 of 1 rules failed." in html
    assert "is below the required 0.999" in html
    assert html.index("Not passed</div>") < html.index("Metrics on the test split")


def test_no_gate_and_no_champion_are_said() -> None:
    html = render_report(make_evaluation("binary", absent={"champion": ""}), make_details(champion_version=None))
    assert "No gate is set, so nothing was asked of this model." in html
    assert "Champion was not compared: there is no champion yet." in html


def test_text_from_data_is_escaped() -> None:
    html = render_report(make_evaluation("binary", SPECS["binary"]), make_details())
    assert "<b>Rome" not in html
    assert "&lt;b&gt;Rome" in html
    assert "Predicts who comes &lt;again&gt;." in html


def test_a_value_of_a_single_row_is_not_shown() -> None:
    evaluation = make_evaluation("binary", SPECS["binary"])
    assert SECRET not in render_report(evaluation, make_details())
    assert SECRET not in evaluation.model_dump_json()


def test_the_same_evaluation_gives_the_same_bytes() -> None:
    evaluation = make_evaluation("regression", SPECS["regression"])
    assert render_report(evaluation, make_details()) == render_report(evaluation, make_details())
