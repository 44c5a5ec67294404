"""How a client reaches a Spark Connect server with a token: with TLS or, where nobody else listens, without.

A server of Spark 4.3 speaks no TLS itself; a proxy before it may. PySpark insists on TLS for a token to any host but
`localhost`. Here `;use_ssl=true` or `;use_ssl=false` in the URL decides; without it a token goes unencrypted to loopback
and to a name without a dot (a container's or service's in its private network, which no public DNS resolves), and by TLS
to every other host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyspark.sql.connect.client.core import DefaultChannelBuilder

from mlops_tasks.adapters.spark_server import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterable


class Channel(DefaultChannelBuilder):  # type: ignore[misc]  # pyspark is not type-checked
    """The channel of an `sc://` URL; the token is the URL's, else SPARK_CONNECT_AUTHENTICATE_TOKEN."""

    def __init__(self, url: str) -> None:
        """Take the URL; the token is that of now, whatever becomes of the environment."""
        super().__init__(url)
        if self.token:
            self.set(self.PARAM_TOKEN, self.token)

    @property
    def plain(self) -> bool:
        """Whether a token travels unencrypted."""
        told = self.getDefault(self.PARAM_USE_SSL, "").lower()
        private = is_loopback(self.host) or not any(mark in self.host for mark in ".:")
        return bool(self.token) and (told == "false" or (told != "true" and private))

    def toChannel(self) -> Any:  # noqa: N802 - PySpark's name; a grpc.Channel
        """Open the channel."""
        return self._insecure_channel(self.endpoint) if self.plain else super().toChannel()

    def metadata(self) -> Iterable[tuple[str, str]]:
        """Return each call's headers; without TLS gRPC adds no credentials, so the token is one of them."""
        token = [("authorization", f"Bearer {self.token}")] if self.plain else []
        return [*super().metadata(), *token]
