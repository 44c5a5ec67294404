"""What a window's report says of the model's performance."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from mlops_tasks.core.publishing import publish_files
from mlops_tasks.core.sketches import build_reference
from mlops_tasks.specs import MonitorSpec
from mlops_tasks.stages import monitor
from tests.drifting import label
from tests.performing import Performing, make_day, schema_of

if TYPE_CHECKING:
    from pathlib import Path

    from mlops_tasks.artifacts import Deployment, Task

TRAINED = range(-90, -41)


def with_reference(shop: Performing, deployment: Deployment) -> Deployment:
    """Add the sketches of the training data, which drift needs."""
    frames = [make_day(day, task=shop.task) for day in TRAINED]
    labels = pd.Series(np.repeat([label(day) for day in TRAINED], len(frames[0])))
    path = shop.folder / "reference.json"
    path.write_text(json.dumps(build_reference(pd.concat(frames, ignore_index=True), schema_of(shop.task), labels)))
    _, files = publish_files(shop.ports.store, "shop/candidates/y", {"reference.json": path})
    return deployment.model_copy(update={"files": (*deployment.files, *files)})


def reports(shop: Performing, spec: MonitorSpec, deployment: Deployment | None = None, *, worse: int = 99) -> list[str]:
    """Monitor six days; return each report's text without its tags."""
    windows = [shop.publish(day, worse=day >= worse) for day in range(6)]
    made = monitor.run(spec, windows, with_reference(shop, deployment or shop.deployment), ports=shop.ports)
    pages = [shop.ports.store.open_local(report.file("report.html")).read_text(encoding="utf-8") for report in made]
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.partition("</style>")[2])) for page in pages]


def test_a_report_says_whether_labels_are_awaited_or_how_the_model_did(tmp_path: Path) -> None:
    first, *_, last = reports(Performing(tmp_path), MonitorSpec(label_delay=timedelta(days=2)))

    assert "Performs as before" in first
    assert "Log loss above what the scores promise" in first
    assert "Performance: awaiting labels Window 2024-01-06 awaits its labels: they are due 2d after its end" in last
    metrics = re.search(r"Metric Measured Estimate without labels ROC AUC (\S+) (\S+) ", last)
    assert metrics is not None
    assert metrics[1] == "-", "not measured yet"
    assert 0.5 < float(metrics[2]) < 1
    assert re.search(r"ROC AUC 0\.\d{4} 0\.\d{4} ", first), "measured beside the estimate"


def test_a_report_draws_held_out_and_watched_windows_up_to_its_own(tmp_path: Path) -> None:
    shop = Performing(tmp_path)
    windows = [shop.publish(day, worse=day == 2) for day in range(4)]
    made = monitor.run(MonitorSpec(), windows, with_reference(shop, shop.deployment), ports=shop.ports)
    page = shop.ports.store.open_local(made[2].file("report.html")).read_text(encoding="utf-8")
    chart = page[page.index("<figcaption>Log loss<") :].partition("</svg>")[0]

    assert chart.count('class="past"') == 40
    assert [chart.count(f'<circle class="{kind}"') for kind in ("now", "alarm", "estimate")] == [2, 1, 3]
    assert chart.count('<line class="limit"') == 3
    assert f"{label(3)}: " not in chart
    ranking = page[page.index("<figcaption>ROC AUC<") :].partition("</svg>")[0]
    assert ranking.count('class="estimate"') == 3


def test_the_same_windows_again_give_the_same_report(tmp_path: Path) -> None:
    shop = Performing(tmp_path)
    deployment = with_reference(shop, shop.deployment)
    windows = [shop.publish(day) for day in range(4)]
    apart = [monitor.run(MonitorSpec(), [item], deployment, ports=shop.ports)[0].digest for item in windows]
    together = [report.digest for report in monitor.run(MonitorSpec(), windows, deployment, ports=shop.ports)]

    assert apart == together


@pytest.mark.parametrize(
    ("task", "ece", "why"),
    [
        ("regression", 0.0, "No estimate without labels: without labels nothing can be said of a regression"),
        ("binary", 0.3, "No estimate without labels: the model is not calibrated well enough"),
    ],
)
def test_a_report_says_why_there_is_no_estimate(tmp_path: Path, task: Task, ece: float, why: str) -> None:
    shop = Performing(tmp_path, task=task)

    assert why in reports(shop, MonitorSpec(), shop.deploy(ece=ece))[0]


def test_an_alarm_is_told_first(tmp_path: Path) -> None:
    text = reports(Performing(tmp_path), MonitorSpec(), worse=5)[-1]

    assert text.index("Performs worse") < text.index("This window and the history")


def test_a_model_without_its_files_has_no_such_section(tmp_path: Path) -> None:
    shop = Performing(tmp_path)

    assert "Labels known" not in reports(shop, MonitorSpec(), shop.deploy(without=("model.onnx",)))[0]
