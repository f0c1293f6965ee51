"""HTTP for uvicorn: requests that offer to go on in another protocol than WebSocket, and clients that do not go on.

A server may pass over such an offer and answer in HTTP/1.1. Java's HTTP client makes one (HTTP/2, as
`Upgrade: h2c`) with every request on a plain connection, POSTs with a body among them. httptools,
which reads HTTP for uvicorn, ends such a request after its headers: uvicorn 0.54 then hands it on
with an empty body, and an empty message would be published. So the request is read a second time, without its offer.

uvicorn waits for a request for ever, too, as long as none has come on a connection or one has begun. Whoever opens
connections and says nothing would keep them all.

When the server stops, uvicorn waits for every request, and for every byte of a response to be taken, as long as its
own bound allows. A client that has left half a request behind, or does not read its answer, is not waited for here.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hubs.servers import endings

# How long a client may take until all headers of its request are there.
HEAD_SECS = 60.0

_OFFER = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which reads a request to its end although it offers an upgrade nobody takes up."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)
        # When the request began whose headers are not all there; and a look at that now and then, which costs less than
        # a timer for each request.
        self._head_began: float | None = None
        self._patience: asyncio.TimerHandle | None = None
        # Once the server stops: bytes of bodies that have come since, and when the client is looked at next.
        self._received = 0
        self._next_look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come, who will want something."""
        super().connection_made(transport)
        self._head_began = self.loop.time()
        self._be_patient(HEAD_SECS)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head_began = self._head_began or self.loop.time()
        super().on_message_begin()

    def handle_websocket_upgrade(self) -> None:
        """The connection is a WebSocket from now on."""
        self._lose_interest()
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        """The server stops: finish what was asked for, but wait for no client that does nothing for it."""
        super().shutdown()
        if self._next_look is None:
            self._look(None)

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body."""
        self._received += len(body)
        super().on_body(body)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lose_interest()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def _be_patient(self, secs: float) -> None:
        self._patience = self.loop.call_later(secs, self._look_at_head)

    def _lose_interest(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _look_at_head(self) -> None:
        waited = 0.0 if self._head_began is None else self.loop.time() - self._head_began
        if waited < HEAD_SECS:
            self._be_patient(HEAD_SECS - waited)
        else:
            self.transport.close()

    def _look(self, before: tuple[int, int] | None) -> None:
        """Hang up, if it is the client's turn and nothing has come or gone since `before`."""
        now = self._received, self.transport.get_write_buffer_size()
        unread = self.transport.is_closing() or self.flow.write_paused
        unsent = self.cycle is not None and self.cycle.more_body and not self.flow.read_paused
        if (unread or unsent) and now == before:
            self.transport.abort()
        else:
            self._next_look = self.loop.call_later(endings.QUIET_SECS, self._look, now)

    def passes_over_offer(self) -> bool:
        """Tell whether the request whose headers have been read makes an offer that is not taken up."""
        return self.parser.should_upgrade() and self._get_upgrade() is not None and not self._should_upgrade()

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the request is going to be read again."""
        self._head_began = None
        if not self.passes_over_offer():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is there, unless the request is going to be read again."""
        if not self.passes_over_offer():
            super().on_message_complete()

    def read_again(self, rest: bytes) -> None:
        """Read the request without its offer; `rest` is what came after its headers."""
        version = self.parser.get_http_version().encode()
        head = self.parser.get_method() + b" " + self.url + b" HTTP/" + version + b"\r\n"
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                value = b",".join(kept)
            if name not in _OFFER and value:
                head += name + b": " + value + b"\r\n"
        self.parser = _Parser(self)
        self.parser.feed_data(head + b"\r\n" + rest)


class _Parser(httptools.HttpRequestParser):
    """Tells its protocol of offers before uvicorn hears of them."""

    def __init__(self, protocol: HttpProtocol) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        # What uvicorn sets on its own parser.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    def feed_data(self, data: Any) -> None:
        """Read bytes from the client."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offered:
            if not self._protocol.passes_over_offer():
                raise
            self._protocol.read_again(data[offered.args[0] :])
