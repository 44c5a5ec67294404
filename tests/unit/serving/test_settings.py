"""How long a server takes to end, against what those who end it give it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from mlops_tasks.rendering.pod import GRACE_S, NOTICE_S
from mlops_tasks.serving.settings import ServeSettings

ROOT = Path(__file__).parents[3]


def test_the_stack_waits_as_long_as_a_server_may_take_to_end() -> None:
    stack = yaml.safe_load((ROOT / "docker-compose.yaml").read_text(encoding="utf-8"))
    given = re.fullmatch(r"(\d+)s", stack["services"]["serve"]["stop_grace_period"])
    assert given is not None
    assert int(given[1]) > ServeSettings().longest_end_s


def test_a_cluster_waits_as_long_as_a_server_may_take_to_end() -> None:
    assert ServeSettings().longest_end_s < GRACE_S - NOTICE_S


def test_the_time_to_end_grows_with_what_is_set() -> None:
    usual = ServeSettings().longest_end_s
    assert usual > 40  # 20 s for requests, 20 s for the log
    assert ServeSettings(drain_delay_s=10, drain_s=30).longest_end_s == usual + 20
