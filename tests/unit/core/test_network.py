from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tabm import LinearBatchEnsemble

from mlops_tasks.core.network import Dropout, FoldedEnsemble, Perceptron, PiecewiseLinear, Standardiser, TabM, combine_members
from mlops_tasks.core.transform import Transform, learn_transform


@pytest.fixture
def transform() -> Transform:
    frame = pd.DataFrame(
        {"a": [*map(float, range(20))], "b": [np.nan, *range(19)], "none": [np.nan] * 20, "c": ["x", "y"] * 10}
    )
    return learn_transform(frame, ["a", "b", "none"], ["c"], bins=4)


def test_numbers_are_imputed_clamped_and_standardised(transform: Transform) -> None:
    raw = torch.tensor([[5.0, 3.0, 1.0], [100.0, torch.nan, 0.0], [-100.0, torch.inf, 0.0], [19.0, 9.0, torch.nan]])
    x, flags = Standardiser(transform.numeric)(raw)
    a, b = transform.numeric[:2]
    assert x[:, 0].tolist() == pytest.approx([(v - a.mean) / a.std for v in (5, 19, 0, 19)])
    assert x[:, 1].tolist() == pytest.approx([(v - b.mean) / b.std for v in (3, b.median, b.median, 9)], abs=1e-6)
    assert flags[:, 0].tolist() == [0, 1, 1, 0]


def test_piecewise_linear_code_fills_bin_after_bin(transform: Transform) -> None:
    column = transform.numeric[0]
    embedding = PiecewiseLinear([column], 1)
    torch.nn.init.zeros_(embedding.linear)
    torch.nn.init.zeros_(embedding.bias)
    torch.nn.init.ones_(embedding.weight)
    values = torch.tensor([column.low, column.edges[1], (column.edges[1] + column.edges[2]) / 2, column.high])
    out = embedding(((values - column.mean) / column.std).float().unsqueeze(1))
    assert out.flatten().tolist() == pytest.approx([0, 1, 1.5, 4], abs=1e-5)


def test_folded_layer_is_tabms_layer() -> None:
    torch.manual_seed(0)
    reference = LinearBatchEnsemble(6, 5, k=3, scaling_init="normal")
    folded = FoldedEnsemble(6, 5, k=3, scaling_init="normal")
    folded.load_state_dict(reference.state_dict())
    shared, own = torch.randn(7, 6), torch.randn(7, 3, 6)
    assert torch.allclose(folded(shared).transpose(0, 1), reference(shared.unsqueeze(1).expand(-1, 3, -1)), atol=1e-6)
    assert torch.allclose(folded(own.transpose(0, 1)).transpose(0, 1), reference(own), atol=1e-6)


def test_dropout_keeps_the_mean_and_follows_its_generator() -> None:
    dropout, x = Dropout(0.25), torch.ones(1000, 100)
    dropout.generator = torch.Generator().manual_seed(3)
    first = dropout(x)
    dropout.generator.manual_seed(3)
    assert torch.equal(dropout(x), first)
    assert float((first == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(first.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(dropout.eval()(x), x)


def test_networks_give_one_output_per_member(transform: Transform) -> None:
    x, flags = Standardiser(transform.numeric)(torch.zeros(4, 3))
    codes = torch.tensor([[0], [1], [2], [0]])
    tabm = TabM(transform, 3, width=8, depth=2, dropout=0.1, members=5)
    assert tabm(x, flags, codes).shape == (4, 5, 3)
    assert Perceptron(transform, 1, width=8, depth=1, dropout=0.0)(x, flags, codes).shape == (4, 1, 1)


def test_an_unknown_category_starts_without_effect(transform: Transform) -> None:
    network = Perceptron(transform, 1, width=8, depth=1, dropout=0.0)
    assert not network.inputs.categorical[0](torch.tensor([0])).any()
    assert network.inputs.categorical[0](torch.tensor([1])).all()


def test_members_are_averaged_as_probabilities() -> None:
    logits = torch.tensor([[[0.0], [100.0]]])
    assert combine_members(logits, "binary").tolist() == [0.75]
    assert combine_members(logits, "regression", shift=10, scale=2).tolist() == [110.0]
    classes = combine_members(torch.tensor([[[0.0, 0.0], [100.0, 0.0]]]), "multiclass")
    assert classes.tolist() == [[0.75, 0.25]]
