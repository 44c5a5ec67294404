"""A stage, its pipeline's resources and the environment to everything that its container is made of.

Pure: asks no engine. Nothing is passed on but what is named here, in MLOPS_DOCKER_ENV or in MLOPS_DOCKER_SECRETS.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from mlops_tasks.errors import SpecError
from mlops_tasks.resources import Resources, in_bytes
from mlops_tasks.wiring import Adapters, code_version

if TYPE_CHECKING:
    from airflow.sdk import Context

LABEL = "io.mlops-tasks."
"""Prefix of every label of ours, on images and on containers."""
PASSED = re.compile(
    r"AWS_\w+|MLOPS_S3_\w+|MLOPS_HASH_KEY|MLOPS_SERVERS\w*|MLOPS_CACHE_SIZE|MLOPS_SPARK(?!_CONF$|_JARS$)(_\w+)?|SPARK_CONNECT_AUTHENTICATE_TOKEN"
    r"|OMP_NUM_THREADS|MLFLOW_UI_URL|MLFLOW_TRACKING_(USERNAME|PASSWORD|TOKEN|INSECURE_TLS|SERVER_CERT_PATH)|MLFLOW_S3_ENDPOINT_URL"
)
SECRET = re.compile(r"KEY(?!_ID$)|SECRET|TOKEN|PASSWORD")
ADDRESSES = re.compile(r"MLOPS_SPARK|MLFLOW_TRACKING_URI|MLFLOW_S3_ENDPOINT_URL|AWS_ENDPOINT_URL\w*")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
USERS = "root:x:0:0:root:/root:/bin/sh\nmlops:x:{uid}:{gid}:mlops:/tmp:/bin/sh\n"
"""The JVM and others ask for the name of their user, which an image doesn't know of a user of ours."""


@dataclass(frozen=True)
class MountPoint:
    """A folder or a file of the engine's host, or a named volume, and where a container finds it."""

    source: str
    target: str
    kind: Literal["bind", "volume"] = "bind"
    read_only: bool = False


@dataclass(frozen=True)
class Plan:
    """What the environment says of a stage's container."""

    image: str
    image_variable: str
    environment: dict[str, str]
    secrets: dict[str, str] = field(repr=False)
    mounts: tuple[MountPoint, ...]
    user: str | None
    """`uid:gid`; None: the image's own."""
    network: str | None

    @property
    def passwd(self) -> str:
        """The file /etc/passwd that the container needs; empty: it needs none."""
        uid, _, gid = (self.user or "").partition(":")
        return USERS.format(uid=uid, gid=gid or uid) if uid.isdecimal() and uid != "0" else ""


def plan(image: str, environ: Mapping[str, str]) -> Plan:
    """Work out the container of a stage that runs in the image called `image`, e.g. `spark`.

    Raises:
        SpecError: a variable that is named but not set, a mount that can't be read, an address that leads nowhere.

    """
    folders, places = _places(environ)
    mounts = (*(MountPoint(str(f), str(f)) for f in folders), *_mounts(environ.get("MLOPS_DOCKER_MOUNTS", "")))
    passed = {name: value for name, value in environ.items() if PASSED.fullmatch(name) and value}
    passed |= _cache(environ, mounts) | places
    network = environ.get("MLOPS_DOCKER_NETWORK") or None
    if network != "host":
        _refuse_loopback(passed)
    extra = _named("MLOPS_DOCKER_ENV", environ)
    secrets = _named("MLOPS_DOCKER_SECRETS", environ)
    secrets |= {name: value for name, value in {**passed, **extra}.items() if _is_secret(name, value)}
    variable = f"MLOPS_IMAGE_{image.upper()}"
    return Plan(
        image=environ.get(variable) or f"mlops-tasks/{image}:latest",
        image_variable=variable,
        environment={name: value for name, value in {**passed, **extra}.items() if name not in secrets}
        | {"HOME": "/tmp", "MLOPS_CODE_VERSION": environ.get("MLOPS_CODE_VERSION") or code_version()},  # noqa: S108 - a volume
        secrets=secrets,
        mounts=mounts,
        user=environ.get("MLOPS_DOCKER_USER") or (f"{os.getuid()}:{os.getgid()}" if folders else None),
        network=network,
    )


def limits(resources: Resources) -> dict[str, Any]:
    """Return a stage's limits as the engine's settings: CPU time is capped, and swap doesn't stretch memory."""
    settings: dict[str, Any] = {}
    if resources.cpus is not None:
        settings |= {"cpu_period": 100_000, "cpu_quota": round(resources.cpus * 100_000)}
    if resources.memory is not None:
        settings |= dict.fromkeys(("mem_limit", "memswap_limit"), in_bytes(resources.memory))
    if resources.shm is not None:
        settings |= {"shm_size": in_bytes(resources.shm)}
    return settings


def labels(context: Context, pipeline: str, stage: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a try's container."""
    ti = context["ti"]
    found = {
        "deployment": deployment(environ),
        "dag": ti.dag_id,
        "run": ti.run_id,
        "task": ti.task_id,
        "try": ti.try_number,
        "map_index": -1 if ti.map_index is None else ti.map_index,
        "pipeline": pipeline,
        "stage": stage,
    }
    return {LABEL + name: str(value) for name, value in found.items()}


def deployment(environ: Mapping[str, str]) -> str:
    """Return MLOPS_DEPLOYMENT, or a name that stays the same for this Airflow and this store."""
    home = environ.get("AIRFLOW_HOME") or "~/airflow"
    _, places = _places(environ)
    own = hashlib.sha256(f"{Path(home).expanduser()}\n{places['MLOPS_STORE']}".encode()).hexdigest()[:12]
    return environ.get("MLOPS_DEPLOYMENT") or own


def engine(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return how `DockerOperator` finds the engine: DOCKER_HOST and, as Docker's own client does, DOCKER_TLS_VERIFY."""
    settings: dict[str, Any] = {"docker_url": environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"}
    if environ.get("DOCKER_TLS_VERIFY"):
        folder = Path(environ.get("DOCKER_CERT_PATH") or "~/.docker").expanduser()
        settings |= {f"tls_{name}": str(folder / f"{file}.pem") for name, file in TLS_FILES.items()}
    return settings


TLS_FILES = {"ca_cert": "ca", "client_cert": "cert", "client_key": "key"}


def _places(environ: Mapping[str, str]) -> tuple[list[Path], dict[str, str]]:
    """Return the folders that a container shares with us, made if new, and where it finds store and tracking server."""
    folders = []
    store = environ.get("MLOPS_STORE") or ".mlops/store"
    if "://" not in store or store.startswith("file://"):
        folders.append(_made(store.removeprefix("file://")))
        store = str(folders[-1])
    tracking = Adapters(environ).tracking_uri
    if tracking.startswith("sqlite:///"):
        file = Path(tracking.removeprefix("sqlite:///"))
        folders.append(_made(str(file.parent)))
        tracking = f"sqlite:///{folders[-1] / file.name}"
    elif "://" not in tracking or tracking.startswith("file://"):
        folders.append(_made(tracking.removeprefix("file://")))
        tracking = str(folders[-1])
    return list(dict.fromkeys(folders)), {"MLOPS_STORE": store, "MLFLOW_TRACKING_URI": tracking}


def _made(folder: str) -> Path:
    path = Path(folder).expanduser().resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def _mounts(text: str) -> list[MountPoint]:
    """Read `SOURCE:TARGET[:ro],...`; a source without a slash is a named volume. Raises: SpecError."""
    found = []
    for part in filter(None, text.split(",")):
        source, target, *mode = part.strip().split(":") if ":" in part else (part, "")
        if not source or not target.startswith("/") or mode not in ([], ["ro"], ["rw"]):
            msg = f"MLOPS_DOCKER_MOUNTS: must be SOURCE:TARGET or SOURCE:TARGET:ro, with commas between, got {part!r}"
            raise SpecError(msg)
        found.append(MountPoint(source, target, "bind" if "/" in source else "volume", mode == ["ro"]))
    return found


def _cache(environ: Mapping[str, str], mounts: tuple[MountPoint, ...]) -> dict[str, str]:
    """Pass MLOPS_CACHE on if something is mounted there; else every container has a fresh one of its own."""
    folder = environ.get("MLOPS_CACHE")
    mounted = folder and any(Path(folder).is_relative_to(mount.target) for mount in mounts)
    return {"MLOPS_CACHE": folder} if folder and mounted else {}


def _named(variable: str, environ: Mapping[str, str]) -> dict[str, str]:
    names = [name for name in re.split(r"[,\s]+", environ.get(variable, "")) if name]
    for name in names:
        if name not in environ:
            msg = f"{variable}: names {name}, which is not set where tasks run; set it there, or take it off the list"
            raise SpecError(msg)
    return {name: environ[name] for name in names}


def _is_secret(name: str, value: str) -> bool:
    return SECRET.search(name) is not None or password_in(value) is not None


def password_in(url: str) -> str | None:
    """Return the password that a URL carries, or None."""
    try:
        return urlsplit(url).password
    except ValueError:
        return None


def _refuse_loopback(environment: Mapping[str, str]) -> None:
    """Refuse an address that means another machine inside a container. Raises: SpecError."""
    for name, value in environment.items():
        if ADDRESSES.fullmatch(name) and urlsplit(value).hostname in LOOPBACK:
            msg = (
                f"{name}: {urlsplit(value).hostname} is the container itself inside a container; give a name that the "
                "containers' network knows (MLOPS_DOCKER_NETWORK), or set MLOPS_DOCKER_NETWORK=host"
            )
            raise SpecError(msg)
