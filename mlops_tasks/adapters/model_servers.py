"""The servers of MLOPS_SERVERS: each is told to look at the registry, and says what it serves."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops_tasks.errors import SpecError
from mlops_tasks.ports import NoServers, ServerAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from mlops_tasks.ports import ModelServers

WAIT_S = 120.0
RETRY_S = 0.5
MOST_AT_ONCE = 16
NOT_FOUND = 404


def open_servers(environ: Mapping[str, str]) -> ModelServers:
    """Read MLOPS_SERVERS, MLOPS_SERVERS_TOKEN and MLOPS_SERVERS_WAIT_S. Raises: SpecError."""
    urls = [url.strip().rstrip("/") for url in environ.get("MLOPS_SERVERS", "").split(",") if url.strip()]
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            msg = f"MLOPS_SERVERS: must be addresses such as http://serve:8090, with commas between, got {url!r}"
            raise SpecError(msg)
    wait = environ.get("MLOPS_SERVERS_WAIT_S") or str(WAIT_S)
    try:
        wait_s = float(wait)
    except ValueError as error:
        msg = f"MLOPS_SERVERS_WAIT_S: must be seconds such as 120, got {wait!r}"
        raise SpecError(msg) from error
    return HttpModelServers(urls, environ.get("MLOPS_SERVERS_TOKEN", ""), wait_s) if urls else NoServers()


@dataclass(frozen=True)
class _Target:
    """One process: an address, and the host name that it is asked under."""

    url: str
    host: str


class HttpModelServers:
    """Implements `ModelServers` by the Open Inference Protocol's model repository extension."""

    def __init__(self, urls: list[str], token: str = "", wait_s: float = WAIT_S) -> None:
        self._urls, self._token, self._wait_s = urls, token, wait_s

    def load(self, name: str, version: int, *, role: str = "champion") -> list[ServerAnswer]:
        """Ask all servers at once, and leave out those that serve another model.

        A name with several addresses, such as a headless service's, is as many servers.
        """
        until = time.monotonic() + self._wait_s
        targets = [target for url in self._urls for target in _targets(url)]
        body = {"parameters": {"version": version, "role": role}}
        with ThreadPoolExecutor(min(len(targets), MOST_AT_ONCE)) as pool:
            answers = pool.map(lambda target: self._ask(target, name, body, until), targets)
            return [answer for answer in answers if answer is not None]

    def _ask(self, target: _Target, name: str, body: dict[str, Any], until: float) -> ServerAnswer | None:
        """Ask one server until it serves the version, refuses it, or the time is over."""
        import httpx  # noqa: PLC0415 - 0.1 s that only a deployment pays

        headers = {"host": target.host} | ({"authorization": f"Bearer {self._token}"} if self._token else {})
        url, problem = f"{target.url}/v2/repository/models/{name}/load", ""
        while True:
            left = until - time.monotonic()
            if left <= 0:
                return ServerAnswer(target.url, None, f"{problem or 'it did not answer'} (waited {self._wait_s:g} s)")
            try:
                answer = httpx.post(url, json=body, headers=headers, timeout=left, trust_env=False)
            except httpx.HTTPError as error:
                problem = f"it can't be reached: {error or type(error).__name__}"
            else:
                if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return _answer_of(target.url, answer)
                problem = _problem_of(answer)
            time.sleep(min(RETRY_S, max(0.0, until - time.monotonic())))


def _targets(url: str) -> list[_Target]:
    """Return every address of a server's name; a certificate is for the name, so with TLS the name alone."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        return [_Target(url, parts.netloc)]
    port = parts.port or 80
    try:
        found = {info[4][0] for info in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)}
    except OSError:
        return [_Target(url, parts.netloc)]  # asking it says what is wrong, and it may appear meanwhile
    if len(found) == 1:
        return [_Target(url, parts.netloc)]
    names = [f"[{ip}]" if ":" in str(ip) else str(ip) for ip in sorted(map(str, found))]
    if parts.hostname == "localhost":
        return [_Target(url, parts.netloc)]
    return [_Target(f"{parts.scheme}://{ip}:{port}{parts.path}", parts.netloc) for ip in names]


def _answer_of(server: str, answer: httpx.Response) -> ServerAnswer | None:
    """Read what a server said; None: it serves another model."""
    if answer.status_code == NOT_FOUND and "is not served here" in _problem_of(answer):
        return None
    if answer.is_success:
        said = answer.json()
        return ServerAnswer(server, int(said["version"]), pause_s=float(said["pause_s"]))
    return ServerAnswer(server, None, _problem_of(answer))


def _problem_of(answer: httpx.Response) -> str:
    """Return what a server says is wrong."""
    try:
        said = answer.json()
    except ValueError:
        said = {}
    text = said.get("error") if isinstance(said, dict) else None
    return str(text) if text else f"it answered {answer.status_code}: is it a model server of this project?"
