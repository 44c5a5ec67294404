"""The grammar of `mlops serve`, and its bounds as settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_tasks.cli.grammar import add_command, add_name
from mlops_tasks.errors import SpecError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from mlops_tasks.cli.grammar import Commands


@dataclass(frozen=True)
class Bound:
    """A number that an operator may choose."""

    option: str
    default: float
    least: float
    most: float
    what: str
    unit: str = "S"

    @property
    def name(self) -> str:
        """Its name among the parsed arguments."""
        return self.option.removeprefix("--").replace("-", "_")

    def require(self, value: float) -> None:
        """Refuse a number out of range; nan is out of every range. Raises: SpecError."""
        if not self.least <= value <= self.most:
            msg = f"serve: {self.option} must be {self.least:g} to {self.most:g}, got {value:g}"
            raise SpecError(msg)


BASICS = (
    Bound("--port", 8090, 0, 65535, "port; 0 takes a free one", "N"),
    Bound("--poll", 2.0, 0.05, 3600, "seconds between looks at the registry"),
    Bound("--threads", 1, 1, 1024, "ONNX Runtime threads for one request", "N"),
)
BOUNDS = (
    Bound("--swap-deadline", 5.0, 0.1, 3600, "how long a request waits for a swap"),
    Bound("--max-waiting", 1024, 0, 1_000_000, "requests that wait for a swap; more get 503", "N"),
    Bound("--max-waiting-size", 64, 1, 1_000_000, "of their bodies together", "MB"),
    Bound("--max-body", 32, 1, 2047, "largest request; a larger one gets 413", "MB"),
    Bound("--max-bodies", 256, 1, 1_000_000, "of the bodies of all requests under way; who sends more gets 503", "MB"),
    Bound("--max-requests", 2048, 1, 1_000_000, "requests under way; more get 503", "N"),
    Bound("--max-connections", 4096, 1, 1_000_000, "open connections; more get 503 and are closed", "N"),
    Bound("--header-timeout", 10.0, 0.1, 3600, "within which a request's head must come, and a TLS handshake end"),
    Bound("--body-timeout", 60.0, 0.1, 3600, "within which its body must come then; else 408"),
    Bound("--answer-timeout", 60.0, 0.1, 3600, "within which a client must take its answer"),
    Bound("--keep-alive", 75.0, 0.1, 3600, "how long an idle connection stays open; longer than a load balancer's"),
    Bound("--drain-delay", 0.0, 0, 3600, "how long to go on, but not ready, when told to end: a load balancer's interval"),
    Bound("--drain", 20.0, 1, 3600, "how long requests under way may take then"),
)


def add_serve(commands: Commands) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "serve",
        "Serve the champion over HTTP; a new champion is picked up without a restart.",
        "mlops serve nyc_flights --port 8090",
        "mlops serve nyc_flights --host 0.0.0.0 --tokens tokens --tls-cert tls.crt --tls-key tls.key --drain-delay 10",
    )
    add_name(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    _add_bounds(command, BASICS)
    command.add_argument("--version", type=int, metavar="N", help="serve this version and follow nothing")
    command.add_argument(
        "--swap", choices=("auto", "hot", "single-slot"), help="how models are replaced (default: the pipeline's serve.swap)"
    )
    _add_bounds(command, BOUNDS)
    command.add_argument(
        "--tokens",
        metavar="FILE",
        help="who may ask: lines `<predict|admin|metrics> <token>` (default MLOPS_SERVE_TOKENS; none: everybody)",
    )
    command.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain, PEM; read again when it changes")
    command.add_argument("--tls-key", type=Path, metavar="FILE", help="its key, PEM")
    command.add_argument("--no-request-log", action="store_true", help="log no answers, whatever the pipeline says")
    command.add_argument("--log-format", choices=("text", "json"), default="text", help="of the lines that it says")


def _add_bounds(command: argparse.ArgumentParser, bounds: Sequence[Bound]) -> None:
    for bound in bounds:
        help_text = f"{bound.what} (default {bound.default:g})"
        kind = type(bound.default)
        command.add_argument(bound.option, type=kind, default=bound.default, metavar=bound.unit, help=help_text)


def require_bounds(args: argparse.Namespace) -> None:
    """Refuse what no server can keep. Raises: SpecError."""
    for bound in (*BASICS, *BOUNDS):
        bound.require(getattr(args, bound.name))
    if args.version is not None and args.version < 1:
        msg = f"serve: --version must be at least 1, got {args.version}"
        raise SpecError(msg)
    if args.max_bodies < args.max_body:
        msg = f"serve: --max-bodies {args.max_bodies} must be at least --max-body {args.max_body}: it holds one request or more"
        raise SpecError(msg)
    if (args.tls_cert is None) != (args.tls_key is None):
        msg = "serve: --tls-cert and --tls-key go together"
        raise SpecError(msg)
