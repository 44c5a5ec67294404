"""The engine's socket behind the stack's filter: what a stage's container needs passes, everything else is refused."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.docker_engine import Images, docker

pytestmark = pytest.mark.docker

ABSENT = "mlops-tasks-test/absent:1"
NEEDED = {
    "Image": ABSENT,
    "Env": ['A={"Privileged": true}'],
    "HostConfig": {
        "NetworkMode": "mlops_stack",
        "Mounts": [{"Type": "volume", "Source": "mlops_cache", "Target": "/cache"}],
        "Binds": None,
        "Privileged": False,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "DeviceRequests": [{"Driver": "", "Count": 1, "Capabilities": [["gpu"]]}],
        "Memory": 1 << 30,
    },
}
"""What the operator sends, with an environment that only looks bad."""


@pytest.fixture(scope="module")
def proxy(image_of: Images) -> Iterator[httpx.Client]:
    socket = ("--volume", "/var/run/docker.sock:/var/run/docker.sock")
    hardened = ("--cap-drop", "ALL", "--read-only", "--security-opt", "no-new-privileges")
    started = docker("run", "--detach", "--rm", *hardened, *socket, "--publish", "127.0.0.1::2375", image_of["proxy"])
    container = started.stdout.strip()
    try:
        address = docker("port", container, "2375").stdout.split()[0]
        with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=20) as client:
            _await(client)
            yield client
    finally:
        docker("rm", "--force", container)


def _await(client: httpx.Client) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if client.get("/_ping").is_success:
                return
        time.sleep(0.2)
    pytest.fail("the proxy does not answer")


@pytest.mark.parametrize("path", ["/_ping", "/version", "/info", "/v1.41/images/json", "/v1.41/containers/json?all=1"])
def test_looking_is_allowed(proxy: httpx.Client, path: str) -> None:
    assert proxy.get(path).status_code == 200


@pytest.mark.parametrize(
    "request_line",
    [
        "POST /v1.41/build",
        "POST /v1.41/containers/x/exec",
        "POST /v1.41/exec/x/start",
        "GET /v1.41/containers/x/archive?path=/etc",
        "PUT /v1.41/containers/x/archive?path=/etc",
        "POST /v1.41/containers/x/rename",
        "POST /v1.41/containers/x/update",
        "POST /v1.41/containers/prune",
        "POST /v1.41/images/create?fromImage=x",
        "POST /v1.41/images/load",
        "DELETE /v1.41/images/x",
        "POST /v1.41/commit?container=x",
        "GET /v1.41/volumes",
        "POST /v1.41/volumes/create",
        "DELETE /v1.41/volumes/x",
        "GET /v1.41/networks",
        "POST /v1.41/swarm/init",
        "GET /v1.41/secrets",
        "GET /v1.41/plugins",
        "GET /v1.41/events",
        "GET /v1.41/containers/x/%2e%2e/%2e%2e/volumes",
        "PATCH /v1.41/containers/x",
    ],
)
def test_everything_else_is_refused_in_words(proxy: httpx.Client, request_line: str) -> None:
    method, path = request_line.split()
    answer = proxy.request(method, path)
    assert answer.status_code == 403
    assert answer.json()["message"].startswith("docker proxy: ")


def test_a_stage_s_container_may_be_created(proxy: httpx.Client) -> None:
    answer = proxy.post("/v1.41/containers/create", json=NEEDED)
    assert (answer.status_code, answer.json()["message"]) == (404, f"No such image: {ABSENT}")


@pytest.mark.parametrize(
    ("host_config", "why"),
    [
        ({"Privileged": True}, "privileges"),
        ({"privileged": True}, "privileges"),
        ({"NetworkMode": "host"}, "namespaces"),
        ({"PidMode": "container:other"}, "namespaces"),
        ({"CapAdd": ["SYS_ADMIN"]}, "capabilities"),
        ({"CapAdd": "SYS_ADMIN"}, "capabilities"),
        ({"Devices": [{"PathOnHost": "/dev/sda"}]}, "devices"),
        ({"SecurityOpt": ["no-new-privileges", "seccomp=unconfined"]}, "security options"),
        ({"MaskedPaths": []}, "paths of the kernel"),
        ({"Binds": ["/:/host"]}, "folders of the host"),
        ({"Mounts": [{"Type": "bind", "Source": "/", "Target": "/host"}]}, "folders of the host"),
        (
            {"Mounts": [{"Type": "volume", "VolumeOptions": {"DriverConfig": {"Options": {"device": "/"}}}}]},
            "options of volumes",
        ),
        ({"VolumesFrom": ["other"]}, "other volumes"),
        ({"PortBindings": {"80/tcp": [{"HostPort": "80"}]}}, "ports of the host"),
        ({"Runtime": "other"}, "runtime"),
        ({"Sysctls": {"kernel.x": "1"}}, "sysctls"),
    ],
)
def test_a_container_that_could_take_the_host_is_not_created(
    proxy: httpx.Client, host_config: dict[str, Any], why: str
) -> None:
    answer = proxy.post("/v1.41/containers/create", json={"Image": ABSENT, "HostConfig": host_config})
    assert answer.status_code == 403
    assert why in answer.json()["message"]


@pytest.mark.parametrize(
    "body",
    [
        r'{"Image": "x", "HostConfig": {"Privil\u0065ged": true}}',
        '{"Image": "x", "HostConfig": {"Bind\u017f": ["/:/host"]}}',
        '{"Image": "x", "NetworkingConfig": {"EndpointsConfig": {\n"host": {}}}}',
        '{"Image": "x", "Env": ["' + "x" * 300_000 + '"], "HostConfig": {"Privileged": true}}',
    ],
)
def test_spelling_it_otherwise_does_not_help(proxy: httpx.Client, body: str) -> None:
    answer = proxy.post("/v1.41/containers/create", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 403


def test_a_container_s_output_comes_through_to_its_end(proxy: httpx.Client, image_of: Images) -> None:
    command = ["docker", "--host", f"tcp://{proxy.base_url.netloc.decode()}", "run", "--rm", "--entrypoint", "sh"]
    command += [image_of["proxy"], "-c", "echo first; sleep 0.2; echo last; exit 3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (3, "first\nlast\n"), done.stderr
