"""The tabular networks: raw numbers and vocabulary indices to scores.

`Standardiser` (no weights) and a backbone are trained apart, so that rows are standardised once;
`ScoringNetwork` joins them with the task's output for export.
"""

# ruff: noqa: N803, N806 - a tensor's name ends with its shape, whose axes are capitals

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from tabm import LinearBatchEnsemble, LinearEnsemble
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.transform import NumericColumn, Transform
    from mlops_tasks.specs import TrainSpec

NUMERIC_WIDTH = 16
"""Units of a numeric column's embedding."""
MAX_CATEGORY_WIDTH = 32
FLOAT_MAX = float(np.finfo(np.float32).max)


class Standardiser(nn.Module):
    """Impute, clamp and standardise raw numbers; mark the missing ones."""

    used: Tensor
    flagged: Tensor
    median: Tensor
    low: Tensor
    high: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, columns: Sequence[NumericColumn]) -> None:
        super().__init__()
        used = [i for i, c in enumerate(columns) if c.varies]
        flagged = [i for i, c in enumerate(columns) if c.has_nulls]
        self.register_buffer("used", torch.tensor(used, dtype=torch.int64))
        self.register_buffer("flagged", torch.tensor(flagged, dtype=torch.int64))
        for name in ("median", "low", "high", "mean", "std"):
            values = [getattr(columns[i], name) for i in used]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, x_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Map raw numbers [B, Fn] to standardised ones [B, U] and missing flags [B, M]; not finite is missing."""
        known_BF = x_BF.abs() <= FLOAT_MAX
        known_BU, x_BU = known_BF.index_select(1, self.used), x_BF.index_select(1, self.used)
        x_BU = torch.where(known_BU, x_BU, self.median)
        x_BU = (torch.minimum(torch.maximum(x_BU, self.low), self.high) - self.mean) / self.std
        return x_BU, 1.0 - known_BF.index_select(1, self.flagged).to(torch.float32)


class PiecewiseLinear(nn.Module):
    """Piecewise-linear embeddings of standardised numbers (Gorishniy et al. 2022, section 3.2; version B of TabM)."""

    slope: Tensor
    offset: Tensor

    def __init__(self, columns: Sequence[NumericColumn], width: int) -> None:
        super().__init__()
        most = max(len(c.edges) for c in columns) - 1
        slope, offset = torch.zeros(len(columns), most), torch.zeros(len(columns), most)
        for i, c in enumerate(columns):
            edges = (c.edges - c.mean) / c.std
            lengths = np.diff(edges)
            slope[i, : len(lengths)] = torch.tensor(1 / lengths)
            offset[i, : len(lengths)] = torch.tensor(-edges[:-1] / lengths)
        self.register_buffer("slope", slope)
        self.register_buffer("offset", offset)
        self.weight = nn.Parameter(torch.zeros(len(columns), most, width))
        self.linear = nn.Parameter(torch.empty(len(columns), width).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(len(columns), width).uniform_(-1, 1))

    def forward(self, x_BU: Tensor) -> Tensor:
        """Embed [B, U] as [B, U * width]."""
        code_BUN = torch.addcmul(self.offset, self.slope, x_BU.unsqueeze(-1)).clamp(0, 1)
        embedded = torch.bmm(code_BUN.transpose(0, 1), self.weight).transpose(0, 1)
        return (embedded + torch.addcmul(self.bias, self.linear, x_BU.unsqueeze(-1))).flatten(1)


class Inputs(nn.Module):
    """Embeddings of all columns, side by side."""

    def __init__(self, transform: Transform) -> None:
        super().__init__()
        varying = [c for c in transform.numeric if c.varies]
        self.numeric = PiecewiseLinear(varying, NUMERIC_WIDTH) if varying else None
        widths = [min(MAX_CATEGORY_WIDTH, round(1.6 * c.cardinality**0.56)) for c in transform.categorical]
        self.categorical = nn.ModuleList(
            _embedding(c.cardinality, width) for c, width in zip(transform.categorical, widths, strict=True)
        )
        flags = sum(c.has_nulls for c in transform.numeric)
        self.chunks = [NUMERIC_WIDTH] * len(varying) + [1] * flags + widths
        self.width = sum(self.chunks)

    def forward(self, x_BU: Tensor, flags_BM: Tensor, codes_BC: Tensor) -> Tensor:
        """Embed a batch as [B, width]."""
        parts = [] if self.numeric is None else [self.numeric(x_BU)]
        if flags_BM.shape[1]:
            parts.append(flags_BM)
        parts += [embedding(codes_BC[:, i]) for i, embedding in enumerate(self.categorical)]
        return torch.cat(parts, dim=1)


def _embedding(cardinality: int, width: int) -> nn.Embedding:
    embedding = nn.Embedding(cardinality, width)
    with torch.no_grad():
        embedding.weight[0] = 0  # a category without training rows adds nothing
    return embedding


class Dropout(nn.Module):
    """Dropout with one random byte an element: the rate is a multiple of 1/256, the cost a tenth of torch's on CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.cut = min(round(rate * 256), 255)
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share of the elements while training; scale the others up."""
        if not self.training or self.cut == 0:
            return x
        words = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device)
        words.random_(-(2**63), None, generator=self.generator)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self.cut
        return x * kept.to(x.dtype).mul_(256 / (256 - self.cut))


class FoldedEnsemble(LinearBatchEnsemble):  # type: ignore[misc]  # tabm is not typed
    """TabM's layer with its scalings folded into one matrix per member: the same function.

    The scalings then cost K * I * O operations instead of B * K * (I + O), forwards and backwards.
    """

    weight: Tensor
    r: Tensor
    s: Tensor
    bias: Tensor
    folded = True

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, I] (shared by the members) or [K, B, I] to [K, B, O]."""
        if not self.folded:
            x_KBI = x * self.r.unsqueeze(1)
            x_KBO = nn.functional.linear(x_KBI.flatten(0, 1), self.weight).view(self.k, -1, self.out_features)
            return torch.addcmul(self.bias.unsqueeze(1), x_KBO, self.s.unsqueeze(1))
        weight_KOI = self.weight * self.r.unsqueeze(1) * self.s.unsqueeze(2)
        if x.ndim == 3:  # noqa: PLR2004 - three axes
            return torch.baddbmm(self.bias.unsqueeze(1), x, weight_KOI.transpose(1, 2))
        out = torch.addmm(self.bias.flatten(), x, weight_KOI.flatten(0, 1).T)
        return out.view(-1, self.k, self.out_features).transpose(0, 1)


@contextmanager
def unfolded(network: nn.Module) -> Iterator[None]:
    """Let TabM's layers scale their inputs and outputs instead: the shared weights are there once, not once a member."""
    layers = [module for module in network.modules() if isinstance(module, FoldedEnsemble)]
    for layer in layers:
        layer.folded = False
    try:
        yield
    finally:
        for layer in layers:
            layer.folded = True


class TabM(nn.Module):
    """TabM: k multilayer perceptrons that share weights (Gorishniy et al. 2025, section 3.3)."""

    def __init__(self, transform: Transform, outputs: int, *, width: int, depth: int, dropout: float, members: int) -> None:
        super().__init__()
        self.inputs = Inputs(transform)
        sizes = [self.inputs.width, *[width] * depth]
        first = {"scaling_init": ("normal", "ones"), "first_scaling_init_chunks": self.inputs.chunks}
        self.layers = nn.ModuleList(
            FoldedEnsemble(sizes[i], sizes[i + 1], k=members, **(first if i == 0 else {"scaling_init": "ones"}))
            for i in range(depth)
        )
        self.dropout = Dropout(dropout)
        self.head = LinearEnsemble(width, outputs, k=members)

    def forward(self, x_BU: Tensor, flags_BM: Tensor, codes_BC: Tensor) -> Tensor:
        """Map a batch to every member's outputs [B, K, O]."""
        h = self.inputs(x_BU, flags_BM, codes_BC)
        for layer in self.layers:
            h = self.dropout(torch.relu(layer(h)))
        return torch.baddbmm(self.head.bias.unsqueeze(1), h, self.head.weight).transpose(0, 1)


class Perceptron(nn.Module):
    """A multilayer perceptron over the same inputs."""

    def __init__(self, transform: Transform, outputs: int, *, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.inputs = Inputs(transform)
        sizes = [self.inputs.width, *[width] * depth]
        self.layers = nn.ModuleList(nn.Linear(sizes[i], sizes[i + 1]) for i in range(depth))
        self.dropout = Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def forward(self, x_BU: Tensor, flags_BM: Tensor, codes_BC: Tensor) -> Tensor:
        """Map a batch to outputs [B, 1, O]."""
        h_BH = self.inputs(x_BU, flags_BM, codes_BC)
        for layer in self.layers:
            h_BH = self.dropout(torch.relu(layer(h_BH)))
        out: Tensor = self.head(h_BH).unsqueeze(1)
        return out


class Linear(nn.Module):
    """A linear model of standardised numbers, missing flags and one-hot categories; its weights are set, not trained."""

    def __init__(self, transform: Transform, outputs: int) -> None:
        super().__init__()
        numbers = sum(c.varies for c in transform.numeric)
        flags = sum(c.has_nulls for c in transform.numeric)
        self.weight = nn.Parameter(torch.zeros(outputs, numbers + flags))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.categorical = nn.ModuleList(nn.Embedding(c.cardinality, outputs) for c in transform.categorical)

    def forward(self, x_BU: Tensor, flags_BM: Tensor, codes_BC: Tensor) -> Tensor:
        """Map a batch to outputs [B, 1, O]."""
        out: Tensor = self.bias
        if self.weight.shape[1]:
            out = torch.cat([x_BU, flags_BM], dim=1) @ self.weight.T + out
        for i, embedding in enumerate(self.categorical):
            out = out + embedding(codes_BC[:, i])
        return out.unsqueeze(1)


def build_backbone(transform: Transform, spec: TrainSpec, outputs: int) -> nn.Module:
    """Make the network that a spec names, with weights drawn from its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        if spec.model == "mlp":
            return Perceptron(transform, outputs, width=spec.width, depth=spec.depth, dropout=spec.dropout)
        return TabM(transform, outputs, width=spec.width, depth=spec.depth, dropout=spec.dropout, members=spec.members)


def combine_members(out_BKO: Tensor, task: Task, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    """Average the members: probability of the positive class [B], of each class [B, C], or the value [B]."""
    if task == "binary":
        return torch.sigmoid(out_BKO.squeeze(2)).mean(1)
    if task == "multiclass":
        return torch.softmax(out_BKO, dim=2).mean(1)
    return out_BKO.squeeze(2).mean(1) * scale + shift


class ScoringNetwork(nn.Module):
    """The whole model: raw numbers [B, Fn] and indices [B, Fc] to the score."""

    def __init__(self, standardiser: Standardiser, backbone: nn.Module, task: Task, *, shift: float, scale: float) -> None:
        super().__init__()
        self.standardiser, self.backbone = standardiser, backbone
        self.task: Task = task
        self.shift, self.scale = shift, scale

    def forward(self, numeric: Tensor, codes: Tensor) -> Tensor:
        """Score a batch."""
        return combine_members(self.backbone(*self.standardiser(numeric), codes), self.task, shift=self.shift, scale=self.scale)


class NumericOnly(nn.Module):
    """A scoring network of a table without categorical columns."""

    def __init__(self, network: ScoringNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, numeric: Tensor) -> Tensor:
        """Score a batch of [B, Fn]."""
        out: Tensor = self.network(numeric, numeric.new_zeros((numeric.shape[0], 0), dtype=torch.int64))
        return out


class CategoricalOnly(nn.Module):
    """A scoring network of a table without numeric columns."""

    def __init__(self, network: ScoringNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor) -> Tensor:
        """Score a batch of [B, Fc]."""
        out: Tensor = self.network(codes.new_zeros((codes.shape[0], 0), dtype=torch.float32), codes)
        return out
