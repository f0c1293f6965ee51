"""A running service with a proxy before it, for clients whose line is to break."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from azure.messaging.webpubsubservice import WebPubSubServiceClient

from tests.proxy import CuttingProxy
from tests.tutorials.driven import eventually

# The hub whose event handlers tests/service/handlers has.
HUB = "handled"


@dataclass(frozen=True)
class Stage:
    """The service as its owner has it, and the line on which clients reach it."""

    service: WebPubSubServiceClient
    port: int
    line: CuttingProxy

    def url(self, user_id: str, *roles: str) -> str:
        """A client URL of the official Python SDK, led over the line."""
        url = str(self.service.get_client_access_token(user_id=user_id, roles=list(roles))["url"])
        return urlunsplit(urlsplit(url)._replace(netloc=f"127.0.0.1:{self.line.port}"))

    def cut(self) -> None:
        """Break the line, and let nobody through until it is mended."""
        self.line.refuse()
        assert self.line.abort() == 1

    def mend(self) -> None:
        """Let clients through again."""
        self.line.accept()

    def publish(self, group: str, *texts: str) -> None:
        """Send texts to a group over REST."""
        for text in texts:
            self.service.send_to_group(group, text, content_type="text/plain")

    def knows(self, connection_id: str) -> bool:
        """Whether the service has this connection."""
        return bool(self.service.connection_exists(connection_id))

    def forgets(self, connection_id: str) -> None:
        """Wait until the service has this connection no more."""
        eventually(lambda: not self.knows(connection_id), "the service still has the connection")

    def gathers(self, group: str, connection_id: str) -> None:
        """Wait until this connection, and nobody else, is in a group."""
        eventually(
            lambda: [member.connection_id for member in self.service.list_connections(group=group)] == [connection_id],
            "the connection is not in its group, or not alone",
        )


@contextmanager
def staged(connection_string: str) -> Iterator[Stage]:
    """A stage before the service with this connection string."""
    with WebPubSubServiceClient.from_connection_string(connection_string, hub=HUB) as service:
        port = urlsplit(connection_string.partition("Endpoint=")[2].partition(";")[0]).port
        assert port
        with CuttingProxy(port) as line:
            yield Stage(service, port, line)
