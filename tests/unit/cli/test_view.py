from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from mlops_tasks.cli.view import show

RUN: dict[str, Any] = {
    "pipeline": "shop",
    "start": datetime(2030, 1, 1, tzinfo=UTC),
    "end": datetime(2030, 2, 1, tzinfo=UTC),
    "windows": 31,
    "rows": 1000,
    "rejected": 1,
    "dataset": "d",
    "metrics": {"roc_auc": 0.7},
    "model": "shop",
    "version": 1,
    "alias": "champion",
    "report": "r",
    "mlflow_run": "m",
}


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (12_345_678, "12.3 MB"), (999_600_000, "1 GB"), (5e12, "5000 GB")],
)
def test_a_run_on_a_remote_store_says_what_it_moved(capsys: pytest.CaptureFixture[str], size: float, shown: str) -> None:
    moved = {"uploaded_bytes": int(size), "downloaded_bytes": 0, "reused_bytes": 45_000_000}
    show("run", {**RUN, "moved": moved})
    assert f"moved {shown} up, 0 B down, 45 MB reused" in capsys.readouterr().out


def test_a_run_on_a_folder_does_not(capsys: pytest.CaptureFixture[str]) -> None:
    show("run", RUN)
    assert "moved" not in capsys.readouterr().out
