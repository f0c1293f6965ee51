"""daphne, taught the parts of ASGI's WebSocket messages that it leaves out.

daphne 4.2.3 answers every refused handshake with 403, drops the reason of a close frame and the
headers of an acceptance, and does not send empty messages. The wire protocol needs all four. Its
WebSocket protocol class has one method that carries out what the application says, `handle_reply`;
the subclass below says the missing parts there and leaves the rest to daphne.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from autobahn.exception import Disconnected
from autobahn.twisted.websocket import ConnectionDeny
from daphne.server import Server
from daphne.ws_protocol import WebSocketProtocol
from twisted.web.http import HTTPChannel

# Twisted's own bound, 16 KiB, is less than a token with many roles and groups takes in an address.
MAX_REQUEST_LINE = 128 * 1024
HTTPChannel.totalHeadersSize = MAX_REQUEST_LINE
# Past the first bound Twisted answers 400; past this one, within a single line, it only hangs up.
HTTPChannel.MAX_LENGTH = 2 * MAX_REQUEST_LINE

REFUSAL_EXTENSION = "websocket.http.response"


class FullWebSocketProtocol(WebSocketProtocol):
    """daphne's WebSocket protocol with refusal statuses, close reasons, headers and empty messages."""

    # Start and body of the response that refuses the handshake, once the application began one.
    _refusal: dict[str, Any] | None = None
    _refusal_body = b""

    def handle_reply(self, message: dict[str, Any]) -> None:
        """Carry out one ASGI message of the application."""
        kind = message.get("type")
        if kind == "websocket.http.response.start" and self.state == self.STATE_CONNECTING:
            self._refusal = message
        elif kind == "websocket.http.response.body" and self._refusal is not None:
            self._refusal_body += message.get("body", b"")
            if not message.get("more_body", False):
                self._refuse(self._refusal["status"])
        elif kind == "websocket.accept":
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in message.get("headers", ())}
            self.handshake_deferred.callback((message.get("subprotocol"), headers))
            del self.handshake_deferred
        elif kind == "websocket.close" and self.state == self.STATE_OPEN:
            # Not sendClose: it only lets through the codes that RFC 6455 leaves to applications, and
            # towards the client this service is the endpoint that may say 1003, 1007, 1008, 1009 and 1011.
            code = message.get("code")
            self.sendCloseFrame(1000 if code is None else code, (message.get("reason") or "").encode())
        elif kind == "websocket.send" and self.state == self.STATE_OPEN:
            text = message.get("text")
            try:
                self.sendMessage(message["bytes"] if text is None else text.encode(), isBinary=text is None)
            except Disconnected as gone:
                # What ASGI asks servers to raise towards an application that writes to a closed socket.
                raise OSError("the client has disconnected") from gone
        elif kind == "websocket.send":
            # Closing or closed: nothing reaches the client any more.
            return
        else:
            super().handle_reply(message)

    def _refuse(self, status: int) -> None:
        self.handshake_deferred.errback(ConnectionDeny(status, HTTPStatus(status).phrase))
        del self.handshake_deferred
        self.server.protocol_disconnected(self)

    def sendHttpErrorResponse(  # noqa: N802 (autobahn's name)
        self,
        code: int,
        reason: str,
        responseHeaders: Any = None,  # noqa: N803
    ) -> None:
        """Write the refusal as the application worded it; autobahn's own has no body."""
        if self._refusal is None:
            super().sendHttpErrorResponse(code, reason, responseHeaders)
            return
        lines = [f"HTTP/1.1 {code} {reason}".encode("latin-1")]
        lines += [name + b": " + value for name, value in self._refusal.get("headers", ())]
        self.sendData(b"\r\n".join([*lines, b"Connection: close", b"", self._refusal_body]))


class FullServer(Server):
    """daphne's server with the protocol above."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # daphne makes its WebSocket factory in run() and calls this right after, before it listens.
        kwargs["ready_callable"] = self._use_full_protocol
        super().__init__(*args, **kwargs)

    def _use_full_protocol(self) -> None:
        self.ws_factory.protocol = FullWebSocketProtocol
        # A client that breaks the protocol is told so in a close frame, not only cut off.
        self.ws_factory.setProtocolOptions(failByDrop=False)

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Any:
        """Tell WebSocket applications that they may refuse with any status."""
        if scope["type"] == "websocket":
            scope.setdefault("extensions", {})[REFUSAL_EXTENSION] = {}
            scope.setdefault("scheme", "wss" if protocol.transport.__class__.__name__.startswith("TLS") else "ws")
        return super().create_application(protocol, scope)
