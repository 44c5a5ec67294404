"""S3 servers for tests, on loopback: S3Proxy, which checks signatures and can be taken down and up again, and moto.

S3Proxy is the one of the image `s3`. Its jar comes by its Maven coordinate, once, into the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from mlops_tasks.adapters.spark import java
from tests.requirements import give_up

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "docker" / "s3"
UP_WITHIN_S = 60.0
PROPERTIES = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={access_key}
s3proxy.credential={secret_key}
s3proxy.ignore-unknown-headers=true
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""


class S3Server:
    """An S3 server: where it is, and who may use it."""

    def __init__(self, url: str, access_key: str, secret_key: str) -> None:
        """Take the server's address and credentials."""
        self.url, self.access_key, self.secret_key = url, access_key, secret_key
        self._buckets = 0

    def environ(self) -> dict[str, str]:
        """Return the AWS_ variables that lead any client here, whatever the machine's own settings are."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> S3Client:
        """Return a plain client, to look behind what is tested."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "max_attempts": 3}),
        )

    def make_bucket(self, name: str = "") -> str:
        """Make an empty bucket, by default one with a name of its own; return the name."""
        self._buckets += 1
        bucket = name or f"bucket-{self._buckets}-{secrets.token_hex(4)}"
        self.client().create_bucket(Bucket=bucket)
        return bucket


class S3Proxy(S3Server):
    """S3Proxy on a folder; its port, data and credentials stay the same when it is started again."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Prepare a server on `folder`; it is not started yet."""
        self.port = port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", f"tester-{secrets.token_hex(4)}", secrets.token_hex(16))
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and return when it answers."""
        assert self._process is None, "S3Proxy is up already"
        data, settings = self._folder / "data", self._folder / "s3proxy.conf"
        data.mkdir(parents=True, exist_ok=True)
        settings.write_text(
            PROPERTIES.format(port=self.port, access_key=self.access_key, secret_key=self.secret_key, data=data),
            encoding="utf-8",
        )
        command = [java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", s3proxy_classpath(), "AtomicS3", str(settings)]
        with (self._folder / "s3proxy.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._await_answer()

    def _await_answer(self) -> None:
        assert self._process
        deadline = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        said = (self._folder / "s3proxy.log").read_text(errors="replace")[-2000:]
        self.kill()
        msg = f"S3Proxy did not start: {said}"
        raise AssertionError(msg)

    def stop(self) -> None:
        """Ask it to end and wait; no error when it is down."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, requests in progress included; no error when it is down."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


class Moto(S3Server):
    """moto's server: quick, all of S3's calls, no check of credentials."""

    def __init__(self) -> None:
        """Start it."""
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - loading it takes a second

        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        super().__init__(f"http://{host}:{port}", "moto", "moto")

    def stop(self) -> None:
        """End it."""
        self._server.stop()


@cache
def s3proxy_classpath() -> str:
    """Fetch S3Proxy and compile what the image adds to it, once; without Maven and network tests skip, in CI they fail."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlops-tasks"
    code = hashlib.sha256((IMAGE / "AtomicS3.java").read_bytes() + (IMAGE / "jars.lock").read_bytes()).hexdigest()[:12]
    jars, classes = cached / f"s3-jars-{code}", cached / f"s3-{code}"
    _require([ROOT / "docker" / "fetch-jars", IMAGE / "jars.lock", jars])
    if not classes.exists():
        with tempfile.TemporaryDirectory(dir=cached) as folder:
            _require([IMAGE / "compile", jars, folder])
            with contextlib.suppress(OSError):  # another process was quicker
                Path(folder).rename(classes)
            Path(folder).mkdir(exist_ok=True)
    (jar,) = jars.glob("s3proxy-*.jar")
    return f"{jar}:{classes}"


def _require(command: list[object]) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "JAVA": java()},
    )
    if done.returncode:
        give_up(f"S3Proxy can't be had: {done.stdout.strip()} {done.stderr.strip()}")


def free_port() -> int:
    """Return a TCP port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
