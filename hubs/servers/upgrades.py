"""Requests that offer to go on in another protocol than WebSocket, for uvicorn.

A server may pass over such an offer and answer in HTTP/1.1. Java's HTTP client makes one (HTTP/2, as
`Upgrade: h2c`) with every request on a plain connection, POSTs with a body among them. httptools,
which reads HTTP for uvicorn, ends such a request after its headers: uvicorn 0.54 then hands it on
with an empty body, and an empty message would be published. So the request is read a second time, without its offer.
"""

from __future__ import annotations

from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_OFFER = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol, which reads a request to its end although it offers an upgrade nobody takes up."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser = _Parser(self)

    def passes_over_offer(self) -> bool:
        """Tell whether the request whose headers have been read makes an offer that is not taken up."""
        return self.parser.should_upgrade() and self._get_upgrade() is not None and not self._should_upgrade()

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the request is going to be read again."""
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
