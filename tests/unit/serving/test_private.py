"""A private feature reaches neither the model nor the log in clear, and is what collection made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlops_tasks.core.privacy import HASH_KEY, hash_values
from mlops_tasks.core.scoring import ModelSignature
from mlops_tasks.errors import SpecError
from mlops_tasks.serving.decoding import Layout
from mlops_tasks.serving.private import hasher
from mlops_tasks.specs import PipelineSpec

SECRET = "a secret of enough characters"
LAYOUT = Layout.of(ModelSignature(task="binary", numeric=["price"], categorical=["shop", "user"], target="sold"))


def pipeline(privacy: str) -> PipelineSpec:
    columns: dict[str, Any] = {"at": "timestamp", "user": {"type": "string", "privacy": privacy}, "shop": "string"}
    features = {
        "columns": [{"name": "price", "kind": "numeric"}, *({"name": n, "kind": "categorical"} for n in ("shop", "user"))],
        "label": "sold", "task": "binary", "event_time": "at", "entity_key": ["user"],
    }  # fmt: skip
    source = {"path": "x.csv", "event_time": "at", "columns": columns}
    return PipelineSpec.model_validate(
        {
            "name": "shop", "cadence": "day", "owner": "us", "description": "Sales.", "schedule": {"start": "2024-01-01"},
            "features": features,
            "collect": {"sources": {"sales": source}, "primary": "sales", "entity_key": ["user"]},
            "preprocess": {"feature_schema": features, "primary": "sales", "primary_time": "at"},
            "evaluate": {"gates": [{"metric": "roc_auc", "min": 0.5}]},
        }
    )  # fmt: skip


def test_values_become_what_collection_makes_of_them() -> None:
    prepare = hasher(pipeline("hash"), {HASH_KEY: SECRET})
    assert prepare is not None
    numeric = np.ones((4, 1), np.float32)
    given = np.array([["north", "anna"], ["south", "ä ö"], ["west", LAYOUT.null_token], ["east", "ab" * 32]], dtype=object)
    kept, texts = prepare((numeric, given), LAYOUT)
    assert texts is not None
    collected = hash_values(pa.chunked_array([["anna", "ä ö"]]), SECRET.encode()).to_pylist()
    assert texts[:, 1].tolist() == [*collected, LAYOUT.null_token, "ab" * 32]
    assert texts[:, 0].tolist() == ["north", "south", "west", "east"]
    assert kept is numeric
    assert given[0, 1] == "anna", "the request's own array is not changed"


def test_a_model_without_the_column_is_left_alone() -> None:
    prepare = hasher(pipeline("hash"), {HASH_KEY: SECRET})
    assert prepare is not None
    arrays = (np.ones((1, 1), np.float32), None)
    assert prepare(arrays, Layout.of(ModelSignature(task="binary", numeric=["price"], categorical=[], target="sold"))) is arrays


def test_nothing_private_needs_no_secret() -> None:
    assert hasher(pipeline("keep"), {}) is None


def test_a_server_without_the_secret_does_not_start() -> None:
    with pytest.raises(SpecError) as caught:
        hasher(pipeline("hash"), {})
    assert str(caught.value) == (
        "collect.sources.sales.columns.user has privacy hash, but MLOPS_HASH_KEY is not set; set it to a long random secret"
    )
