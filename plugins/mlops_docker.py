"""A stage in a container of its own: handed over through the store, followed line by line, taken up again by a retry."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.providers.docker.hooks.docker import DockerHook
from airflow.providers.docker.operators.docker import DockerOperator
from airflow.sdk.bases.resumablejobmixin import ResumableJobMixin
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.log import mask_secret
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, LogConfig, Mount
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from docker import APIClient
from mlops_container import LABEL, Plan, engine, labels, limits, password_in, plan
from mlops_container_log import Lines
from mlops_operator import StageOperator
from mlops_tasks import errors
from mlops_tasks.caching import package_digest
from mlops_tasks.errors import PipelineError, SpecError, Superseded
from mlops_tasks.loading import load_pipeline
from mlops_tasks.pipeline import BY_NAME
from mlops_tasks.resources import Resources
from mlops_tasks.runner.assignment import assign, find_answer, outcome_of
from mlops_tasks.runner.duties import DUTIES, IMAGE
from mlops_tasks.wiring import open_store

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_tasks.ports import ArtifactStore
    from mlops_tasks.runner import Invocation, Outcome

ENGINE_TIMEOUT_S = 60
STOP_WITHIN_S = 3
"""Airflow kills a task that it stops five seconds after it asked; by then the container has to be gone."""
REMEMBER_EVERY_S = 10.0
LOG = LogConfig(type=LogConfig.types.JSON, config={"max-size": "20m", "max-file": "3"})
KILLED, TERMINATED, CRASHED = 137, 143, 1


class ContainerLost(AirflowException):
    """The container, or the way to it, is gone without an answer: a retry may help."""


class StageCrashed(AirflowException):
    """The stage ended with a bug; its traceback is in the log."""


class DockerStageOperator(ResumableJobMixin, StageOperator, DockerOperator):  # type: ignore[misc]  # it gives a handle, not log lines
    """Runs one stage in a container of its image."""

    external_id_key = "mlops_container"
    template_fields = StageOperator.template_fields
    template_fields_renderers = StageOperator.template_fields_renderers
    template_ext = ()

    def __init__(self, *, stage: str, **kwargs: Any) -> None:
        """Run `stage` of a pipeline; all else is `StageOperator`'s."""
        self.image_name = IMAGE if stage in DUTIES else BY_NAME[stage].image
        super().__init__(
            stage=stage,
            image=f"mlops-tasks/{self.image_name}:latest",
            mount_tmp_dir=False,
            timeout=ENGINE_TIMEOUT_S,
            **engine(os.environ),
            **kwargs,
        )
        self._job: dict[str, Any] = {}
        self._outcome: Outcome | None = None
        self._stopped = False

    def perform(self, context: Context) -> Outcome:
        """Start a container or take up the one that an earlier try left. Raises: PipelineError, AirflowException."""
        _mask(self._plan.secrets)  # also where a container is taken up, which may say them
        with self._speaking():
            return cast("Outcome", self.execute_resumable(context))

    @cached_property
    def _plan(self) -> Plan:
        return plan(self.image_name, os.environ)

    @cached_property
    def _store(self) -> ArtifactStore:
        return open_store()

    # What ResumableJobMixin asks

    def submit_job(self, context: Context) -> dict[str, Any]:
        """Hand the stage over, which fences earlier tries off, and start its container."""
        spec = load_pipeline(self.pipeline)
        resources = cast("dict[str, Resources]", spec.resources).get(self.stage, Resources())
        settings = self._plan
        self._require_image(settings)
        key = assign(self._store, self.invocation(context), spec, context["ti"].try_number)
        if settings.passwd:
            self._store.write(_passwd_key(key), settings.passwd.encode())
        own = labels(context, self.pipeline, self.stage, os.environ)
        self._remove_leftovers(own)
        job = {"key": key, "cleared": _clear_number(context)}
        return self._start(job, settings, resources, own, context)

    def get_job_status(self, external_id: Any, context: Context) -> str:
        """Say what became of the container of an earlier try; one that can't be taken up is removed."""
        container, key = external_id["container"], external_id["key"]
        try:
            state = self.cli.inspect_container(container)["State"]
        except NotFound:
            return "gone"
        if external_id["cleared"] != _clear_number(context):
            status = "of a run that was cleared since"
        elif state["Status"] == "created":
            status = "never started"
        elif state["Running"] or self._has_lasting_answer(key):
            return "to be taken up"
        else:
            status = f"ended ({_ending(state)}) without a result"
        self._remove(container)
        return status

    def is_job_active(self, status: str) -> bool:
        """Tell whether there is a container to follow; one that ended is followed to its end and its answer."""
        return status == "to be taken up"

    def is_job_succeeded(self, status: str) -> bool:  # noqa: ARG002 - the mixin's signature
        """Tell no: also what ended well is followed, for the rest of its log."""
        return False

    def poll_until_complete(self, external_id: Any, context: Context) -> Outcome:  # type: ignore[override]  # a reattached try ends with what this returns
        """Follow the container to its end; return its outcome. Raises: PipelineError, ContainerLost, StageCrashed."""
        self._job = external_id
        self._follow(external_id, context)
        self._refuse_if_stopped(external_id["container"])
        self._outcome = self._conclude(external_id, context)
        return self._outcome

    def get_job_result(self, external_id: Any, context: Context) -> Outcome | None:  # noqa: ARG002 - the mixin's signature
        """Return what the container answered."""
        return self._outcome

    def on_kill(self) -> None:
        """Stop the container and remove it, by a connection of its own: the task's may be in use where this interrupts."""
        self._stopped = True
        if container := self._job.get("container"):
            self.log.info("Stopping the container %s", container[:12])
            client = connect(os.environ)
            with suppress(NotFound):
                client.stop(container, timeout=STOP_WITHIN_S)
            remove(client, container)

    # The container

    def _require_image(self, settings: Plan) -> None:
        """Pull the image if it is absent; refuse one that holds other code than the scheduler. Raises: SpecError."""
        self.image = settings.image
        remedy = f"build it (make images), or name another in {settings.image_variable}"
        try:
            config = self._inspect_or_pull(settings.image)["Config"]
        except APIError as error:
            msg = f"image {settings.image}: the engine has none and can't pull it: {_words(error)}; {remedy}"
            raise SpecError(msg) from error
        there, here = (config.get("Labels") or {}).get(f"{LABEL}code"), package_digest()
        if there is None:
            msg = f"image {settings.image}: has no label {LABEL}code, so it holds no mlops-tasks; {remedy}"
            raise SpecError(msg)
        if there != here:
            msg = (
                f"image {settings.image}: holds the package's code {there[:12]}, the scheduler has {here[:12]}; "
                f"build it anew (make images), or name the right one in {settings.image_variable}"
            )
            raise SpecError(msg)

    def _inspect_or_pull(self, image: str) -> dict[str, Any]:
        try:
            return dict(self.cli.inspect_image(image))
        except ImageNotFound:
            self.log.info("Pulling %s", image)
        for part in self.cli.pull(image, stream=True, decode=True):
            if "error" in part:
                raise ImageNotFound(image, explanation=part["error"])
        return dict(self.cli.inspect_image(image))

    def _start(
        self, job: dict[str, Any], settings: Plan, resources: Resources, own: dict[str, str], context: Context
    ) -> dict[str, Any]:
        """Create and start the container; without GPUs where there are none and the spec allows it."""
        where = f"pipelines/{self.pipeline}/pipeline.yaml: resources.{self.stage}"
        for gpus in (resources.gpus, 0):
            created = self._create(job["key"], settings, limits(resources) | _devices(gpus), own)
            self._job = {**job, "container": created}
            if (state_store := context.get("task_state_store")) is not None:
                # Before it starts: a task that dies in between leaves no container that runs unknown to its retry.
                state_store.set(self.external_id_key, self._job)
            try:
                self._refuse_if_stopped(created)
                self.cli.start(created)
            except APIError as error:
                self._remove(created)
                if not gpus or not _is_about_devices(error):
                    self._refuse(error)
                if resources.on_missing_gpu == "fail":
                    msg = (
                        f"{where}.gpus is {gpus}, and the engine has none to give: {_words(error)}; install the NVIDIA driver "
                        f"and container toolkit where it runs, or set {where.split(': ')[1]}.on_missing_gpu: cpu"
                    )
                    raise SpecError(msg) from error
                self.log.warning(
                    "%s.gpus is %d, and the engine has none to give: goes on without (on_missing_gpu: cpu)", where, gpus
                )
            else:
                break
        self.log.info("Container %s of image %s runs %s", created[:12], settings.image, job["key"])
        return self._job

    def _refuse_if_stopped(self, container: str) -> None:
        """Go no further once Airflow has asked to stop; the container may have been made after it did."""
        if self._stopped:
            self._remove(container)
            msg = f"{self.stage}: stopped because Airflow asked for it"
            raise ContainerLost(msg)

    def _create(self, key: str, settings: Plan, more: dict[str, Any], own: dict[str, str]) -> str:
        mounts = [Mount(m.target, m.source, type=m.kind, read_only=m.read_only) for m in settings.mounts]
        mounts.append(Mount("/tmp", None, type="volume"))  # noqa: S108 - the one place to write, on disk, removed with the container
        store = settings.environment["MLOPS_STORE"]
        if settings.passwd and "://" not in store:
            mounts.append(Mount("/etc/passwd", f"{store}/{_passwd_key(key)}", type="bind", read_only=True))
        try:
            created = self.cli.create_container(
                image=settings.image,
                name=f"{self.pipeline}.{self.stage}.{uuid.uuid4().hex[:8]}",
                command=["perform", key],
                environment={**settings.environment, **settings.secrets},
                user=settings.user,
                working_dir="/tmp",  # noqa: S108 - likewise
                labels=own,
                host_config=self.cli.create_host_config(
                    mounts=mounts,
                    network_mode=settings.network,
                    read_only=True,
                    cap_drop=["ALL"],
                    security_opt=["no-new-privileges:true"],
                    init=True,
                    log_config=LOG,
                    **more,
                ),
            )
        except APIError as error:
            self._refuse(error)
        return str(created["Id"])

    def _refuse(self, error: APIError) -> NoReturn:
        """Turn what the engine says on creating or starting into our words. Raises: SpecError, or as it was: a fault of its."""
        if error.is_server_error():
            raise error
        msg = f"{self.stage}: the engine refuses its container: {_words(error)}; see resources and MLOPS_DOCKER_* of its tasks"
        raise SpecError(msg) from error

    def _follow(self, job: dict[str, Any], context: Context) -> None:
        """Log the container's lines until it has ended, from where an earlier try left off."""
        container, last = job["container"], job.get("logged", "")
        state_store, remembered = context.get("task_state_store"), time.monotonic()
        while True:
            lines = Lines(last)
            for line in lines.read(self.cli.logs(container, stream=True, follow=True, timestamps=True, since=lines.since)):
                self.log.info("%s", line)
                if state_store is not None and time.monotonic() - remembered > REMEMBER_EVERY_S:
                    remembered = time.monotonic()
                    state_store.set(self.external_id_key, {**job, "logged": lines.last})
            last = lines.last
            if self._stopped or not self.cli.inspect_container(container)["State"]["Running"]:
                return
            time.sleep(0.1)  # the stream broke off, or ends a moment before the container does

    def _conclude(self, job: dict[str, Any], context: Context) -> Outcome:
        """Take the answer, then remove the container; where the store can't be asked, leave both for the retry."""
        container = job["container"]
        answer = find_answer(self._store, job["key"])
        state = self.cli.inspect_container(container)["State"]
        self._remove(container)
        if (state_store := context.get("task_state_store")) is not None:
            state_store.delete(self.external_id_key)
        if answer is None or (answer.outcome is None and state["OOMKilled"]):
            self._raise_unanswered(state)
        return outcome_of(answer)

    def _has_lasting_answer(self, key: str) -> bool:
        answer = find_answer(self._store, key)
        return answer is not None and answer.lasting

    def _raise_unanswered(self, state: dict[str, Any]) -> NoReturn:
        code = state["ExitCode"]
        kind = _error_with(code)
        if state["OOMKilled"]:
            resources = cast("dict[str, Resources]", load_pipeline(self.pipeline).resources).get(self.stage, Resources())
            limit = f"its limit of {resources.memory}" if resources.memory else "what its machine has"
            msg = (
                f"{self.stage}: out of memory: its container needed more than {limit} and was killed (exit code {code}); "
                f"raise resources.{self.stage}.memory in pipelines/{self.pipeline}/pipeline.yaml"
            )
            raise SpecError(msg)
        if kind is Superseded:
            msg = f"{self.stage}: another try has taken over, so this one published nothing more"
            raise Superseded(msg)
        if kind is not None:
            msg = f"{self.stage}: its container ended with exit code {code} and could leave no answer; its log says why"
            raise kind(msg)
        if code == CRASHED:
            msg = f"{self.stage}: crashed (exit code {code}); the traceback is in the log above"
            raise StageCrashed(msg)
        msg = f"{self.stage}: its container ended without an answer: {_ending(state)}"
        raise ContainerLost(msg)

    def _remove_leftovers(self, own: dict[str, str]) -> None:
        """Remove containers of earlier tries of this task that no one follows any more: they could publish nothing."""
        same = [f"{name}={value}" for name, value in own.items() if name != f"{LABEL}try"]
        for found in self.cli.containers(all=True, filters={"label": same}):
            self.log.info("Removing the container %s of an earlier try", found["Id"][:12])
            self._remove(found["Id"])

    def _remove(self, container: str) -> None:
        remove(self.cli, container)

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Say which engine it was that did not answer. Raises: ContainerLost."""
        try:
            yield
        except (PipelineError, ContainerLost, StageCrashed):
            raise
        except NotFound as error:
            msg = f"{self.stage}: its container is gone, removed by someone else: {_words(error)}"
            raise ContainerLost(msg) from error
        except (DockerException, RequestException, HTTPError, ConnectionError, AirflowException) as error:
            if not _is_about_engine(error):
                raise
            msg = (
                f"Docker engine {self.docker_url}: does not answer as it should: {_words(error)}; "
                "see that it runs and that this user may use it, or set DOCKER_HOST"
            )
            raise ContainerLost(msg) from error


class DockerDuty(DockerStageOperator):
    """Does a duty in a container, on behalf of a task that is asked for it."""

    def __init__(self, *, invocation: Invocation, **kwargs: Any) -> None:
        """Do what `invocation` says."""
        super().__init__(stage=invocation.stage, **kwargs)
        self._given = invocation

    def invocation(self, context: Context) -> Invocation:
        """Return what was given."""
        del context
        return self._given


def connect(environ: Mapping[str, str]) -> APIClient:
    """Connect to the engine that tasks use. Raises: AirflowException."""
    settings = engine(environ)
    url = settings.pop("docker_url")
    certificates = {name.removeprefix("tls_"): file for name, file in settings.items()}
    tls = DockerHook.construct_tls_config(**certificates) if certificates else None
    return DockerHook(docker_conn_id=None, base_url=url, tls=tls, timeout=ENGINE_TIMEOUT_S).api_client


def remove(client: APIClient, container: str) -> None:
    """Kill and remove a container and its volumes; one that is gone, or about to be, is no error."""
    try:
        client.remove_container(container, force=True, v=True)
    except APIError as error:
        if error.status_code not in {404, 409}:
            raise


def _mask(secrets: dict[str, str]) -> None:
    for name, value in secrets.items():
        mask_secret(value, name)
        if password := password_in(value):
            mask_secret(password)


def _passwd_key(key: str) -> str:
    return f"{key.rsplit('/', 1)[0]}/passwd"


def _clear_number(context: Context) -> int:
    """Return how often the run was cleared: who clears a task wants it done anew."""
    return getattr(context["dag_run"], "clear_number", None) or 0


def _error_with(exit_code: int) -> type[PipelineError] | None:
    """Return the anticipated error that a process ends with this code for."""
    known = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PipelineError))
    return next((kind for kind in known if getattr(kind, "exit_code", None) == exit_code), None)


def _devices(gpus: int) -> dict[str, Any]:
    return {"device_requests": [DeviceRequest(count=gpus, capabilities=[["gpu"]])]} if gpus else {}


def _is_about_devices(error: APIError) -> bool:
    return any(word in _words(error).lower() for word in ("device driver", "nvidia", "gpu"))


def _is_about_engine(error: Exception) -> bool:
    """Tell an engine that can't be reached from other failures of Airflow's own."""
    return not isinstance(error, AirflowException) or "Docker host" in str(error)


def _words(error: Exception) -> str:
    """Return what the engine said."""
    said = getattr(error, "explanation", None) or error
    if isinstance(said, bytes):
        said = said.decode(errors="replace")
    with suppress(ValueError, TypeError, KeyError):
        said = json.loads(str(said))["message"]
    return str(said).strip().rstrip(".")


def _ending(state: dict[str, Any]) -> str:
    code = state["ExitCode"]
    if state["OOMKilled"]:
        return f"killed for its memory, exit code {code}"
    if code in {KILLED, TERMINATED}:
        return f"killed from outside, not for its memory, exit code {code}; was the engine or its machine restarted?"
    return f"exit code {code}" + (f", {state['Error']}" if state.get("Error") else "")
