"""Encoded rows to trained weights: AdamW, warm-up, a moving average of weights, early stopping.

Everything random is a function of the seed and the step, so that a fit resumed from a checkpoint takes
the same steps as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mlops_tasks.core.fit_state import Evaluation, Fitted, State, Weights, pack_fit, restore_fit, restore_state
from mlops_tasks.core.losses import Rows, autocast, member_loss, predict, sum_loss
from mlops_tasks.core.network import Dropout
from mlops_tasks.core.parallel.ranks import Ranks
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.checkpoints import Slot
    from mlops_tasks.ports import Bar
    from mlops_tasks.specs import TrainSpec

WARM_UP_STEPS = 100
EVALUATIONS_PER_PASS = 4
MIN_PASSES = 1
"""Earlier evaluations don't count: a network that hardly predicts anything yet looks best when the target shifts."""
MAX_GRADIENT_NORM = 1.0
REPORT_STEPS = 20
BATCH_SIZES = ((15_000, 128), (50_000, 256), (200_000, 512))
LARGEST_BATCH = 1024


@dataclass(frozen=True)
class Watch:
    """Who is told how a fit goes, and where its checkpoints go."""

    bar: Bar
    slot: Slot | None = None
    on_evaluation: Callable[[Evaluation, float], None] = lambda _evaluation, _rows_s: None
    """Takes each point of the curve, and rows a second or NaN."""
    on_memory: Callable[[dict[str, float]], None] = lambda _peaks: None
    """Takes a GPU's memory peaks."""

    def tell_again(self, state: State, batch: int) -> None:
        """Report what was done before a kill: the last points of the curve may have died on their way."""
        self.bar.advance(state.step * batch)
        for evaluation in state.curve:
            self.on_evaluation(evaluation, math.nan)


def choose_batch_size(spec: TrainSpec, rows: int) -> int:
    """Return the rows of one step: the spec's, else by the number of training rows."""
    if spec.batch_size:
        return min(spec.batch_size, rows)
    return min(next((size for limit, size in BATCH_SIZES if rows < limit), LARGEST_BATCH), rows)


def count_steps(spec: TrainSpec, rows: int, passes: float) -> int:
    """Return the steps of some passes over the rows, at least one."""
    return max(1, round(passes * steps_per_pass(spec, rows)))


def steps_per_pass(spec: TrainSpec, rows: int) -> int:
    """Return the steps of one pass over the rows."""
    return math.ceil(rows / choose_batch_size(spec, rows))


class Trainer:
    """One fit of one network, by one process or as one of several that each compute a share of every step."""

    def __init__(
        self, network: nn.Module, train: Rows, spec: TrainSpec, task: Task, watch: Watch, *, ranks: Ranks | None = None
    ) -> None:
        """Prepare a fit; restore it when its slot holds a checkpoint."""
        self.network, self.train, self.spec, self.task, self.watch = network, train, spec, task, watch
        self.ranks = ranks or Ranks()
        self.device = train.x.device
        self.batch = choose_batch_size(spec, len(train))
        self.steps_per_pass = steps_per_pass(spec, len(train))
        parameters: dict[str, Tensor] = dict(network.named_parameters())
        average, best = ({name: p.detach().clone() for name, p in parameters.items()} for _ in range(2))
        self.weights = Weights(parameters, average, best)
        self.optimizer = torch.optim.AdamW(
            parameters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        self.generator = torch.Generator(self.device)
        for module in network.modules():
            if isinstance(module, Dropout):
                module.generator = self.generator
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.loss_sum = torch.zeros((), device=self.device)  # stays on the device: reading it waits for the step
        self.state = State()
        self._started = (0.0, 0)
        if watch.slot is not None:
            self._restore(watch.slot)

    def run(self, *, steps: int, validation: Rows | None) -> Fitted:
        """Train for at most `steps`, with early stopping when there is a validation split.

        Raises:
            ModelRejected: the loss is no longer a number.

        """
        every = max(1, round(self.steps_per_pass / EVALUATIONS_PER_PASS))
        self._started = (time.perf_counter(), self.state.step)
        while not self.state.finished and self.state.step < steps:
            loss = self._step()
            self._report(loss)
            if self.state.step % every == 0 or self.state.step == steps:
                self._evaluate(validation)
            if self._slot is not None and self._slot.due():
                self._save(self._slot)
        self.state.finished = True
        if self._slot is not None:
            self._save(self._slot)
        best, state = dict(self.weights.best), self.state
        return Fitted(best, state.best_step, state.step, self.steps_per_pass, tuple(state.curve))

    @property
    def _slot(self) -> Slot | None:
        """Where this process writes checkpoints: all processes hold the same, and the first one writes."""
        return self.watch.slot if self.ranks.rank == 0 else None

    def _step(self) -> Tensor:
        index = self._next_index()
        rows = self.train.take(index[self.ranks.share])
        total = None if self.ranks.size == 1 else self.train.weight[index].sum()
        self.network.train()
        self.generator.manual_seed(_mix(self.spec.seed, 1, self.state.step, *self.ranks.salt))
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * min(1.0, (self.state.step + 1) / WARM_UP_STEPS)
        with autocast(self.device):
            out = self.network(rows.x, rows.flags, rows.codes)
        loss = member_loss(out.float(), rows, self.task, total)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        loss = self.ranks.sum_gradients(loss.detach(), self.weights.parameters.values())
        nn.utils.clip_grad_norm_(self.weights.parameters.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.state.step += 1
        self._update_average()
        self.loss_sum += loss
        return loss

    def _next_index(self) -> Tensor:
        passes, at = divmod(self.state.step, self.steps_per_pass)
        if self.order[0] != passes:
            shuffler = torch.Generator().manual_seed(_mix(self.spec.seed, 0, passes))
            self.order = (passes, torch.randperm(len(self.train), generator=shuffler).to(self.device))
        return self.order[1][at * self.batch : (at + 1) * self.batch]

    @torch.no_grad()
    def _update_average(self) -> None:
        step = self.state.step
        decay = min(self.spec.ema, (1 + step) / (10 + step)) if self.spec.ema else 0.0
        torch._foreach_lerp_(list(self.weights.average.values()), list(self.weights.parameters.values()), 1 - decay)

    def _report(self, loss: Tensor) -> None:
        if self.state.step % REPORT_STEPS and self.state.step % self.steps_per_pass:
            return
        value = float(loss)
        start, first = self._started
        rows_s = (self.state.step - first) * self.batch / max(time.perf_counter() - start, 1e-9)
        done = REPORT_STEPS if self.state.step % REPORT_STEPS == 0 else self.state.step % REPORT_STEPS
        self.watch.bar.advance(done * self.batch, loss=round(value, 4), rows_s=round(rows_s))

    def _evaluate(self, validation: Rows | None) -> None:
        state = self.state
        loss = None if validation is None else self._validation_loss(validation)
        passes = state.step / self.steps_per_pass
        train_loss = float(self.loss_sum) / (state.step - state.evaluated_step)
        self.loss_sum.zero_()
        state.evaluated_step = state.step
        evaluation = Evaluation(round(passes, 4), state.step, train_loss, loss)
        state.curve.append(evaluation)
        start, first = self._started
        self.watch.on_evaluation(evaluation, (state.step - first) * self.batch / max(time.perf_counter() - start, 1e-9))
        if state.step < MIN_PASSES * self.steps_per_pass and loss is not None:
            return
        if loss is None or loss < state.best_loss:
            state.best_loss, state.best_step, state.stale = (math.inf if loss is None else loss), state.step, 0
            self.weights.best = {name: p.clone() for name, p in self.weights.average.items()}
        else:
            state.stale += 1
            state.finished = state.stale >= self.spec.patience

    def _validation_loss(self, validation: Rows) -> float:
        """Judge the averaged weights; every process gets the same number, so that all decide alike."""
        rows = validation if self.ranks.size == 1 else validation.take(self.ranks.share)
        sums = sum_loss(predict(self.network, self.weights.average, rows, self.task), rows, self.task)
        total, weight = self.ranks.sum(sums)
        loss = float(total / weight)
        if not math.isfinite(loss):
            msg = f"train: the validation loss became {loss} at step {self.state.step}; lower train.learning_rate"
            raise ModelRejected(msg)
        return loss

    def _save(self, slot: Slot) -> None:
        slot.save(*pack_fit(self.state, self.weights, self.optimizer, self.loss_sum))

    def _restore(self, slot: Slot) -> None:
        found = slot.load()
        if found is not None:
            restore_fit(found[0], self.weights, self.optimizer, self.loss_sum)
            self.state = restore_state(found[1])
            self.watch.tell_again(self.state, self.batch)


def _mix(*parts: int) -> int:
    """Return a well-spread 63-bit seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
