"""How long a server takes to end, against what those who end it give it; how many files it may open."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
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


LIMITED = """
import resource, sys
from mlops_tasks.serving.server import allow_files
soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_files(600, print)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("soft", "hard", "said"),
    [
        (256, 1024, ["856"]),
        (900, 1024, ["900"]),
        (256, 700, ["at most 700 files may be open, so fewer than 600 connections: raise `ulimit -n`", "700"]),
    ],
)
def test_it_may_open_as_many_files_as_it_may_have_connections_or_says_that_it_may_not(
    soft: int, hard: int, said: list[str]
) -> None:
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == said
