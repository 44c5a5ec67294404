from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mlops_tasks.adapters.local_store import LocalStore
from mlops_tasks.artifacts import FileRef
from mlops_tasks.core.publishing import gather_files, hash_file, publish_files
from mlops_tasks.errors import StoreUnavailable


def publish(
    store: LocalStore, contents: dict[str, bytes], *, facts: object = None, unhashed: frozenset[str] = frozenset()
) -> tuple[str, tuple[FileRef, ...]]:
    with store.staging() as folder:
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        files = {name: folder / name for name in contents}
        return publish_files(store, "shop/x", files, facts=facts, rows={"a": 7}, unhashed=unhashed)


def test_the_folder_is_named_by_its_content(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    digest, refs = publish(store, {"b": b"two", "a": b"one"})
    assert [(ref.key, ref.rows) for ref in refs] == [(f"shop/x/{digest[:16]}/a", 7), (f"shop/x/{digest[:16]}/b", None)]
    assert all(store.verify(ref) for ref in refs)
    assert publish(store, {"a": b"one", "b": b"two"}) == (digest, refs)


def test_content_names_and_facts_make_the_digest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    variants = [
        publish(store, {"a": b"one"}),
        publish(store, {"a": b"two"}),
        publish(store, {"b": b"one"}),
        publish(store, {"a": b"one"}, facts={"rows": 1}),
        publish(store, {"a": b"one"}, facts={"rows": 2}),
        publish(store, {"a": b"one", "b": b""}),
    ]
    assert len({digest for digest, _ in variants}) == len(variants)


def test_a_report_with_times_in_it_is_no_part_of_the_identity_and_stays_as_first_published(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    first = publish(store, {"a": b"one", "report": b"at noon"}, unhashed=frozenset({"report"}))
    second = publish(store, {"a": b"one", "report": b"at midnight, later"}, unhashed=frozenset({"report"}))
    assert first == second
    assert store.read(first[1][1].key) == b"at noon"
    assert all(store.verify(ref) for ref in second[1])


def test_files_that_lie_apart_come_into_one_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    (one,), (two,) = (publish(store, {name: data})[1] for name, data in (("a", b"one"), ("b", b"two")))

    files = gather_files(store, [one, two], tmp_path / "model")

    assert {name: path.read_bytes() for name, path in files.items()} == {"a": b"one", "b": b"two"}
    assert {path.parent for path in files.values()} == {tmp_path / "model"}


def test_files_are_hashed_whole(tmp_path: Path) -> None:
    data = b"x" * (3 << 20) + b"y"
    (tmp_path / "big").write_bytes(data)
    assert hash_file(tmp_path / "big") == hashlib.sha256(data).hexdigest()


def test_a_store_that_fails_shows_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    kept = publish(store, {"a": b"one"})

    def refuse(source: Path, key: str, *, rows: int | None = None) -> FileRef:
        del source, rows
        msg = f"store: publishing {key} failed"
        raise StoreUnavailable(msg)

    monkeypatch.setattr(store, "publish", refuse)
    with pytest.raises(StoreUnavailable):
        publish(store, {"a": b"two"})
    assert list(store.list("")) == [kept[1][0].key]
