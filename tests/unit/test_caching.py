"""What a result depends on, and when a result that is there counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from mlops_tasks import caching
from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import Artifact
from mlops_tasks.caching import Cache, Ingredients, code_digest, ingredients, tell
from mlops_tasks.core.publishing import publish_files
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.specs import SnapshotSpec, TrainSpec

KIND: TypeAdapter[Any] = TypeAdapter(Artifact)
texts = st.dictionaries(st.sampled_from("abc"), st.text("xyz", min_size=1, max_size=2), max_size=3)
some = st.builds(
    Ingredients,
    stage=st.sampled_from(["train", "deploy"]),
    spec=texts,
    code=st.sampled_from(["c1", "c2"]),
    libraries=texts,
    inputs=texts,
)


@settings(deadline=None)
@given(one=some, other=some)
def test_any_change_of_any_ingredient_changes_the_fingerprint(one: Ingredients, other: Ingredients) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


@settings(deadline=None)
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(1, 9),
            "width": st.integers(8, 64),
            "dropout": st.floats(0.2, 0.9),
            "model": st.sampled_from(["mlp", "hgb"]),
            "refit": st.sampled_from([False]),
        },
    )
)
def test_every_key_of_a_spec_counts(changes: dict[str, Any]) -> None:
    stage = BY_NAME["train"]
    before, after = (ingredients(stage, spec, {"dataset": "d"}) for spec in (TrainSpec(), TrainSpec(**changes)))
    assert (before.fingerprint == after.fingerprint) == (not changes)
    assert {k for k in after.spec if after.spec[k] != before.spec[k]} == set(changes) - (
        {"width"} if changes.get("width") == 128 else set()
    )


def test_imports_are_found_wherever_and_however_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("core/a.py", "core/b.py", "core/c.py", "core/d/__init__.py", "core/e.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(caching, "PACKAGE", tmp_path)
    text = """
from mlops_tasks.core import a
from mlops_tasks.core.b import x
from mlops_tasks.core import (
    c,  # why
    d,
)

def late() -> None:
    import mlops_tasks.core.e
    import os.path
"""
    found = {path.relative_to(tmp_path).as_posix() for path in caching._imports(text)}
    assert found == {"core/a.py", "core/b.py", "core/c.py", "core/d/__init__.py", "core/e.py"}


@pytest.mark.parametrize(
    ("stage", "reached"),
    [
        ("train", "core/fitting.py"),
        ("train", "core/network.py"),
        ("preprocess", "core/features.py"),
        ("preprocess", "core/collection.py"),
        ("validate", "core/expectations.py"),
        ("collect", "adapters/sources/formats.py"),
        ("deploy", "core/promotion.py"),
    ],
)
def test_the_code_of_a_stage_is_all_that_it_reaches(stage: str, reached: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code_digest.cache_clear()
    seen: list[str] = []
    monkeypatch.setattr(caching, "digest_of", lambda value: seen.extend(value) if isinstance(value, dict) else "x")
    code_digest(stage)
    code_digest.cache_clear()
    assert reached in seen


def test_a_change_of_reached_code_or_template_counts_and_of_other_code_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "stages/evaluate.py": "from mlops_tasks.core.report import render\n",
        "stages/train.py": "from mlops_tasks.core import fitting\n",
        "core/fitting.py": "import os\n",
        "core/report/__init__.py": "from mlops_tasks.core.report.html import render\n",
        "core/report/html.py": "def render(): ...\n",
        "core/report/templates/page.j2": "<p>",
        "runner.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(caching, "PACKAGE", tmp_path)

    def digests() -> dict[str, str]:
        code_digest.cache_clear()
        return {stage: code_digest(stage) for stage in ("evaluate", "train")}

    before, changed = digests(), {}
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        changed[name] = {stage for stage, digest in digests().items() if digest != before[stage]}
        (tmp_path / name).write_text(text)
    code_digest.cache_clear()
    assert changed == {
        "stages/evaluate.py": {"evaluate"},
        "stages/train.py": {"train"},
        "core/fitting.py": {"train"},
        "core/report/__init__.py": {"evaluate"},
        "core/report/html.py": {"evaluate"},
        "core/report/templates/page.j2": {"evaluate"},
        "runner.py": set(),
    }


def wanted(**changes: Any) -> Ingredients:
    base = ingredients(BY_NAME["snapshot"], SnapshotSpec(), {"2030-01-01": "a", "2030-01-02": "b"})
    return base.model_copy(update=changes)


def publish(store: LocalStore) -> Artifact:
    with store.staging() as folder:
        (folder / "data").write_bytes(b"result")
        digest, files = publish_files(store, "shop/x", {"data": folder / "data"})
    return Artifact(digest=digest, files=files)


def test_what_was_kept_is_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    cache, result = Cache(store, "shop"), publish(store)
    assert cache.find("w", wanted(), KIND) == (None, "not made before")
    cache.keep("w", wanted(), result)
    assert cache.find("w", wanted(), KIND) == (result, "unchanged")
    assert cache.find("other", wanted(), KIND) == (None, "not made before")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"code": "other"}, "code changed"),
        ({"spec": wanted().spec | {"test": "x", "embargo": "y"}}, "spec changed (embargo, test)"),
        ({"inputs": {"2030-01-01": "a", "2030-01-02": "c"}}, "input changed (2030-01-02)"),
        ({"inputs": {"2030-01-01": "c"}, "code": "x"}, "code changed; input changed (2030-01-01, 2030-01-02)"),
        ({"libraries": {"pyspark": "9"}}, "pyspark changed"),
    ],
)
def test_a_miss_says_what_changed(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    store = LocalStore(tmp_path)
    cache = Cache(store, "shop")
    cache.keep("w", wanted(code="a", inputs={}, libraries={"y": "1", "z": "1"}, spec={}), publish(store))
    cache.keep("w", wanted(), publish(store))
    assert cache.find("w", wanted(**changes), KIND) == (None, why)


@pytest.mark.parametrize("damage", [b"resulT", b"resu", None])
def test_a_damaged_result_does_not_count_until_it_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    store = LocalStore(tmp_path)
    result = publish(store)
    Cache(store, "shop").keep("w", wanted(), result)
    key = result.files[0].key
    store.delete(key) if damage is None else store.write(key, damage)
    cache = Cache(store, "shop")
    assert cache.find("w", wanted(), KIND) == (None, f"missing or damaged: {key}")
    cache.keep("w", wanted(), publish(store))
    assert cache.find("w", wanted(), KIND) == (result, "unchanged")


def test_a_record_of_another_version_does_not_count(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    cache = Cache(store, "shop")
    cache.keep("w", wanted(), publish(store))
    (record,) = store.list("shop/cache/")
    store.write(record, store.read(record).replace(b'"digest"', b'"digested"'))
    assert cache.find("w", wanted(), KIND) == (None, "its record is of another version")
    store.write(record, b"{")
    assert cache.find("w", wanted(), KIND) == (None, "its record is of another version")


def test_reasons_are_counted() -> None:
    assert tell(["not made before"]) == "not made before"
    assert tell(["code changed"] * 3 + ["asked for"]) == "code changed (3), asked for (1)"
