"""Encoded rows and a network's outputs for them to scores and losses."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from mlops_tasks.core.network import combine_members

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from mlops_tasks.artifacts import Task

SCORING_ROWS = 4096
EPSILON = 1e-7


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


def member_loss(out_bko: Tensor, rows: Rows, task: Task, total: Tensor | None = None) -> Tensor:
    """Return the mean loss over rows and members, each member judged by itself.

    `total`: the weight of all rows of the step, where these are a share of them; the shares' losses then add up.
    """
    members = out_bko.shape[1]
    if task == "binary":
        target = rows.y.unsqueeze(1).expand(-1, members)
        loss = functional.binary_cross_entropy_with_logits(out_bko.squeeze(2), target, reduction="none").mean(1)
    elif task == "multiclass":
        target = rows.y.long().unsqueeze(1).expand(-1, members)
        loss = functional.cross_entropy(out_bko.transpose(1, 2), target, reduction="none").mean(1)
    else:
        loss = (out_bko.squeeze(2) - rows.y.unsqueeze(1)).square().mean(1)
    return (loss * rows.weight).sum() / (rows.weight.sum() if total is None else total)


def score_loss(score: Tensor, rows: Rows, task: Task) -> float:
    """Return the weighted log loss of probabilities, or the mean squared error."""
    loss, weight = sum_loss(score, rows, task)
    return float(loss / weight)


def sum_loss(score: Tensor, rows: Rows, task: Task) -> Tensor:
    """Return the weighted sum of rows' losses and the sum of their weights: float64 [2]."""
    if task == "regression":
        loss = (score - rows.y).square()
    else:
        of_true = score.gather(1, rows.y.long().unsqueeze(1)).squeeze(1) if task == "multiclass" else _of_true(score, rows.y)
        loss = -of_true.clamp(EPSILON, 1).log()
    return torch.stack([(loss.double() * rows.weight).sum(), rows.weight.sum().double()])


def _of_true(score: Tensor, y: Tensor) -> Tensor:
    return torch.where(y > 0, score, 1 - score)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bfloat16 where the device is made for it."""
    return torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()


@torch.no_grad()
def predict(network: nn.Module, weights: Mapping[str, Tensor], rows: Rows, task: Task) -> Tensor:
    """Score rows with given weights: [N], multiclass [N, C]; regression in standardised units."""
    network.eval()
    parts = []
    for start in range(0, max(len(rows), 1), SCORING_ROWS):
        part = rows.take(slice(start, start + SCORING_ROWS))
        with autocast(part.x.device):
            out = functional_call(network, dict(weights), (part.x, part.flags, part.codes))
        parts.append(combine_members(out.float(), task))
    return torch.cat(parts)
