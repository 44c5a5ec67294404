"""The card has the paper's sections, and says what is weak or unknown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from mlops_tasks.core.model_card import find_caveats, render_model_card
from tests.unit.core.evaluations import SECRET, make_details, make_evaluation

if TYPE_CHECKING:
    from mlops_tasks.artifacts import Task

SECTIONS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_it_has_the_sections_of_mitchell_et_al(task: Task) -> None:
    card = render_model_card(make_evaluation(task), make_details())
    assert re.findall(r"^## (.*)$", card, flags=re.MULTILINE) == SECTIONS
    assert "Predicts who comes <again>." in card


def test_its_tables_are_whole() -> None:
    spec = {"gates": [{"metric": "roc_auc", "min": 0.6}], "slices": [{"column": "city", "metric": "roc_auc", "floor": 0.55}]}
    card = render_model_card(make_evaluation("binary", spec), make_details())
    tables = re.findall(r"(?:^\|.*\|$\n)+", card, flags=re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({row.count("|") for row in table.splitlines()}) == 1
    assert "| roc_auc |" in card
    assert SECRET not in card


def test_a_pipeline_without_description_says_what_to_do() -> None:
    card = render_model_card(make_evaluation("binary"), make_details(description=""))
    assert "The pipeline has no description; set `description` in its pipeline.yaml." in card


def test_caveats_name_failed_rules_small_groups_and_missing_comparisons() -> None:
    spec = {
        "gates": [{"metric": "roc_auc", "min": 0.999}],
        "slices": [{"column": "city", "metric": "roc_auc", "min_rows": 10_000}],
    }
    caveats = find_caveats(make_evaluation("binary", spec, absent={"hgb": "its scores are not finite"}))
    assert caveats[0].startswith("A rule did not hold: roc_auc 0.")
    assert caveats[1:] == [
        "3 values of `city` have fewer than 10,000 test rows: quality there is unknown.",
        "Not compared with hgb: its scores are not finite.",
        "Judged on 10 days of later data only; other seasons may differ, which drift monitoring watches.",
    ]
