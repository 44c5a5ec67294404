"""Judged models to versions and aliases of an MLflow registry."""

from __future__ import annotations

import json
import shutil
import tempfile
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from mlops_tasks.adapters import mlflow_ledger as ledger_of
from mlops_tasks.adapters.mlflow_client import database_path, experiment_id, is_failure, reaching
from mlops_tasks.adapters.mlflow_ledger import LEDGER_TAG, Entry
from mlops_tasks.adapters.mlflow_reading import VersionRow, reader
from mlops_tasks.adapters.mlflow_writing import open_client
from mlops_tasks.artifacts import Deployment
from mlops_tasks.errors import ModelRejected, RegistryUnavailable
from mlops_tasks.ports import ModelVersion

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlops_tasks.artifacts import Candidate, Verdict

FINGERPRINT_TAG = "mlops.fingerprint"
DEPLOYMENT_TAG = "mlops.deployment"
MODEL_FOLDER = "model"
SETTLE_TRIES = 5


class MlflowRegistry:
    """Implements `ModelRegistry` on a `sqlite:///` or `http(s)://` tracking URI; see the port for what each call promises.

    Each call may be killed at any point and called again: a version is created by one request that
    carries its tags, and aliases move by the ledger (`mlflow_ledger`).
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._database = database_path(uri)
        self._reader = reader(uri)

    @cached_property
    def _client(self) -> Any:
        return open_client(self._uri, self._database)

    def register(
        self, name: str, candidate: Candidate, verdict: Verdict, files: Mapping[str, Path], deployment: Mapping[str, str]
    ) -> int:
        """Register a model once per fingerprint; return its version."""
        del verdict  # what people want to see of it comes in `deployment`
        found = self._version_of(name, candidate.fingerprint)
        if found is not None:
            return found
        client = self._client
        with reaching(self._uri, f"registering {name}"):
            self._ensure_model(name)
            run_id = self._run_of(name, candidate)
        self._upload(name, run_id, files)
        with reaching(self._uri, f"registering {name}"):
            tags = {**deployment, FINGERPRINT_TAG: candidate.fingerprint}
            root = client.get_run(run_id).info.artifact_uri
            client.create_model_version(name, f"{root}/{MODEL_FOLDER}", run_id, tags=tags, await_creation_for=None)
        return self._without_doubles(name, candidate.fingerprint)

    def _version_of(self, name: str, fingerprint: str) -> int | None:
        """Return the first version with a fingerprint."""
        found = [row.version for row in self._reader.versions(name) if row.tags.get(FINGERPRINT_TAG) == fingerprint]
        return min(found, default=None)

    def _without_doubles(self, name: str, fingerprint: str) -> int:
        """Keep the first version of a fingerprint: two processes that registered it at once agree on that one."""
        found = sorted(row.version for row in self._reader.versions(name) if row.tags.get(FINGERPRINT_TAG) == fingerprint)
        with reaching(self._uri, f"registering {name}"):
            for version in found[1:]:
                self._delete(name, version)
        return found[0]

    def _delete(self, name: str, version: int) -> None:
        """Delete a version; that another process was quicker is no error."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded with the client

        try:
            self._client.delete_model_version(name, str(version))
        except MlflowException:
            if any(row.version == version for row in self._reader.versions(name)):
                raise

    def _ensure_model(self, name: str) -> str:
        """Create the registered model with its ledger unless it is there; return the ledger's run."""
        row = self._reader.model(name)
        if row is not None and LEDGER_TAG in row.tags:
            return row.tags[LEDGER_TAG]
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded with the client

        client = self._client
        run_id = self._tagged_run(name, "mlops.role", "ledger", f"promotions of {name}")
        if row is not None:  # a person made it
            client.set_registered_model_tag(name, LEDGER_TAG, run_id)
            return run_id
        try:
            client.create_registered_model(name, tags={LEDGER_TAG: run_id})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return self._ensure_model(name)
        return run_id

    def _run_of(self, name: str, candidate: Candidate) -> str:
        """Return the candidate's run, or a new one where this MLflow does not know it."""
        from mlflow.exceptions import MlflowException  # noqa: PLC0415 - loaded with the client

        try:
            run_id: str = self._client.get_run(candidate.mlflow_run_id).info.run_id
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            return self._tagged_run(name, FINGERPRINT_TAG, candidate.fingerprint, candidate.fingerprint[:12])
        return run_id

    def _tagged_run(self, name: str, tag: str, value: str, run_name: str) -> str:
        """Return the oldest finished run with a tag, made if there is none."""
        client, experiment = self._client, experiment_id(self._client, self._uri, name)
        order = ["attributes.start_time ASC"]
        found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1, order_by=order)
        run = found[0] if found else client.create_run(experiment, tags={tag: value}, run_name=run_name)
        client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def _upload(self, name: str, run_id: str, files: Mapping[str, Path]) -> None:
        from mlops_tasks.adapters.mlflow_model import write_model_folder  # noqa: PLC0415 - takes a second

        beside = str(next(iter(files.values())).parent)
        with tempfile.TemporaryDirectory(dir=beside if self._database else None) as folder:
            write_model_folder(Path(folder), files, run_id)
            with reaching(self._uri, f"registering {name}"):
                self._client.log_artifacts(run_id, folder, MODEL_FOLDER)

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions, newest first."""
        model = self._reader.model(name)
        if model is None:
            return []
        named: dict[int, list[str]] = {}
        for alias, version in sorted(model.aliases.items()):
            named.setdefault(version, []).append(alias)
        return [
            ModelVersion(
                name=name,
                version=row.version,
                fingerprint=row.tags.get(FINGERPRINT_TAG, ""),
                aliases=tuple(named.get(row.version, ())),
                created=datetime.fromtimestamp(row.created_ms / 1000, UTC),
                tags=row.tags,
            )
            for row in self._reader.versions(name)
        ]

    def alias(self, name: str, alias: str) -> int | None:
        """Return the version that an alias names, or None."""
        model = self._reader.model(name)
        return None if model is None else model.aliases.get(alias)

    def promote(self, name: str, alias: str, version: int, *, expected: int | None, reason: str, who: str) -> None:
        """Move an alias if it still names `expected`; write the ledger."""
        if all(row.version != version for row in self._reader.versions(name)):
            msg = f"model {name}: there is no version {version}; `mlops models {name}` lists what there is"
            raise ModelRejected(msg)
        self._move(name, alias, version, expected=expected, reason=reason, who=who)

    def retire(self, name: str, alias: str, *, expected: int, reason: str, who: str) -> None:
        """Take an alias away if it still names `expected`; write the ledger."""
        self._move(name, alias, None, expected=expected, reason=reason, who=who)

    def _move(self, name: str, alias: str, version: int | None, *, expected: int | None, reason: str, who: str) -> None:
        client = self._client
        with reaching(self._uri, f"moving {alias} of {name}"):
            run_id = self._ensure_model(name)
            last = self._settle(name, alias, run_id)
            now = self.alias(name, alias)
            if now == version != expected and self._moved_last(run_id, alias) == (expected, version):
                return  # this very move had been cut off, and is finished now
            if now != expected:
                raise _lost_race(name, alias, expected, now)
            number = ledger_of.append(client, run_id, last, alias=alias, moved=(expected, version), reason=reason, who=who)
            if number is None:
                raise _lost_race(name, alias, expected, self.alias(name, alias))
            self._settle(name, alias, run_id)

    def _settle(self, name: str, alias: str, run_id: str) -> int:
        """Move the alias to where the ledger's last entry says, if that move was cut off; return the last entry's number.

        Repeats until no later entry appeared meanwhile, so that a slow writer can't undo a quick one.
        """
        refused = 0
        while True:
            entries, entry, settled = self._ledger(run_id, alias)
            if entry is None or settled:
                return entries[-1].number if entries else 0
            try:
                if entry.to is None:
                    self._client.delete_registered_model_alias(name, alias)
                else:
                    self._client.set_registered_model_alias(name, alias, str(entry.to))
                latest = self._ledger(run_id, alias)[1]
                if latest is not None and latest.number == entry.number:
                    ledger_of.settle(self._client, run_id, entry)
            except Exception as error:
                if not is_failure(error):
                    raise
                # Two processes that write the same new row: one is refused, and sees at the next look that it is done.
                refused += 1
                if refused == SETTLE_TRIES:
                    raise

    def _ledger(self, run_id: str, alias: str) -> tuple[list[Entry], Entry | None, bool]:
        """Return all entries, the alias's latest one and whether its move was finished."""
        params, tags = self._reader.run(run_id)
        entries = ledger_of.entries(params)
        entry = ledger_of.head(entries, alias)
        return entries, entry, entry is None or ledger_of.is_settled(entry, tags)

    def _moved_last(self, run_id: str, alias: str) -> tuple[int | None, int | None]:
        """Return from where to where the ledger's last entry moved the alias."""
        entry = self._ledger(run_id, alias)[1]
        return (None, None) if entry is None else (int(entry.fields["from"] or 0) or None, entry.to)

    def history(self, name: str) -> list[dict[str, str]]:
        """Return the promotions, oldest first: at, alias, from, to, reason, who."""
        model = self._reader.model(name)
        if model is None or LEDGER_TAG not in model.tags:
            return []
        params, _ = self._reader.run(model.tags[LEDGER_TAG])
        return [{key: value for key, value in entry.fields.items() if key != "id"} for entry in ledger_of.entries(params)]

    def deployment(self, name: str, version: int) -> Deployment:
        """Return the deployment record of a version."""
        tags = self._row(name, version).tags
        if DEPLOYMENT_TAG not in tags:
            raise KeyError(version)
        return Deployment.model_validate_json(tags[DEPLOYMENT_TAG])

    def _row(self, name: str, version: int) -> VersionRow:
        for row in self._reader.versions(name):
            if row.version == version:
                return row
        raise KeyError(version)

    def record(self, deployment: Deployment) -> None:
        """Store a version's deployment record."""
        text = json.dumps(deployment.model_dump(mode="json"), sort_keys=True)
        with reaching(self._uri, f"recording {deployment.model} {deployment.version}"):
            self._client.set_model_version_tag(deployment.model, str(deployment.version), DEPLOYMENT_TAG, text)

    def fetch(self, name: str, version: int, target: Path) -> Path:
        """Download a version's files into `target`; return the folder that holds model.onnx."""
        source = self._row(name, version).source
        if urlsplit(source).scheme in {"", "file"}:
            folder = Path(unquote(urlsplit(source).path))
            try:
                shutil.copytree(folder, target, dirs_exist_ok=True)
            except (OSError, shutil.Error) as error:
                msg = f"model {name} version {version}: its files at {folder} can't be read: {error}; deploy it again"
                raise RegistryUnavailable(msg) from error
            return target
        client = self._client
        with reaching(self._uri, f"fetching {name} {version}"):
            from mlflow.artifacts import download_artifacts  # noqa: PLC0415 - loaded with the client

            uri = client.get_model_version_download_uri(name, str(version))
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=self._uri))


def _lost_race(name: str, alias: str, expected: int | None, now: int | None) -> ModelRejected:
    return ModelRejected(
        f"model {name}: {alias} names version {now or 'none'}, not {expected or 'none'} as when this run looked: "
        "another run moved it meanwhile; look at `mlops models " + name + "` and run again if it is still wanted"
    )
