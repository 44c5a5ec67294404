from __future__ import annotations

import hashlib
import hmac

import pyarrow as pa
import pytest

from mlops_tasks.core.privacy import apply_privacy, require_hash_key
from mlops_tasks.errors import SpecError
from mlops_tasks.specs import Source

DROPPED = {"type": "string", "privacy": "drop"}
KEY = "a-long-random-secret"
SOURCE = Source.model_validate(
    {
        "path": "x.csv",
        "columns": {"user": {"type": "string", "privacy": "hash"}, "card": {"type": "int", "privacy": "hash"}, "n": "int"},
    }
)


def table() -> pa.Table:
    return pa.table({"user": ["anna", None, "bert", "anna"], "card": pa.array([5, 5, None, 7]), "n": [1, 2, 3, 4]})


def expected(text: str) -> str:
    return hmac.new(KEY.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_hash_is_hmac_sha256_of_the_text_and_null_stays_null() -> None:
    out = apply_privacy(table(), SOURCE, KEY)
    assert out["user"].to_pylist() == [expected("anna"), None, expected("bert"), expected("anna")]
    assert out["card"].to_pylist() == [expected("5"), expected("5"), None, expected("7")]
    assert out["n"].to_pylist() == [1, 2, 3, 4]
    assert out.column_names == ["user", "card", "n"]


def test_many_chunks_and_no_rows_are_hashed_alike() -> None:
    chunks = pa.concat_tables([table(), table()])
    assert (
        apply_privacy(chunks, SOURCE, KEY)["user"].to_pylist() == [*apply_privacy(table(), SOURCE, KEY)["user"].to_pylist()] * 2
    )
    assert apply_privacy(table().slice(0, 0), SOURCE, KEY).schema == apply_privacy(table(), SOURCE, KEY).schema


def test_another_secret_gives_other_hashes() -> None:
    assert apply_privacy(table(), SOURCE, KEY)["user"] != apply_privacy(table(), SOURCE, KEY + "2")["user"]


def test_drop_removes_the_column() -> None:
    source = Source.model_validate(
        {"path": "x", "columns": {"user": {"type": "string", "privacy": "drop"}, "card": "int", "n": "int"}}
    )
    assert apply_privacy(table(), source, None).column_names == ["card", "n"]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            None,
            (
                "collect.sources.visits.columns.user has privacy hash, "
                "but MLOPS_HASH_KEY is not set; set it to a long random secret"
            ),
        ),
        ("short", "MLOPS_HASH_KEY must have at least 16 characters, got 5; set it to a long random secret"),
    ],
)
def test_the_secret_is_required(key: str | None, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        require_hash_key(SOURCE, "visits", key)
    assert str(caught.value) == message


def test_no_secret_is_needed_where_nothing_is_hashed() -> None:
    require_hash_key(Source.model_validate({"path": "x", "columns": {"n": "int"}}), "visits", None)
