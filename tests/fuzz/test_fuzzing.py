"""A short run of every fuzz target, the same each time; long ones are `make fuzz`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import NAMES
from tests.fuzz.application import application
from tests.fuzz.decoders import TARGETS
from tests.fuzz.seeds import seeds, tokens
from tests.requirements import give_up

ROOT = Path(__file__).resolve().parents[2]
RUNS = 4000


def test_there_is_a_target_for_each_name() -> None:
    assert set(NAMES) == {*TARGETS, "application"}


@pytest.mark.parametrize("name", NAMES)
def test_seeds_break_no_promise(name: str) -> None:
    for data in seeds(name):
        (application if name == "application" else TARGETS[name])(data)


def test_words_are_written_as_libfuzzer_reads_them() -> None:
    assert tokens().splitlines()[:2] == ['"inputs"', '"outputs"']
    assert '"\\x22inputs\\x22"' in tokens().splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_input_that_coverage_leads_to_breaks_a_promise(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        give_up("Atheris is not installed: it has wheels for Linux on x86-64 alone")
    command = [sys.executable, "-m", "tests.fuzz", name, "--here", "--corpus", str(tmp_path)]
    command += ["--runs", str(RUNS), "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert f"stat::number_of_executed_units: {RUNS}" in done.stderr
    assert len(list((tmp_path / name).iterdir())) > len(seeds(name)), "coverage led nowhere: is the code instrumented?"
