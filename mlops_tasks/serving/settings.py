"""How one server process runs: where it listens, who may ask, and how much it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mlops_tasks.serving.draining import HANDSHAKE_S, LAST_REQUESTS_S
from mlops_tasks.serving.gate import Bounds
from mlops_tasks.serving.recording.session import SHIPPING_S

REST_S = 2.0
"""For what a server that ends does besides."""


@dataclass(frozen=True)
class ServeSettings:
    """Settings of a server; none is part of the pipeline, since hosts differ."""

    host: str = "127.0.0.1"
    port: int = 8090
    """0 takes a free one."""
    poll_s: float = 2.0
    """Seconds between looks at the registry."""
    threads: int = 1
    """Of ONNX Runtime for one request."""
    version: int | None = None
    """Serve this version and follow nothing; None: the registry's aliases."""
    copies: Path = field(default_factory=lambda: Path(".mlops/serving"))
    """Where verified copies of versions lie."""
    tokens: Path | None = None
    """File of tokens; None: everybody may ask."""
    admin_token: str = field(default="", repr=False)
    """One more token, of those who may have a version loaded."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    waiting: Bounds = field(default_factory=Bounds)
    """How much waits while a model is replaced in its only slot."""
    max_body_bytes: int = 32 << 20
    """Larger requests are refused."""
    max_bodies_bytes: int = 256 << 20
    """Of all requests that are not answered, together; who sends more is told to come again."""
    max_requests: int = 2048
    """More at the same time are told to come again."""
    max_connections: int = 4096
    """More are closed at once."""
    header_s: float = 10.0
    """Within which a request's head must have come."""
    body_s: float = 60.0
    """Within which the rest of it must have come."""
    write_s: float = 60.0
    """Within which a client must have taken its answer."""
    keep_alive_s: float = 75.0
    """How long an idle connection stays open."""
    drain_delay_s: float = 0.0
    """How long a server that is told to end is not ready but answers all the same: until load balancers know."""
    drain_s: float = 20.0
    """How long requests under way may take then."""
    request_log: bool = True
    """Whether answers are logged, if the pipeline wants it."""
    log_format: str = "text"
    """`text` or `json`."""

    @property
    def longest_end_s(self) -> float:
        """How long a server takes to end at the most, when its clients, the registry and the store are slow."""
        return self.drain_delay_s + HANDSHAKE_S + LAST_REQUESTS_S + self.drain_s + SHIPPING_S + REST_S
