from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.core.checkpoints import Slot
from mlops_tasks.core.fit_state import Evaluation, Fitted
from mlops_tasks.core.fitting import Trainer, Watch, choose_batch_size
from mlops_tasks.core.losses import Rows, member_loss, predict, score_loss
from mlops_tasks.core.network import Standardiser, TabM
from mlops_tasks.core.transform import learn_transform
from mlops_tasks.errors import ModelRejected
from mlops_tasks.specs import TrainSpec
from tests.fakes import FakeBar

if TYPE_CHECKING:
    from pathlib import Path

SPEC = TrainSpec(width=8, members=2, bins=4, batch_size=32, patience=3, dropout=0.2, learning_rate=1e-2)
STEPS = 40


def make_rows(rows: int, seed: int, *, noise: float = 0.5) -> tuple[Rows, TabM]:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": rng.normal(size=rows), "b": rng.normal(size=rows), "c": rng.choice(["x", "y"], rows)})
    y = (frame["a"] + (frame["c"] == "x") + rng.normal(0, noise, rows) > 0).to_numpy(dtype=np.float32)
    transform = learn_transform(frame, ["a", "b"], ["c"], bins=SPEC.bins)
    x, flags = Standardiser(transform.numeric)(torch.from_numpy(transform.numbers(frame)))
    data = Rows(x, flags, torch.from_numpy(transform.codes(frame)), torch.from_numpy(y), torch.ones(rows))
    torch.manual_seed(0)
    return data, TabM(transform, 1, width=SPEC.width, depth=2, dropout=SPEC.dropout, members=SPEC.members)


def fit(slot: Slot | None = None, *, die_at: int | None = None, spec: TrainSpec = SPEC, steps: int = STEPS) -> Fitted:
    train, network = make_rows(300, 1)
    validation, _ = make_rows(100, 2)

    class Death(BaseException):
        pass

    class DyingBar(FakeBar):
        def advance(self, amount: float = 1, **fields: object) -> None:
            super().advance(amount, **fields)
            if die_at is not None and trainer.state.step >= die_at:
                raise Death

    trainer = Trainer(network, train, spec, "binary", Watch(DyingBar(), slot))
    try:
        return trainer.run(steps=steps, validation=validation)
    except Death:
        return Fitted({}, 0, trainer.state.step, 0, ())


def same(left: Fitted, right: Fitted) -> bool:
    return all(torch.equal(left.weights[name], right.weights[name]) for name in left.weights) and left.curve == right.curve


def test_same_seed_same_bits_and_other_seed_other_bits() -> None:
    first = fit()
    assert same(first, fit())
    assert not same(first, fit(spec=SPEC.model_copy(update={"seed": 1})))


@pytest.mark.parametrize("die_at", [10, 20, 30])
def test_resumed_fit_gives_the_weights_of_an_uninterrupted_one(tmp_path: Path, die_at: int) -> None:
    slot = Slot(LocalStore(tmp_path), "shop/checkpoints/f/fit.npz", 0.0)
    killed = fit(slot, die_at=die_at)
    assert 0 < killed.steps < STEPS
    assert same(fit(slot), fit())


def test_finished_fit_is_not_taken_up_again(tmp_path: Path) -> None:
    slot = Slot(LocalStore(tmp_path), "shop/checkpoints/f/fit.npz", 3600.0)
    first = fit(slot)
    told: list[tuple[Evaluation, float]] = []
    train, network = make_rows(300, 1)
    again = Trainer(network, train, SPEC, "binary", Watch(FakeBar(), slot, lambda e, rows_s: told.append((e, rows_s))))
    assert same(again.run(steps=STEPS, validation=make_rows(100, 2)[0]), first)
    # The curve is told again, as its end may have been lost with the process, and without a speed.
    assert [e for e, _ in told] == list(first.curve)
    assert all(math.isnan(rows_s) for _, rows_s in told)


def test_damaged_checkpoint_means_a_fresh_start(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    slot = Slot(store, "shop/checkpoints/f/fit.npz", 0.0)
    fit(slot, die_at=20)
    store.write(slot.key, store.read(slot.key)[:-100])
    assert same(fit(slot), fit())


def test_training_lowers_the_loss_and_stops_when_it_no_longer_falls() -> None:
    fitted = fit(steps=2000, spec=SPEC.model_copy(update={"learning_rate": 0.05}))
    losses = [point.validation_loss or 0.0 for point in fitted.curve]
    assert fitted.steps < 2000
    assert min(losses) < 0.6 < losses[0]
    assert fitted.curve[int(np.argmin(losses))].step == fitted.best_step
    assert len(losses) - 1 - int(np.argmin(losses)) == SPEC.patience


def test_without_validation_the_last_weights_are_kept() -> None:
    train, network = make_rows(300, 1)
    bar = FakeBar()
    fitted = Trainer(network, train, SPEC, "binary", Watch(bar)).run(steps=25, validation=None)
    assert (fitted.best_step, fitted.steps) == (25, 25)
    assert bar.done > 0


def test_diverged_loss_is_rejected() -> None:
    train, network = make_rows(300, 1)
    with torch.no_grad():
        network.head.weight.fill_(math.nan)
    with pytest.raises(ModelRejected) as caught:
        Trainer(network, train, SPEC, "binary", Watch(FakeBar())).run(steps=10, validation=train)
    assert str(caught.value) == "train: the validation loss became nan at step 2; lower train.learning_rate"


@pytest.mark.parametrize(("rows", "size"), [(100, 100), (14_999, 128), (15_000, 256), (50_000, 512), (200_000, 1024)])
def test_batch_size_grows_with_the_rows(rows: int, size: int) -> None:
    assert choose_batch_size(TrainSpec(), rows) == size
    assert choose_batch_size(TrainSpec(batch_size=64), rows) == 64


def test_losses_agree_with_their_definitions() -> None:
    rows = Rows(torch.zeros(2, 0), torch.zeros(2, 0), torch.zeros(2, 0), torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0]))
    zero = torch.zeros(2, 2, 1)
    assert float(member_loss(zero, rows, "binary")) == pytest.approx(math.log(2))
    assert float(member_loss(zero, rows, "regression")) == pytest.approx(0.75)
    assert float(member_loss(torch.zeros(2, 2, 4), rows, "multiclass")) == pytest.approx(math.log(4))
    assert score_loss(torch.tensor([0.5, 0.25]), rows, "binary") == pytest.approx(
        (3 * math.log(2) - math.log(0.75)) / 4, rel=1e-6
    )
    classes = torch.tensor([[0.5, 0.5], [0.25, 0.75]])
    assert score_loss(classes, rows, "multiclass") == pytest.approx((3 * math.log(2) + math.log(4)) / 4, rel=1e-6)
    assert score_loss(torch.tensor([0.0, 1.0]), rows, "regression") == pytest.approx(1.0)


def test_prediction_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, network = make_rows(50, 3)
    weights = {name: p.detach() for name, p in network.named_parameters()}
    whole = predict(network, weights, rows, "binary")
    monkeypatch.setattr("mlops_tasks.core.losses.SCORING_ROWS", 7)
    assert torch.allclose(predict(network, weights, rows, "binary"), whole, atol=1e-6)
