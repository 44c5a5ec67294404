"""Answers counted by route and status, whoever gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from starlette.testclient import TestClient

from mlops_tasks.serving.app import Parts, make_app
from mlops_tasks.serving.auth import Authentication, Tokens
from mlops_tasks.serving.front import Front
from mlops_tasks.serving.metrics import Exposition, Metrics, route_of
from mlops_tasks.serving.slot import Slot

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp


def counted(text: str) -> dict[tuple[str, str], float]:
    """Return (route, status) -> answers of a page of metrics."""
    found = {}
    for line in text.splitlines():
        if line.startswith("mlops_http_responses_total{"):
            labels, value = line.split("{", 1)[1].split("} ")
            names = dict(part.split("=") for part in labels.split(","))
            found[names["route"].strip('"'), names["status"].strip('"')] = float(value)
    return found


def test_every_answer_is_counted_also_what_is_refused_before_the_application(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("predict a-token-of-a-client\n", encoding="utf-8")
    slot = Slot("shop", problem="model shop has no champion yet")
    metrics = Metrics(slot)
    app: ASGIApp = make_app(Parts(slot, max_body_bytes=100), Exposition(metrics))
    client = TestClient(Front(Authentication(app, Tokens(file)), metrics, 5))
    client.post("/invocations", json={})
    client.headers["authorization"] = "Bearer a-token-of-a-client"
    client.post("/invocations", json={})
    client.post("/v2/models/shop/infer", json={"x": "a" * 200})
    client.post("/v2/repository/models/shop/load", json={})
    client.get("/v2/health/live")
    for number in range(20):
        client.get(f"/made-up-{number}")
        client.get(f"/v2/models/made-up-{number}")
    metrics.responded("connection", 408)
    busy = TestClient(Front(app, metrics, 0))
    busy.get("/version")
    assert counted(metrics.text().decode()) == {
        ("invocations", "401"): 1,
        ("invocations", "503"): 1,
        ("infer", "413"): 1,
        ("load", "403"): 1,
        ("live", "200"): 1,
        ("other", "404"): 20,
        ("model", "404"): 20,
        ("connection", "408"): 1,
        ("version", "503"): 1,
    }


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v2/models/a/versions/7/infer", "infer"),
        ("/v2/models/a/ready", "ready"),
        ("/v2/models/a/versions/7", "model"),
        ("/v2/models/a/b/infer", "other"),
        ("/v2/repository/models/a/unload", "unload"),
        ("/v2/models//infer", "other"),
        ("/ping", "ready"),
        ("", "other"),
    ],
)
def test_routes_have_names(path: str, route: str) -> None:
    assert route_of(path) == route
