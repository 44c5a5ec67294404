"""What a stage's result depends on, to a fingerprint; a fingerprint to the published result, if it still verifies.

A record is written after the result's files, so a record that can be read names a whole result; its files
are checked against their sha256 before it counts.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from mlops_tasks.artifacts import Artifact, FileRef, Frozen, digest_of
from mlops_tasks.pipeline import Stage

if TYPE_CHECKING:
    from mlops_tasks.ports import ArtifactStore

PACKAGE = Path(__file__).resolve().parent
FOLLOWED = ("stages", "core", "adapters/sources")
"""What can change a result; the rest carries it."""
ALSO = {"collect": "adapters/sources/__init__.py"}
"""Code that a stage reaches through a port, yet decides what it gives."""
PARSED_AGAIN = 3


class Ingredients(Frozen):
    """Everything that a result depends on, each part a digest, so that a miss can say what changed."""

    stage: str
    spec: dict[str, str]
    code: str
    libraries: dict[str, str]
    inputs: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """The cache key."""
        return digest_of(self)


class Record(Frozen):
    """One cached result and what it depended on."""

    ingredients: Ingredients
    result: dict[str, Any]


def ingredients(stage: Stage, spec: BaseModel, inputs: Mapping[str, str]) -> Ingredients:
    """List what a stage's result depends on; `inputs` names each input's digest."""
    fields = {key: digest_of(value)[:16] for key, value in spec.model_dump(mode="json").items()}
    return Ingredients(
        stage=stage.name, spec=fields, code=code_digest(stage.name), libraries=_versions(stage.libraries), inputs=dict(inputs)
    )


@lru_cache
def package_digest() -> str:
    """Hash the sources of the whole package: equal where the same code runs."""
    files = sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return digest_of({path.relative_to(PACKAGE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files})


@lru_cache
def code_digest(stage: str) -> str:
    """Hash the sources of a stage and of everything in `FOLLOWED` that it imports, directly or not."""
    roots = [f"stages/{stage}.py"] + ([ALSO[stage]] if stage in ALSO else [])
    seen: dict[str, str] = {}
    todo = [PACKAGE / root for root in roots]
    while todo:
        path = todo.pop()
        name = path.relative_to(PACKAGE).as_posix()
        if name in seen or not name.startswith(FOLLOWED):
            continue
        text = path.read_text(encoding="utf-8")
        seen[name] = digest_of(text)
        todo += _imports(text)
        if path.name == "__init__.py":
            seen |= _templates(path.parent)
    return digest_of(seen)


def _templates(folder: Path) -> dict[str, str]:
    """Hash what a package carries beside its code, e.g. a report's templates."""
    beside = (path for path in folder.glob("templates/*") if path.is_file())
    return {path.relative_to(PACKAGE).as_posix(): digest_of(path.read_text(encoding="utf-8")) for path in sorted(beside)}


def _imports(text: str) -> Iterator[Path]:
    """Yield the files of this package that a module's text imports, wherever it does so."""
    for package, *parts in (name.split(".") for name in _imported_names(text)):
        base = PACKAGE.joinpath(*parts)
        if package == "mlops_tasks" and parts:
            yield from (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())


@lru_cache
def _imported_names(text: str) -> tuple[str, ...]:
    """Return what a module's text imports; kept, as stages share most of their modules."""
    names: list[str] = []
    for node in ast.walk(_parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return tuple(names)


def _parse(text: str) -> ast.AST:
    """Parse a module.

    Two threads that parse at once may miscount each other's depth before Python 3.11.8 (CPython's issue 106905): the
    other one has gone on by the time of a second try.
    """
    for _ in range(PARSED_AGAIN):
        with suppress(SystemError):
            return ast.parse(text)
    return ast.parse(text)


@lru_cache
def _versions(libraries: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


class Cache:
    """Published results by fingerprint."""

    def __init__(self, store: ArtifactStore, pipeline: str) -> None:
        """Look in the store under `<pipeline>/cache/`."""
        self._store, self._pipeline = store, pipeline
        self._verified: dict[str, bool] = {}

    def find(self, slot: str, wanted: Ingredients, kind: TypeAdapter[Any]) -> tuple[Any | None, str]:
        """Return the result and why; or None and why not.

        Args:
            slot: what the result is of, e.g. a window's label: earlier results of a slot tell what changed.
            wanted: what the result must depend on.
            kind: the artifact's type.

        """
        folder = self._folder(wanted.stage, slot)
        try:
            record = Record.model_validate_json(self._store.read(f"{folder}/{wanted.fingerprint}.json"))
            result = kind.validate_python(record.result)
        except KeyError:
            return None, self._why_not(folder, wanted)
        except ValidationError:
            return None, "its record is of another version"
        damaged = [ref.key for ref in files_of(result) if not self._verifies(ref)]
        if damaged:
            return None, f"missing or damaged: {damaged[0]}"
        return result, "unchanged"

    def earlier(self, stage: str, slot: str) -> list[Record]:
        """Return what was kept of a slot, whatever it depended on."""
        return list(self._records(self._folder(stage, slot)))

    def _records(self, folder: str) -> Iterator[Record]:
        for key in self._store.list(f"{folder}/"):
            try:
                yield Record.model_validate_json(self._store.read(key))
            except (KeyError, ValidationError):
                continue  # taken away since it was listed, or of another version

    def keep(self, slot: str, depends: Ingredients, result: Artifact) -> None:
        """Remember a published result."""
        for ref in files_of(result):
            self._verified.pop(ref.key, None)  # published anew
        record = Record(ingredients=depends, result=result.model_dump(mode="json"))
        self._store.write(f"{self._folder(depends.stage, slot)}/{depends.fingerprint}.json", record.model_dump_json().encode())

    def _folder(self, stage: str, slot: str) -> str:
        return f"{self._pipeline}/cache/{stage}/{slot}"

    def _verifies(self, ref: FileRef) -> bool:
        """Check a file once a process: static tables are shared by all windows."""
        if ref.key not in self._verified:
            self._verified[ref.key] = self._store.verify(ref)
        return self._verified[ref.key]

    def _why_not(self, folder: str, wanted: Ingredients) -> str:
        """Compare with the slot's earlier results; name what changed against the nearest one."""
        changes = [_difference(record.ingredients, wanted) for record in self._records(folder)]
        if not changes:
            return "not made before"
        nearest = min(changes, key=len)
        return "; ".join(nearest)


def _difference(earlier: Ingredients, wanted: Ingredients) -> list[str]:
    changed = [f"spec changed ({', '.join(_changed(earlier.spec, wanted.spec))})"] if earlier.spec != wanted.spec else []
    changed += ["code changed"] if earlier.code != wanted.code else []
    changed += [f"{name} changed" for name in _changed(earlier.libraries, wanted.libraries)]
    changed += (
        [f"input changed ({', '.join(_changed(earlier.inputs, wanted.inputs)[:3])})"] if earlier.inputs != wanted.inputs else []
    )
    return changed


def _changed(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def files_of(value: Any) -> Iterator[FileRef]:
    """Yield every file that an artifact names, nested artifacts included."""
    if isinstance(value, FileRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from files_of(getattr(value, name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from files_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from files_of(item)


def tell(reasons: list[str]) -> str:
    """Summarise why windows were made, e.g. `not made before (3)`."""
    counted = Counter(reasons)
    return ", ".join(f"{reason} ({count})" if len(reasons) > 1 else reason for reason, count in counted.most_common(4))
