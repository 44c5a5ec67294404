"""Encoded rows to trained weights: AdamW, warm-up, a moving average of weights, early stopping.

Everything random is a function of the seed and the step, so that a fit resumed from a checkpoint takes
the same steps as one that was never stopped.
"""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mlops_tasks.core.network import Dropout, combine_members
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.checkpoints import Slot
    from mlops_tasks.ports import Bar
    from mlops_tasks.specs import TrainSpec

WARM_UP_STEPS = 100
EVALUATIONS_PER_PASS = 4
MIN_PASSES = 1
"""Earlier evaluations don't count: a network that hardly predicts anything yet looks best when the target shifts."""
MAX_GRADIENT_NORM = 1.0
SCORING_ROWS = 4096
REPORT_STEPS = 20
EPSILON = 1e-7
BATCH_SIZES = ((15_000, 128), (50_000, 256), (200_000, 512))
LARGEST_BATCH = 1024


@dataclass(frozen=True)
class Rows:
    """Encoded rows: standardised numbers [N, U], missing flags [N, M], indices [N, C], targets [N], weights [N]."""

    x: Tensor
    flags: Tensor
    codes: Tensor
    y: Tensor
    weight: Tensor

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.y)

    def take(self, index: Tensor | slice) -> Rows:
        """Return some of the rows."""
        return Rows(self.x[index], self.flags[index], self.codes[index], self.y[index], self.weight[index])

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        return Rows(*(t.to(device) for t in (self.x, self.flags, self.codes, self.y, self.weight)))


@dataclass(frozen=True)
class Evaluation:
    """One point of the training curve; losses are log losses, or mean squared errors of the standardised target."""

    passes: float
    step: int
    train_loss: float
    validation_loss: float | None


@dataclass(frozen=True)
class Fitted:
    """The result of a fit: averaged weights at the best step."""

    weights: dict[str, Tensor]
    best_step: int
    steps: int
    steps_per_pass: int
    curve: tuple[Evaluation, ...]


@dataclass(frozen=True)
class Watch:
    """Who is told how a fit goes (each point of the curve, and rows a second or NaN), and where its checkpoints go."""

    bar: Bar
    slot: Slot | None = None
    on_evaluation: Callable[[Evaluation, float], None] = lambda _evaluation, _rows_s: None


def choose_batch_size(spec: TrainSpec, rows: int) -> int:
    """Return the rows of one step: the spec's, else by the number of training rows."""
    if spec.batch_size:
        return min(spec.batch_size, rows)
    return min(next((size for limit, size in BATCH_SIZES if rows < limit), LARGEST_BATCH), rows)


def member_loss(out_bko: Tensor, rows: Rows, task: Task) -> Tensor:
    """Return the mean loss over rows and members, each member judged by itself."""
    members = out_bko.shape[1]
    if task == "binary":
        target = rows.y.unsqueeze(1).expand(-1, members)
        loss = functional.binary_cross_entropy_with_logits(out_bko.squeeze(2), target, reduction="none").mean(1)
    elif task == "multiclass":
        target = rows.y.long().unsqueeze(1).expand(-1, members)
        loss = functional.cross_entropy(out_bko.transpose(1, 2), target, reduction="none").mean(1)
    else:
        loss = (out_bko.squeeze(2) - rows.y.unsqueeze(1)).square().mean(1)
    return (loss * rows.weight).sum() / rows.weight.sum()


def score_loss(score: Tensor, rows: Rows, task: Task) -> float:
    """Return the weighted log loss of probabilities, or the mean squared error."""
    if task == "regression":
        loss = (score - rows.y).square()
    else:
        of_true = score.gather(1, rows.y.long().unsqueeze(1)).squeeze(1) if task == "multiclass" else _of_true(score, rows.y)
        loss = -of_true.clamp(EPSILON, 1).log()
    return float((loss.double() * rows.weight).sum() / rows.weight.sum())


def _of_true(score: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, score, 1 - score)


def _autocast(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


@torch.no_grad()
def predict(network: nn.Module, weights: Mapping[str, Tensor], rows: Rows, task: Task) -> Tensor:
    """Score rows with given weights: [N], multiclass [N, C]; regression in standardised units."""
    network.eval()
    parts = []
    for start in range(0, len(rows), SCORING_ROWS):
        part = rows.take(slice(start, start + SCORING_ROWS))
        with _autocast(part.x.device):
            out = functional_call(network, dict(weights), (part.x, part.flags, part.codes))
        parts.append(combine_members(out.float(), task))
    return torch.cat(parts)


@dataclass
class _State:
    """What a checkpoint holds."""

    step: int = 0
    evaluated_step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0
    finished: bool = False
    curve: list[Evaluation] = field(default_factory=list)


class Trainer:
    """One fit of one network."""

    def __init__(self, network: nn.Module, train: Rows, spec: TrainSpec, task: Task, watch: Watch) -> None:
        """Prepare a fit; restore it when its slot holds a checkpoint."""
        self.network, self.train, self.spec, self.task, self.watch = network, train, spec, task, watch
        self.device = train.x.device
        self.batch = choose_batch_size(spec, len(train))
        self.steps_per_pass = math.ceil(len(train) / self.batch)
        self.parameters = dict(network.named_parameters())
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.best = {name: p.clone() for name, p in self.average.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        self.generator = torch.Generator(self.device)
        for module in network.modules():
            if isinstance(module, Dropout):
                module.generator = self.generator
        self.order: tuple[int, Tensor] = (-1, torch.empty(0))
        self.loss_sum = torch.zeros((), device=self.device)  # stays on the device: reading it waits for the step
        self.state = _State()
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
            if self.watch.slot is not None and self.watch.slot.due():
                self._save(self.watch.slot)
        self.state.finished = True
        if self.watch.slot is not None:
            self._save(self.watch.slot)
        return Fitted(dict(self.best), self.state.best_step, self.state.step, self.steps_per_pass, tuple(self.state.curve))

    def _step(self) -> Tensor:
        rows = self.train.take(self._next_index())
        self.network.train()
        self.generator.manual_seed(_mix(self.spec.seed, 1, self.state.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.spec.learning_rate * min(1.0, (self.state.step + 1) / WARM_UP_STEPS)
        with _autocast(self.device):
            out = self.network(rows.x, rows.flags, rows.codes)
        loss = member_loss(out.float(), rows, self.task)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self.parameters.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.state.step += 1
        self._update_average()
        self.loss_sum += loss.detach()
        return loss.detach()

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
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

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
            self.best = {name: p.clone() for name, p in self.average.items()}
        else:
            state.stale += 1
            state.finished = state.stale >= self.spec.patience

    def _validation_loss(self, validation: Rows) -> float:
        loss = score_loss(predict(self.network, self.average, validation, self.task), validation, self.task)
        if not math.isfinite(loss):
            msg = f"train: the validation loss became {loss} at step {self.state.step}; lower train.learning_rate"
            raise ModelRejected(msg)
        return loss

    def _save(self, slot: Slot) -> None:
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state.get(parameter, {})
            arrays[f"weight/{name}"] = _to_numpy(parameter)
            arrays[f"average/{name}"] = _to_numpy(self.average[name])
            arrays[f"best/{name}"] = _to_numpy(self.best[name])
            arrays |= {f"adam/{key}/{name}": _to_numpy(value) for key, value in moments.items()}
        arrays["loss_sum"] = _to_numpy(self.loss_sum)
        facts = {**vars(self.state), "curve": [vars(e) for e in self.state.curve]}
        slot.save(arrays, facts)

    @torch.no_grad()
    def _restore(self, slot: Slot) -> None:
        found = slot.load()
        if found is None:
            return
        arrays, facts = found
        self.state = _State(**{**facts, "curve": [Evaluation(**e) for e in facts["curve"]]})
        self.loss_sum.copy_(torch.from_numpy(arrays["loss_sum"]))
        for name, parameter in self.parameters.items():
            parameter.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
            self.average[name].copy_(torch.from_numpy(arrays[f"average/{name}"]))
            self.best[name].copy_(torch.from_numpy(arrays[f"best/{name}"]))
            moments = {key: arrays.get(f"adam/{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if all(value is not None for value in moments.values()):
                self.optimizer.state[parameter] = {
                    key: torch.from_numpy(np.array(value)).to(self.device) for key, value in moments.items()
                }
        self._tell_again()

    def _tell_again(self) -> None:
        """Report what was done before the kill: the last points of the curve may have died on their way."""
        self.watch.bar.advance(self.state.step * self.batch)
        for evaluation in self.state.curve:
            self.watch.on_evaluation(evaluation, math.nan)


def _to_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().cpu().numpy()


def _mix(*parts: int) -> int:
    """Return a well-spread 63-bit seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
