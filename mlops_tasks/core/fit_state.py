"""The state of a fit to the arrays and facts of a checkpoint, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from torch import Tensor

    Arrays = Mapping[str, npt.NDArray[Any]]


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


@dataclass
class State:
    """How far a fit is."""

    step: int = 0
    evaluated_step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    stale: int = 0
    finished: bool = False
    curve: list[Evaluation] = field(default_factory=list)


@dataclass
class Weights:
    """The tensors of a fit by the parameters' names: as trained, averaged, and averaged at the best step."""

    parameters: dict[str, Tensor]
    average: dict[str, Tensor]
    best: dict[str, Tensor]


def pack_fit(
    state: State, weights: Weights, optimizer: torch.optim.Optimizer, loss_sum: Tensor
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Return the arrays and facts of a checkpoint."""
    arrays = {"loss_sum": _to_numpy(loss_sum)}
    for name, parameter in weights.parameters.items():
        arrays[f"weight/{name}"] = _to_numpy(parameter)
        arrays[f"average/{name}"] = _to_numpy(weights.average[name])
        arrays[f"best/{name}"] = _to_numpy(weights.best[name])
        moments = optimizer.state.get(parameter, {})
        arrays |= {f"adam/{key}/{name}": _to_numpy(value) for key, value in moments.items()}
    return arrays, {**vars(state), "curve": [vars(e) for e in state.curve]}


@torch.no_grad()
def restore_fit(arrays: Arrays, weights: Weights, optimizer: torch.optim.Optimizer, loss_sum: Tensor) -> None:
    """Put a checkpoint's arrays back where they came from; `restore_state` reads its facts."""
    loss_sum.copy_(torch.from_numpy(arrays["loss_sum"]))
    for name, parameter in weights.parameters.items():
        parameter.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
        weights.average[name].copy_(torch.from_numpy(arrays[f"average/{name}"]))
        weights.best[name].copy_(torch.from_numpy(arrays[f"best/{name}"]))
        moments = {key: arrays.get(f"adam/{key}/{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        if all(value is not None for value in moments.values()):
            optimizer.state[parameter] = {
                key: torch.from_numpy(np.array(value)).to(parameter.device) for key, value in moments.items()
            }


def restore_state(facts: Mapping[str, Any]) -> State:
    """Read how far a checkpoint's fit was."""
    return State(**{**facts, "curve": [Evaluation(**e) for e in facts["curve"]]})


def finished_fit(arrays: Arrays, state: State, steps_per_pass: int) -> Fitted:
    """Read the result of a fit from its last checkpoint."""
    best = {name.removeprefix("best/"): torch.from_numpy(np.array(a)) for name, a in arrays.items() if name.startswith("best/")}
    return Fitted(best, state.best_step, state.step, steps_per_pass, tuple(state.curve))


def _to_numpy(tensor: Tensor) -> npt.NDArray[Any]:
    return tensor.detach().cpu().numpy()
