"""One fit by two processes: as good as by one, repeatable, resumed after a kill, and nothing left of it when it dies."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.core.checkpoints import Slot
from mlops_tasks.core.fitting import Trainer, Watch, count_steps
from mlops_tasks.core.hardware import Placement
from mlops_tasks.core.losses import Rows, predict, score_loss
from mlops_tasks.core.network import Standardiser, build_backbone
from mlops_tasks.core.parallel.job import Job
from mlops_tasks.core.parallel.launch import fit_in_processes
from mlops_tasks.core.transform import learn_transform
from mlops_tasks.errors import ModelRejected, WorkerLost
from mlops_tasks.specs import TrainSpec
from mlops_tasks.stages import train
from tests.fakes import FakeBar, FakeProgress, FakeTracker, make_ports
from tests.unit.stages import test_train as case

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.core.fit_state import Evaluation, Fitted
    from mlops_tasks.core.transform import Transform

pytestmark = pytest.mark.slow
ROWS = 641
"""With batches of 32 the last one has a single row: none for the second process."""
SPEC = TrainSpec(width=16, members=2, bins=8, batch_size=32, patience=3, dropout=0.0, learning_rate=1e-2)
DROPPING = SPEC.model_copy(update={"dropout": 0.1})
ENDLESS = 10_000_000


def make_rows(rows: int, seed: int, transform: Transform | None = None) -> tuple[Rows, Transform]:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "c": rng.choice(["x", "y"], rows)})
    frame["b"] = frame["b"].where(rng.random(rows) > 0.1)
    y = (frame["a"] + (frame["c"] == "x") + rng.normal(0, 0.5, rows) > 0).to_numpy(dtype=np.float32)
    learned = transform or learn_transform(frame, ["a", "b"], ["c"], bins=SPEC.bins)
    x, flags = Standardiser(learned.numeric)(torch.from_numpy(learned.numbers(frame)))
    weight = torch.from_numpy(rng.uniform(0.5, 1.5, rows).astype(np.float32))
    return Rows(x, flags, torch.from_numpy(learned.codes(frame)), torch.from_numpy(y), weight), learned


TRAIN, TRANSFORM = make_rows(ROWS, 1)
HELD, _ = make_rows(201, 2, TRANSFORM)
JOB = Job(
    transform=TRANSFORM, spec=SPEC, task="binary", outputs=1, steps=count_steps(SPEC, ROWS, 4), device="cpu", processes=2,
    threads=1,
)  # fmt: skip


def fit_alone(spec: TrainSpec = SPEC) -> Fitted:
    trainer = Trainer(build_backbone(TRANSFORM, spec, 1), TRAIN, spec, "binary", Watch(FakeBar()))
    return trainer.run(steps=JOB.steps, validation=HELD)


def fit_shared(folder: Path, job: Job = JOB, watch: Watch | None = None, *, validation: Rows | None = HELD) -> Fitted:
    folder.mkdir()
    return fit_in_processes(job, TRAIN, validation, watch or Watch(FakeBar()), folder)


def loss_of(fitted: Fitted, spec: TrainSpec = SPEC) -> float:
    scores = predict(build_backbone(TRANSFORM, spec, 1), fitted.weights, HELD, "binary")
    return score_loss(scores, HELD, "binary")


def same(left: Fitted, right: Fitted) -> bool:
    return left.curve == right.curve and all(torch.equal(left.weights[name], right.weights[name]) for name in left.weights)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit by two processes that nothing disturbed."""
    return fit_shared(tmp_path_factory.mktemp("whole") / "job", replace(JOB, spec=DROPPING))


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    alone = fit_alone()
    told: list[Evaluation] = []
    bar = FakeBar()
    shared = fit_shared(tmp_path / "job", watch=Watch(bar, None, lambda evaluation, _rows_s: told.append(evaluation)))
    assert (shared.steps, shared.best_step, shared.steps_per_pass) == (alone.steps, alone.best_step, alone.steps_per_pass)
    for name, weight in alone.weights.items():
        assert torch.allclose(shared.weights[name], weight, atol=1e-4), name
    for one, other in zip(alone.curve, shared.curve, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, abs=1e-4)
        assert other.validation_loss == pytest.approx(one.validation_loss, abs=1e-4)
    assert told == list(shared.curve)
    assert bar.done >= shared.steps * SPEC.batch_size


def test_with_dropout_two_processes_are_as_good_and_repeat_bit_for_bit(tmp_path: Path, whole: Fitted) -> None:
    again = fit_shared(tmp_path / "job", replace(JOB, spec=DROPPING))
    assert same(again, whole)
    assert loss_of(again, DROPPING) == pytest.approx(loss_of(fit_alone(DROPPING), DROPPING), abs=0.03)


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "mlops_tasks.core.parallel" in " ".join(process.cmdline()):
                found.append(process)
    return found


def worker(rank: int) -> psutil.Process:
    return next(p for p in children() if p.environ().get("RANK") == str(rank))


class ActingBar(FakeBar):
    """Does something once the fit has made some way."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act, self.acted_at = act, math.nan

    def advance(self, amount: float = 1, **fields: object) -> None:
        super().advance(amount, **fields)
        if math.isnan(self.acted_at):
            self.acted_at = time.monotonic()
            self.act()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_fit_in_seconds(tmp_path: Path, rank: int) -> None:
    slot = Slot(LocalStore(tmp_path / "store"), "shop/checkpoints/f/fit.npz", 3600.0)
    often = replace(JOB, spec=SPEC.model_copy(update={"checkpoint_every": timedelta(0)}), steps=ENDLESS)
    bar = ActingBar(lambda: worker(rank).kill())
    with pytest.raises(WorkerLost) as caught:
        fit_shared(tmp_path / "job", often, Watch(bar, slot), validation=None)
    assert time.monotonic() - bar.acted_at < 30
    assert str(caught.value) == (
        f"train: process {rank} of 2 (the first is 0) was killed by SIGKILL (out of memory? raise resources.train.memory); "
        "the others were ended; the next try goes on from the newest checkpoint"
    )
    assert psutil.wait_procs(children(), timeout=5)[1] == []
    found = slot.load()
    assert found is not None
    assert found[1]["step"] > 0
    assert not found[1]["finished"]


def test_a_fit_goes_on_from_its_checkpoint_with_the_bits_of_one_that_was_never_stopped(tmp_path: Path, whole: Fitted) -> None:
    slot = Slot(LocalStore(tmp_path / "store"), "shop/checkpoints/f/fit.npz", 3600.0)
    fit_shared(tmp_path / "short", replace(JOB, spec=DROPPING, steps=30), Watch(FakeBar(), slot))
    found = slot.load()
    assert found is not None
    slot.save(found[0], {**found[1], "finished": False})
    told: list[Evaluation] = []
    watch = Watch(FakeBar(), slot, lambda evaluation, _rows_s: told.append(evaluation))
    resumed = fit_shared(tmp_path / "rest", replace(JOB, spec=DROPPING), watch)
    assert same(resumed, whole)
    assert told == list(whole.curve)
    finished = fit_shared(tmp_path / "again", replace(JOB, spec=DROPPING), Watch(FakeBar(), slot))
    assert same(finished, resumed)
    assert not list((tmp_path / "again").iterdir())  # no process was started


def test_a_diverged_loss_is_rejected_in_the_same_words(tmp_path: Path) -> None:
    held = Rows(HELD.x * math.nan, HELD.flags, HELD.codes, HELD.y, HELD.weight)
    with pytest.raises(ModelRejected) as caught:
        fit_shared(tmp_path / "job", validation=held)
    assert str(caught.value) == "train: the validation loss became nan at step 5; lower train.learning_rate"
    assert children() == []


def test_an_exception_of_the_one_who_waits_ends_the_processes(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_shared(tmp_path / "job", replace(JOB, steps=ENDLESS), Watch(ActingBar(stop)), validation=None)
    assert psutil.wait_procs(children(), timeout=5)[1] == []


FITTING = """
import sys
from pathlib import Path
from tests.integration import test_distributed as case
print("fitting", flush=True)
case.fit_shared(Path(sys.argv[1]), case.replace(case.JOB, steps=case.ENDLESS), case.Watch(case.ActingBar(
    lambda: print("fits", flush=True))), validation=None)
"""


def test_the_end_of_the_one_who_waits_is_the_end_of_all(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", FITTING, str(tmp_path / "job")]
    environ = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == ["fitting\n", "fits\n"]
        started = children()
        assert len(started) == 3
        process.kill()
        process.wait(timeout=10)
    assert psutil.wait_procs(started, timeout=10)[1] == []


def test_the_stage_records_how_many_processes_shared_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "place", lambda _wanted, _resources: Placement(torch.device("cpu"), 2))
    store, tracker = LocalStore(tmp_path / "store"), FakeTracker()
    dataset = case.make_dataset(store)
    ports = make_ports(tmp_path, store=store, tracker=tracker)
    train.run(case.SMALL, dataset, ports=ports)
    assert isinstance(ports.progress, FakeProgress)
    assert ports.progress.bars["fit mlp"].done > 0
    run = tracker.runs[ports.run.fingerprint]
    assert (run.recorded_params["hardware.processes"], run.recorded_params["hardware.backend"]) == (2, "gloo")
    assert {"fit.validation_loss", "refit.train_loss"} <= {name for name, _, _ in run.recorded_metrics}
    facts = json.loads(run.artifacts["training.json"])
    assert facts["hardware"]["processes"] == 2
    assert not list(store.list("shop/checkpoints/"))
    assert children() == []
