"""The gradients of each process's share of a step to the gradients of the whole step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Ranks:
    """The processes of a fit as one of them sees them; a single one needs no torch.distributed."""

    rank: int = 0
    size: int = 1

    @property
    def share(self) -> slice:
        """Which of a step's rows are this process's."""
        return slice(self.rank, None, self.size)

    @property
    def salt(self) -> tuple[int, ...]:
        """What sets this process's random numbers apart from the first one's."""
        return (self.rank,) if self.rank else ()

    def sum_gradients(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Replace every gradient by its sum over the processes, bit for bit the same in each; return the sum of the losses."""
        if self.size == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = self.sum(torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)]))
        parts = torch.split(flat[1:], [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return flat[0]

    def sum(self, values: Tensor) -> Tensor:
        """Add values up over the processes, in place; every process gets the same bits."""
        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values
