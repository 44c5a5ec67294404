from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import Dataset, FeatureColumn, FeatureSchema, SplitRef, Task, Window
from mlops_tasks.core import hardware, problems, training
from mlops_tasks.core.fitting import Trainer
from mlops_tasks.core.frames import read_split
from mlops_tasks.core.gpus import Probe
from mlops_tasks.core.hardware import Placement
from mlops_tasks.core.scoring import Scorer
from mlops_tasks.errors import DataRejected, ModelRejected, SpecError
from mlops_tasks.resources import Resources
from mlops_tasks.specs import TrainSpec
from mlops_tasks.stages import train
from tests.fakes import FakeProgress, FakeTracker, make_ports, make_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.artifacts import Candidate
    from mlops_tasks.ports import Ports

    Model = Literal["tabm", "mlp", "linear", "hgb"]

START = datetime(2020, 1, 1, tzinfo=UTC)
DAYS: dict[Literal["train", "validation", "test"], int] = {"train": 6, "validation": 2, "test": 1}
CASES: list[tuple[Model, Task]] = [
    ("tabm", "binary"),
    ("tabm", "multiclass"),
    ("mlp", "regression"),
    ("linear", "multiclass"),
    ("hgb", "binary"),
    ("hgb", "regression"),
]
QUICK = TrainSpec(width=16, members=2, bins=8, max_epochs=3, patience=2, threads=1, batch_size=64)
NAMES = (
    "model.onnx",
    "signature.json",
    "golden.json",
    "reference.json",
    "baseline.onnx",
    "baseline_signature.json",
    "training.json",
)
BOOSTED = QUICK.model_copy(update={"model": "hgb"})
"""Needs no export from torch, which takes seconds."""


def schema_of(task: Task) -> FeatureSchema:
    columns = (
        FeatureColumn(name="amount", kind="numeric"),
        FeatureColumn(name="age", kind="numeric"),
        FeatureColumn(name="colour", kind="categorical"),
        FeatureColumn(name="place", kind="categorical"),
    )
    return FeatureSchema(columns=columns, label="label", task=task, event_time="at", entity_key=("id",))


def day(number: int, rows: int, task: Task) -> pd.DataFrame:
    rng = np.random.default_rng(number)
    frame = pd.DataFrame(
        {
            "id": np.arange(rows),
            "at": [START + timedelta(days=number, seconds=60 * i) for i in range(rows)],
            "amount": rng.lognormal(size=rows),
            "age": np.where(rng.random(rows) < 0.2, np.nan, rng.integers(0, 90, rows)),
            "colour": rng.choice(["red", "green", "blue"], rows),
            "place": rng.choice(np.array(["here", "there", None], dtype=object), rows),
        }
    )
    signal_ = np.log(frame["amount"]) + (frame["colour"] == "red") - 0.5 * frame["age"].isna() + rng.normal(0, 0.5, rows)
    if task == "binary":
        frame["label"] = signal_ > 0.3
    elif task == "multiclass":
        frame["label"] = np.array(["low", "mid", "top"], dtype=object)[np.digitize(signal_, [-0.3, 0.8])]
    else:
        frame["label"] = 1000 + 50 * signal_
    return frame


def make_dataset(
    store: LocalStore,
    task: Task = "binary",
    *,
    rows: int = 120,
    change: Callable[[pd.DataFrame, int], pd.DataFrame] | None = None,
) -> Dataset:
    splits, number = {}, 0
    for split, days in DAYS.items():
        refs, first = [], number
        for _ in range(days):
            frame = day(number, rows, task)
            frame = change(frame, number) if change else frame
            with store.staging() as folder:
                frame.to_parquet(folder / "features.parquet", index=False)
                label = f"{START + timedelta(days=number):%Y-%m-%d}"
                refs.append(store.publish(folder / "features.parquet", f"shop/features/{label}/{number:016d}/features.parquet"))
            number += 1
        window = Window(start=START + timedelta(days=first), end=START + timedelta(days=number))
        splits[split] = SplitRef(window=window, files=tuple(refs))
    end = START + timedelta(days=number)
    return Dataset(digest="d" * 64, files=(), as_of=end, feature_schema=schema_of(task), splits=splits, rows=rows * number)


def make_case(tmp_path: Path, task: Task = "binary", **options: Any) -> tuple[Dataset, Ports]:
    store = LocalStore(tmp_path / "store")
    return make_dataset(store, task, **options), make_ports(tmp_path, store=store)


def folder_of(candidate: Candidate, ports: Ports) -> Path:
    return ports.store.open_local(candidate.file("model.onnx")).parent


def read_json(candidate: Candidate, ports: Ports, name: str) -> Any:
    return json.loads(ports.store.open_local(candidate.file(name)).read_text())


@pytest.mark.parametrize(("model", "task"), CASES)
def test_every_model_learns(tmp_path: Path, model: Model, task: Task) -> None:
    dataset, ports = make_case(tmp_path, task)
    candidate = train.run(QUICK.model_copy(update={"model": model, "max_epochs": 12}), dataset, ports=ports)

    assert sorted(ref.key.rsplit("/", 1)[-1] for ref in candidate.files) == sorted(NAMES)
    assert candidate.task == task
    assert candidate.training == Window(start=START, end=START + timedelta(days=8))
    assert not list(ports.store.list("shop/checkpoints/"))
    test = read_split(ports.store, dataset, "test")
    constant = read_json(candidate, ports, "training.json")["constant"]["score"]
    for name, signature in (("model", "signature"), ("baseline", "baseline_signature")):
        scorer = Scorer.load(folder_of(candidate, ports), model=f"{name}.onnx", signature=f"{signature}.json")
        scores = scorer.score(test)
        assert scores.dtype == np.float32
        assert scores.shape == ((len(test), 3) if task == "multiclass" else (len(test),))
        assert loss_of(scores, test, scorer) < 0.9 * loss_of(np.broadcast_to(constant, scores.shape), test, scorer), name
    assert_described(candidate, ports, model, task)


def assert_described(candidate: Candidate, ports: Ports, model: Model, task: Task) -> None:
    signature = read_json(candidate, ports, "signature.json")
    assert (signature["numeric"], signature["categorical"]) == (["amount", "age"], ["colour", "place"])
    assert signature["classes"] == {"binary": ["false", "true"], "multiclass": ["low", "mid", "top"], "regression": []}[task]
    assert (signature["threshold"] is not None) == (task == "binary")
    golden = read_json(candidate, ports, "golden.json")
    assert len(golden["rows"]) == len(golden["scores"]) == 32
    assert any(row["age"] is None for row in golden["rows"])
    expected = np.array(golden["scores"])
    scores = Scorer.load(folder_of(candidate, ports)).score(pd.DataFrame(golden["rows"]))
    assert np.abs(scores - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())
    assert "2020-01-08" in json.dumps(read_json(candidate, ports, "reference.json"))
    facts = read_json(candidate, ports, "training.json")
    assert (facts["model"], facts["hardware"]["threads"]) == (model, 1)
    assert facts["rows"] == {"train": 720, "validation": 240}


def loss_of(scores: Any, frame: pd.DataFrame, scorer: Scorer) -> float:
    if scorer.signature.task == "regression":
        return float(np.mean((scores - frame["label"]) ** 2))
    if scorer.signature.task == "binary":
        return float(-np.log(np.where(frame["label"], scores, 1 - scores)).mean())
    index = [scorer.signature.classes.index(text) for text in frame["label"]]
    return float(-np.log(scores[np.arange(len(frame)), index]).mean())


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path)
    spec = QUICK.model_copy(update={"model": "linear"})
    first = train.run(spec, dataset, ports=ports)
    assert train.run(spec, dataset, ports=ports).files == first.files


def test_test_split_is_never_read(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path)
    for ref in dataset.splits["test"].files:
        ports.store.delete(ref.key)
    assert train.run(BOOSTED, dataset, ports=ports).files


def test_run_is_recorded_with_its_curve(tmp_path: Path) -> None:
    store, tracker = LocalStore(tmp_path / "store"), FakeTracker()
    dataset, ports = make_dataset(store), make_ports(tmp_path, store=store, tracker=tracker)
    candidate = train.run(QUICK.model_copy(update={"model": "mlp"}), dataset, ports=ports)
    run = tracker.runs[ports.run.fingerprint]
    assert (run.run_id, run.status) == (candidate.mlflow_run_id, "finished")
    assert run.recorded_params["learning_rate"] == 2e-3
    assert run.recorded_params["hardware.device"] in {"cpu", "cuda"}
    assert run.recorded_tags["dataset_version"] == dataset.version
    assert run.recorded_tags["library.torch"]
    curve = [step for name, _, step in run.recorded_metrics if name == "fit.validation_loss"]
    assert curve == sorted(step for step in curve if step)
    assert len(curve) >= 4
    assert {"fit.rows_per_second", "refit.train_loss"} <= {name for name, _, _ in run.recorded_metrics}
    assert "training.json" in run.artifacts


DYING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from mlops_tasks.core.fitting import Trainer
from tests.unit.stages import test_train as case

run_step, steps = Trainer._step, dict(fit=0, refit=0)

def dying(self):
    self.watch.slot.every_s = 0  # a checkpoint after every step
    phase = self.watch.slot.key.rsplit("/", 1)[-1].removesuffix(".npz")
    steps[phase] += 1
    if phase == {phase!r} and steps[phase] == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    return run_step(self)

Trainer._step = dying
dataset, ports = case.make_case(Path({folder!r}))
case.train.run(case.SMALL, dataset, ports=ports)
"""
SMALL = QUICK.model_copy(update={"model": "mlp"})


def test_kill_dash_nine_then_retry_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, ports = make_case(tmp_path)
    whole_ports = make_ports(tmp_path, store=LocalStore(tmp_path / "store"), run=make_run(fingerprint="w" * 64))
    run_step, taken = Trainer._step, list[tuple[str, int]]()

    def counting(self: Trainer) -> torch.Tensor:
        assert self.watch.slot is not None
        taken.append((Path(self.watch.slot.key).stem, self.state.step))
        return run_step(self)

    monkeypatch.setattr(Trainer, "_step", counting)
    for phase in ("fit", "refit"):
        script = DYING.format(root=str(Path(__file__).parents[3]), phase=phase, folder=str(tmp_path))
        died = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
        assert ports.store.exists(f"shop/checkpoints/{ports.run.fingerprint}/{phase}.npz")
        assert not list(ports.store.list("shop/candidates/"))
    resumed = train.run(SMALL, dataset, ports=ports)
    assert taken[0] == ("refit", 8)
    assert resumed.files == train.run(SMALL, dataset, ports=whole_ports).files
    assert not list(ports.store.list("shop/checkpoints/"))


def test_trials_are_recorded_kept_over_a_kill_and_the_best_is_refit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, tracker = LocalStore(tmp_path / "store"), FakeTracker()
    dataset = make_dataset(store)
    spec = SMALL.model_copy(update={"trials": 3, "max_epochs": 1})

    def fit(fingerprint: str) -> problems.Model:
        ports = make_ports(tmp_path, store=store, tracker=tracker, run=make_run(fingerprint=fingerprint))
        problem = train._load(spec, dataset, Placement(torch.device("cpu")), ports)
        with tracker.run("shop", fingerprint, "tuned") as tracked:
            session = problems.Session(ports, tracked, f"shop/checkpoints/{fingerprint}")
            return training.fit_model(problem, session, training.fit_boosted(problem))

    whole = fit("w" * 64)
    assert [trial["number"] for trial in whole.facts["trials"]] == [0, 1, 2]
    best = min(whole.facts["trials"], key=lambda trial: trial["value"])
    assert whole.facts["params"] == best["params"]
    assert sum(name == "trial.value" for name, _, _ in tracker.runs["w" * 64].recorded_metrics) == 3

    early, calls = training._fit_early, []

    def dying(problem: problems.Problem, session: problems.Session, name: str) -> Any:
        calls.append(name)
        if name == "trial_2" and len(calls) == 3:
            raise KeyboardInterrupt
        return early(problem, session, name)

    monkeypatch.setattr(training, "_fit_early", dying)
    with pytest.raises(KeyboardInterrupt):
        fit("k" * 64)
    resumed = fit("k" * 64)
    assert calls[3] == "trial_2"
    assert resumed.facts == whole.facts
    test = read_split(store, dataset, "validation")
    assert np.array_equal(resumed.score(test), whole.score(test))


def test_balanced_classes_raise_the_probability_of_the_rare_one(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path, change=lambda frame, _number: frame.assign(label=frame.index % 8 == 0))
    means = {}
    for weight in ("none", "balanced"):
        spec = BOOSTED.model_copy(update={"class_weight": weight})
        candidate = train.run(spec, dataset, ports=ports)
        means[weight] = Scorer.load(folder_of(candidate, ports)).score(read_split(ports.store, dataset, "train")).mean()
    assert means["balanced"] > 2 * means["none"]


def test_an_all_null_column_is_ignored_and_said(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path, change=lambda frame, _number: frame.assign(age=np.nan))
    candidate = train.run(BOOSTED, dataset, ports=ports)
    assert isinstance(ports.progress, FakeProgress)
    assert "train: ignoring age: no value varies in 960 rows" in ports.progress.notes
    assert read_json(candidate, ports, "training.json")["ignored_columns"] == ["age"]
    row = pd.DataFrame({"amount": [1.0], "age": [33.0], "colour": ["red"], "place": ["here"]})
    scorer = Scorer.load(folder_of(candidate, ports))
    assert scorer.score(row) == scorer.score(row.assign(age=np.nan))


def test_infinite_and_unseen_values_are_read_as_unknown(tmp_path: Path) -> None:
    def spoil(frame: pd.DataFrame, number: int) -> pd.DataFrame:
        return frame.assign(amount=frame["amount"].where(frame.index % 50 != number, np.inf))

    dataset, ports = make_case(tmp_path, change=spoil)
    candidate = train.run(SMALL, dataset, ports=ports)
    row = pd.DataFrame({"amount": [np.nan], "age": [33.0], "colour": ["violet"], "place": ["here"]})
    scorer = Scorer.load(folder_of(candidate, ports))
    assert np.isfinite(scorer.score(row)).all()
    for value in (np.inf, -np.inf):
        assert scorer.score(row.assign(amount=value)) == scorer.score(row)
    assert scorer.score(row.assign(colour="mauve")) == scorer.score(row)


def message_of(error: type[Exception], spec: TrainSpec, dataset: Dataset, ports: Ports) -> str:
    with pytest.raises(error) as caught:
        train.run(spec, dataset, ports=ports)
    assert not list(ports.store.list("shop/candidates/"))
    return str(caught.value)


def test_class_absent_from_a_split(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path, change=lambda frame, n: frame.assign(label=False) if n in {6, 7} else frame)
    assert message_of(DataRejected, QUICK, dataset, ports) == (
        "train: class 'true' of the label 'label' is absent from the validation split; use a longer range"
    )


def test_too_few_rows(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path, rows=1)
    assert message_of(DataRejected, QUICK, dataset, ports) == (
        "train: the train split needs at least 20 rows, got 6; use a longer range"
    )


def test_missing_label_column(tmp_path: Path) -> None:
    dataset, ports = make_case(tmp_path, change=lambda frame, _number: frame.drop(columns="label"))
    assert message_of(DataRejected, QUICK, dataset, ports) == (
        f"{dataset.splits['train'].files[0].key}: column 'label' is missing; "
        "let the features produce it and run preprocess again"
    )


def test_inputs_that_never_vary(tmp_path: Path) -> None:
    def flatten(frame: pd.DataFrame, number: int) -> pd.DataFrame:
        singular = [f"{number}-{row}" for row in frame.index]
        return frame.assign(amount=1.0, age=np.nan, colour=singular, place=singular)

    dataset, ports = make_case(tmp_path, rows=30, change=flatten)
    assert message_of(DataRejected, QUICK, dataset, ports) == (
        "train: none of the 4 input columns varies in 240 rows; check the features"
    )


def test_missing_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dataset, ports = make_case(tmp_path)
    assert message_of(SpecError, QUICK.model_copy(update={"device": "cuda"}), dataset, ports).startswith(
        "train.device: cuda was"
    )


@pytest.mark.parametrize("policy", ["fail", "cpu"])
def test_gpus_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: Literal["fail", "cpu"]) -> None:
    monkeypatch.setattr(hardware, "probe_gpus", lambda: Probe("", "13.0", None, (), "no driver"))
    tracker, resources = FakeTracker(), Resources(gpus=1, on_missing_gpu=policy)
    ports = make_ports(tmp_path, tracker=tracker, run=replace(make_run(), resources=resources))
    dataset = make_dataset(LocalStore(tmp_path / "store"))
    if policy == "fail":
        assert message_of(SpecError, BOOSTED, dataset, ports).startswith("resources.train.gpus: asked for 1, found 0 (driver")
        assert not tracker.runs
        return
    candidate = train.run(BOOSTED, dataset, ports=ports)
    missing = read_json(candidate, ports, "training.json")["hardware"]["missing_gpus"]
    assert missing.startswith("asked for 1, found 0 (driver not found")
    assert isinstance(ports.progress, FakeProgress)
    assert f"train: on the CPU, since resources.train.gpus {missing}" in ports.progress.notes
    tags = tracker.runs[ports.run.fingerprint].recorded_tags
    assert (tags["device"], tags["missing_gpus"]) == ("cpu", missing)


def test_an_export_that_scores_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, ports = make_case(tmp_path)
    score = Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda self, frame: score(self, frame) + np.float32(1e-3))
    assert message_of(ModelRejected, BOOSTED, dataset, ports).startswith("train: model scores differ between the fitted model")
