"""A process that is killed at any moment leaves nothing half done; the same command again makes it whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.integration.crashing import Death
from tests.integration.tiny_pipeline import CONSUMES, NAME, RANGE, RUN
from tests.integration.wholeness import assert_nothing_partial, assert_whole, keys, mlflow_summary, swept

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.conftest import Undisturbed
    from tests.integration.crashing import Ended, Mortals
    from tests.integration.tiny_pipeline import Home

pytestmark = [pytest.mark.spark, pytest.mark.slow]
KILLED = -9


def copy(home: Home, folder: Path) -> Home:
    return home.copy(folder / "store", folder / "mlflow")


def deaths(stage: str, commits: list[str]) -> list[Death]:
    """Return the moments at which a stage is killed, one after the other, each time a little further."""
    record = f"{NAME}/runs/{RUN}/{stage}.json"
    results = [commit for commit in commits if "/outcomes/" not in commit]  # what the stage took is told after its result
    found = [Death(number=1), Death(number=len(results) // 2, after=True)]
    if any("/cache/" in commit for commit in commits):
        found.append(Death(match="/cache/"))
    return [*found, Death(match=record), Death(match=record, after=True)]


@pytest.mark.parametrize("stage", CONSUMES)
def test_a_stage_killed_again_and_again(stage: str, undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path) -> None:
    home, whole = copy(undisturbed.before(stage), tmp_path), undisturbed.after(stage)
    command = home.command(stage)
    for death in deaths(stage, undisturbed.ended[stage].commits):
        ended = mortals.run(command, home.environ, death)
        assert ended.code == KILLED, ended.err
        assert_nothing_partial(home, whole)
        recorded = home.store.exists(f"{NAME}/runs/{RUN}/{stage}.json")
        assert recorded == (death.after and bool(death.match)), death
    assert_retry(mortals, home, whole, stage)


def assert_retry(mortals: Mortals, home: Home, whole: Home, stage: str, *options: str) -> Ended:
    ended = mortals.run(home.command(stage, *options), home.environ)
    assert ended.code == 0, ended.err
    assert_whole(home, whole, stage)
    return ended


@pytest.mark.parametrize("stage", ["train", "deploy"])
def test_a_kill_after_each_change_to_mlflow(stage: str, undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path) -> None:
    whole = undisturbed.after(stage)
    changes = [n for n, text in enumerate(undisturbed.ended[stage].commits, 1) if text.startswith("Mlflow")]
    assert len(changes) >= 5
    for number in changes:
        home = copy(undisturbed.before(stage), tmp_path / str(number))
        ended = mortals.run(home.command(stage), home.environ, Death(number=number, after=True))
        assert ended.code == KILLED, ended.err
        assert_nothing_partial(home, whole)
        assert_retry(mortals, home, whole, stage)


def test_a_kill_while_torch_fits(undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path) -> None:
    before = undisturbed.before("train")
    knobs = ("train.model=mlp", "train.checkpoint_every=0s", "train.max_epochs=2", "train.refit=true")
    options = [part for knob in knobs for part in ("--set", knob)]
    whole, home = copy(before, tmp_path / "whole"), copy(before, tmp_path / "home")
    clean = mortals.run(whole.command("train", *options), whole.environ)
    assert clean.code == 0, clean.err
    steps = sum(moment.startswith("step") for moment in clean.moments)
    ended = mortals.run(home.command("train", *options), home.environ, Death(kind="step", number=steps * 2 // 3))
    assert ended.code == KILLED, ended.err
    assert [key for key in home.store.list(f"{NAME}/") if "/checkpoints/" in key]
    assert_nothing_partial(home, whole)
    again = assert_retry(mortals, home, whole, "train", *options)
    assert sum(moment.startswith("step") for moment in again.moments) < steps


@pytest.mark.parametrize("table", ["features", "rejected"])
def test_a_kill_while_spark_writes(table: str, undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path) -> None:
    home, whole = copy(undisturbed.before("preprocess"), tmp_path), undisturbed.after("preprocess")
    ended = mortals.run(home.command("preprocess"), home.environ, Death(kind="spark", match=table))
    assert ended.code == KILLED, ended.err
    assert_nothing_partial(home, whole)
    assert_retry(mortals, home, whole, "preprocess")


def test_a_kill_takes_spark_along(undisturbed: Undisturbed, tmp_path: Path) -> None:
    home = copy(undisturbed.before("preprocess"), tmp_path)
    (tmp_path / "tmp").mkdir()
    environ = {**home.environ, "MLOPS_SPARK": "local[1]", "TMPDIR": str(tmp_path / "tmp")}
    for _ in range(2):
        command = [sys.executable, "-m", "mlops_tasks", *home.command("preprocess")]
        with psutil.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            servers = wait_for_spark(process)
            process.kill()
        assert psutil.wait_procs(servers, timeout=30)[1] == []
        assert len(list((tmp_path / "tmp").glob("mlops-spark-*/"))) == 1  # the second run swept what the first one left


def wait_for_spark(process: psutil.Popen) -> list[psutil.Process]:
    """Return the JVM that serves Spark to a process as soon as there is one."""
    while process.poll() is None:
        for child in process.children():
            with suppress(psutil.NoSuchProcess):  # short-lived ones, such as git's
                if "org.apache.spark.deploy.SparkSubmit" in child.cmdline():
                    return [child]
        time.sleep(0.02)
    pytest.fail(f"ended with {process.returncode} before it had started Spark")


def test_a_loop_killed_five_times_at_random(undisturbed: Undisturbed, mortals: Mortals, tmp_path: Path) -> None:
    whole, home = undisturbed.after("deploy"), copy(undisturbed.before("collect"), tmp_path)
    chance = random.Random(20_240_101)
    command = ["run", NAME, *RANGE, "--json"]
    codes = []
    for _ in range(5):
        # What earlier tries finished is kept, so a late moment may come after the end of a later try.
        death = Death(number=chance.randint(2, 14), after=True, delay_s=chance.uniform(0, 0.2))
        codes.append(mortals.run(command, home.environ, death).code)
        assert_nothing_partial(home, whole)
    assert codes[0] == KILLED
    assert set(codes) <= {KILLED, 0}
    ended = mortals.run(command, home.environ)
    assert ended.code == 0, ended.err
    runs = (f"{NAME}/runs/", f"{NAME}/outcomes/")  # of each try by its own name
    assert {key for key in keys(home) if not key.startswith(runs)} == {key for key in keys(whole) if not key.startswith(runs)}
    assert mlflow_summary(home) == mlflow_summary(whole)
    assert ended.result["metrics"] == whole.results("evaluate")[0]["metrics"]
    assert (ended.result["version"], ended.result["alias"]) == (1, "champion")
    assert swept(home) == []
