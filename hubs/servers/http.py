"""HTTP for uvicorn: one request at a time, and everything that is read bounded in size, number and time.

uvicorn hands every byte to its parser as it comes. The parser (httptools) keeps a request line and headers of any
length, and puts a name or value that comes in pieces together anew with each piece; uvicorn makes a request object for
each request that a client sends ahead; and nobody asks how long any of that takes. So here

    a head       is collected until it is complete, at most MAX_HEAD_BYTES of it, and then parsed in one piece;
    a request    that was sent ahead waits, unparsed, until the one before it has been answered. Reading is paused
                 meanwhile, so no more than one read of the socket waits;
    a body       is parsed up to its own end, so that what comes behind it is the next head. What chunked encoding
                 adds to it is bounded in relation to the body, and so are the chunks of one turn of the loop: one
                 read may hold tens of thousands, and others would wait;
    an answer    may be given before the body has been read, and often is: tokens are in the head. The rest of the
                 body is thrown away then, so that the client can read the answer: who closes a socket with bytes
                 unread resets the connection, and the answer may be lost with it.

Time is measured at one look per second at each connection, all of them on one wheel (keep_alive.py). A client has
HEAD_SECS for a head, a minimum rate for a body and for taking an answer, and a pause between two requests
of HTTP_KEEP_ALIVE_SECS. When the server stops, a client that does nothing for its request is not waited for.

Heads are also brought to the form that the rest of the service expects: an absolute target becomes a path and a Host
header (RFC 9112, 3.2.2), several Connection headers are one list. And an offer to go on in another protocol than
WebSocket is passed over. Java's HTTP client makes one (HTTP/2, as `Upgrade: h2c`) with every request on a plain
connection, POSTs with a body among them. httptools ends such a request after its headers: uvicorn 0.54 then hands it on
with an empty body, and an empty message would be published. So the head is parsed a second time, without its offer.
"""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from hubs.servers import endings
from hubs.servers.direct import REST_SECS
from hubs.servers.keep_alive import Wheel

# The longest token that is looked at (rules/tokens.py) fits into an address of a handshake. That of another request has
# at most as many bytes as httptools can take apart.
MAX_REQUEST_LINE = 128 * 1024
MAX_TARGET_BYTES = (1 << 16) - 2
# Request line and headers together.
MAX_HEAD_BYTES = 256 * 1024
MAX_HEADERS = 200
# Some clients send an empty line behind a body. So many bytes of empty lines may come in front of a head.
MAX_EMPTY_BYTES = 4
# What chunked encoding may add to a body, trailers and extensions included: so much, and so many bytes per byte of
# the body; and so much in one piece. A chunk of one byte takes six.
MAX_CHUNK_BYTES = 16 * 1024
MAX_CHUNK_FACTOR = 16
# A chunked body is parsed so many bytes at a time; after so many chunks the others have a turn (direct.py has why).
PARSED_BYTES = 4 * 1024
CHUNKS_PER_TURN = 512

# How long a client may take until its connection's first request, or one that has begun, has all its headers.
HEAD_SECS = 10.0
# Bodies and answers: how long they may take whatever their size, and how many bytes a second have to move after that.
GRACE_SECS = 10.0
MIN_BYTES_PER_SEC = 1024
# Bodies, besides: so long, and as long as they would take at that rate.
BODY_SECS = 30.0
BODY_BYTES_PER_SEC = 8 * 1024

# What is thrown away of a body that nobody wants, so that its sender can read why, and for how long.
MAX_UNWANTED_BYTES = 16 * 1024 * 1024
UNWANTED_SECS = 10.0
# The same after a request that cannot be read.
MAX_REFUSED_BYTES = 256 * 1024
REFUSED_SECS = 1.0

# How often a connection is looked at.
LOOK_SECS = 1.0

_TOO_LARGE = (
    f"The head of this request is too large. It may have {MAX_HEADERS} headers, {MAX_HEAD_BYTES} bytes with its "
    f"request line, and a target of {MAX_TARGET_BYTES} bytes ({MAX_REQUEST_LINE} in a WebSocket handshake)."
)

_CHECKED = frozenset([b"host", b"content-length", b"transfer-encoding"])
_END = b"\r\n\r\n"
_LINE_ENDS = b"\r\n"
_A, _Z = b"AZ"
_OFFER = (b"upgrade", b"http2-settings")
_ABSOLUTE = re.compile(rb"(?i:https?|wss?)://([^/?#@]+)((?:[/?].*)?)", re.DOTALL)


class HttpConfig(Config):
    """The settings of one server, and what its connections share."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.wheel = Wheel(LOOK_SECS)


class Refused(Exception):
    """A request that is not read any further; the text says why. `lines`: more of the answer's head."""

    def __init__(self, status: HTTPStatus, text: str, *lines: bytes) -> None:
        super().__init__(text)
        self.status = status
        self.lines = lines


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol within the bounds above. Its configuration is an HttpConfig."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._wheel = cast(HttpConfig, self.config).wheel
        self._slot: int | None = None
        # A head of which there is not everything yet; how many bytes of empty lines came in front of it; why one is
        # refused that has been parsed.
        self._head = bytearray()
        self._empty = 0
        self._why: Refused | None = None
        # A body of which there is not everything yet: how many bytes are to come, None where it is chunked; how many
        # came, without the encoding and with it, and how many with it since the body's last; the last bytes, if it
        # is chunked.
        self._in_body = False
        self._left: int | None = 0
        self._received = self._raw = self._raw_since = 0
        self._tail = b""
        # How many chunks were parsed in this turn of the loop.
        self._chunks = 0
        # Whether the connection goes on after this request, provided that all of its body has been read.
        self._goes_on = True
        # What came behind a request that has not been answered.
        self._ahead = b""
        # When the body began; until when the next head has to be there; when the last look was.
        self._began = self._deadline = self._looked = 0.0
        # When the client was first seen not to have taken an answer, and how much it had taken by then.
        self._not_taken: tuple[float, int] | None = None
        # Once nothing is read any more: until when, and how many bytes, are thrown away.
        self._parting_until: float | None = None
        self._unwanted = 0
        # Once the server stops: what had come and what was in the buffer at the last look.
        self._stopping = False
        self._before: tuple[int, int] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A client has come, who will want something."""
        super().connection_made(transport)
        self.flow = self._flow = _Flow(transport)
        self._answers = _Answers(self, transport)
        self._looked = self.loop.time()
        self._deadline = self._looked + HEAD_SECS
        self._slot = self._wheel.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._leave_wheel()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """The client has shut its side. It gets the answer to a request that is complete."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or self._in_body or self._parting_until is not None:
            return False
        cycle.keep_alive = False
        return True

    # What comes in

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self._parting_until is not None:
            self._unwanted -= len(data)
            if self._unwanted < 0:
                self.transport.abort()
        elif self._ahead:
            # Reading is paused; this was on its way.
            self._ahead += data
        else:
            self._read(data)

    def _read(self, data: bytes) -> None:
        at = self._chunks = 0
        try:
            while at < len(data) and self._parting_until is None and not self.transport.is_closing():
                if self._in_body and self._chunks > CHUNKS_PER_TURN:
                    self._ahead = data[at:]
                    self._flow.hold()
                    self.loop.call_later(REST_SECS, self._read_ahead)
                    return
                if self._in_body:
                    at = self._read_body(data, at)
                elif self.cycle is not None and not self.cycle.response_complete:
                    self._ahead = data[at:]
                    self._flow.hold()
                    return
                else:
                    at = self._read_head(data, at)
        except Refused as refused:
            self._refuse(refused)
        except httptools.HttpParserError:
            # What is raised in a callback is an error of the parser's here.
            self._refuse(self._why or _not_http())

    def _read_head(self, data: bytes, at: int) -> int:
        """Read a head from `at` on, or keep what there is of it; gives how far it was read."""
        if not self._head:
            if data[at] in _LINE_ENDS:
                at = self._pass_over_empty(data, at)
            end = data.find(_END, at) + len(_END)
            if end < len(_END):
                return self._begin_head(data[at:], len(data))
            head = data if end - at == len(data) else data[at:end]
        else:
            before = len(self._head)
            self._head += data
            end = self._head.find(_END, max(0, before - len(_END) + 1)) + len(_END)
            if end < len(_END):
                self._check_size(self._head)
                return len(data)
            head = bytes(self._head[:end])
            end -= before
            self._head.clear()
        if len(head) > MAX_HEAD_BYTES or head.count(b"\n") > MAX_HEADERS + 2:
            raise _too_large()
        if self._parse_head(head):
            self._hand_over(data[end:])
            return len(data)
        return end

    def _pass_over_empty(self, data: bytes, at: int) -> int:
        begin = data[at : at + MAX_EMPTY_BYTES + 1]
        empty = len(begin) - len(begin.lstrip(_LINE_ENDS))
        self._empty += empty
        if self._empty > MAX_EMPTY_BYTES:
            raise _not_http()
        return at + empty

    def _begin_head(self, data: bytes, end: int) -> int:
        if data:
            if not _A <= data[0] <= _Z:
                # No method begins like that. It may be TLS, whose client would wait for an answer.
                raise _not_http()
            self._head += data
            self._check_size(data)
            self._deadline = min(self._deadline, self.loop.time() + HEAD_SECS)
        return end

    @staticmethod
    def _check_size(head: bytes | bytearray) -> None:
        if len(head) > MAX_HEAD_BYTES or (len(head) > MAX_REQUEST_LINE and head.find(b"\n", 0, MAX_REQUEST_LINE) < 0):
            raise _too_large()

    def _parse_head(self, head: bytes) -> bool:
        """Parse a complete head. Tells whether the connection is a WebSocket from now on."""
        self._why = None
        self._empty = 0
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            if not self._passes_over_offer():
                return True
            again = self._without_offer()
            self.parser = httptools.HttpRequestParser(self)
            self.parser.feed_data(again)
        return False

    def _read_body(self, data: bytes, at: int) -> int:
        """Read a body from `at` on, and nothing that comes behind it; gives how far it was read."""
        left = self._left
        end = self._end_of_chunks(data, at) if left is None else min(len(data), at + left)
        self._raw_since += end - at
        self.parser.feed_data(data if end - at == len(data) else memoryview(data)[at:end])
        if left is None:
            self._raw += end - at
            most = MAX_CHUNK_BYTES + MAX_CHUNK_FACTOR * self._received
            # The parser keeps trailers, and puts one that comes in pieces together anew with each.
            if self._raw > most or self._raw_since > MAX_CHUNK_BYTES:
                raise Refused(HTTPStatus.BAD_REQUEST, "The chunked encoding of this request has too much overhead.")
        else:
            self._left = left - (end - at)
        return end

    def _end_of_chunks(self, data: bytes, at: int) -> int:
        """How far to parse: to where the body may end, behind the next empty line, which may have begun before."""
        limit = min(len(data), at + PARSED_BYTES)
        overlap = self._tail + data[at : at + len(_END) - 1]
        found = overlap.find(_END)
        if found >= 0:
            end = at + found + len(_END) - len(self._tail)
        else:
            found = data.find(_END, at, limit)
            end = limit if found < 0 else found + len(_END)
        self._tail = (self._tail + data[max(at, end - len(_END) + 1) : end])[-len(_END) + 1 :]
        return end

    # What the parser says

    def on_headers_complete(self) -> None:
        """Begin to answer, unless the head is going to be parsed again."""
        upgrades = self.parser.should_upgrade()
        if upgrades and self._passes_over_offer():
            return
        length = self._checked_length(upgrades)
        super().on_headers_complete()
        if upgrades:
            return
        # What comes behind a chunked body is nobody's business; the application has the other list.
        self.headers = []
        self._in_body, self._left = True, length
        self._received = self._raw = self._raw_since = 0
        self._tail = b""
        self._began = self.loop.time()
        cycle = self.cycle
        cycle.transport = cast(asyncio.Transport, self._answers)
        self._goes_on = cycle.keep_alive
        if self.expect_100_continue or length is None or length > MAX_REFUSED_BYTES:
            # Who is answered before that is read does not go on with another request.
            cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body."""
        self._received += len(body)
        self._raw_since = 0
        self._chunks += 1
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is there, unless there is none because the head is going to be parsed again."""
        if not self._in_body:
            return
        self._in_body = False
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._goes_on
        elif self.cycle.response_complete:
            self._deadline = self.loop.time() + self.timeout_keep_alive
        super().on_message_complete()

    def _because(self, status: HTTPStatus, text: str) -> Refused:
        """What to raise in a callback of the parser, which makes an error of its own of it."""
        self._why = Refused(status, text)
        return self._why

    def _checked_length(self, upgrades: bool) -> int | None:
        """Check what the head says of the request, and give the length of its body; None where it is chunked."""
        length, codings, hosts = 0, [], 0
        for name, value in self.headers:
            if name in _CHECKED:
                if name == b"host":
                    hosts += 1
                elif name == b"content-length":
                    # The parser has seen to it that there is one, of digits, and no chunks besides.
                    length = int(value)
                else:
                    codings.append(value.strip().lower())
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise self._because(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "Use HTTP/1.1.")
        if hosts != 1 and (hosts or version == "1.1"):
            raise self._because(HTTPStatus.BAD_REQUEST, "The request has to have one Host header.")
        if codings and version == "1.0":
            raise self._because(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no Transfer-Encoding.")
        if codings and codings != [b"chunked"]:
            raise self._because(HTTPStatus.NOT_IMPLEMENTED, "The only Transfer-Encoding that is supported is chunked.")
        if upgrades and version != "1.1":
            raise self._because(HTTPStatus.BAD_REQUEST, "A WebSocket handshake needs HTTP/1.1.")
        if upgrades and not self._should_upgrade():
            # For the parser nothing that follows CONNECT is HTTP, whatever its target is.
            raise self._because(HTTPStatus.BAD_REQUEST, "This service is not a proxy and does not support CONNECT.")
        if upgrades and (length or codings):
            raise self._because(HTTPStatus.BAD_REQUEST, "A WebSocket handshake has no body.")
        if len(self.url) > (MAX_REQUEST_LINE if upgrades else MAX_TARGET_BYTES):
            raise self._because(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)
        if not self.url.startswith(b"/"):
            self._bring_to_origin_form()
        return None if codings else length

    def _bring_to_origin_form(self) -> None:
        """Take the host out of an absolute target. It replaces what the Host header says."""
        absolute = _ABSOLUTE.fullmatch(self.url)
        if absolute is None:
            raise self._because(
                HTTPStatus.BAD_REQUEST, "The target of the request has to be a path or an absolute URL."
            )
        host, target = absolute.groups()
        self.url = target if target.startswith(b"/") else b"/" + target
        self.headers[:] = [(b"host", host), *(header for header in self.headers if header[0] != b"host")]

    # Other protocols

    def _get_upgrade(self) -> bytes | None:
        """The protocol that the client offers to go on in. Proxies add Connection headers of their own."""
        connection = [value for name, value in self.headers if name == b"connection"]
        if b"upgrade" not in [token.strip().lower() for token in b",".join(connection).split(b",")]:
            return None
        return next((value.lower() for name, value in self.headers if name == b"upgrade"), None)

    def _passes_over_offer(self) -> bool:
        """Tell whether the offer of the request whose headers have been read is not taken up."""
        return self._get_upgrade() is not None and not self._should_upgrade()

    def _without_offer(self) -> bytes:
        """The head that has just been parsed, as if it made no offer."""
        version = self.parser.get_http_version().encode()
        head = self.parser.get_method() + b" " + self.url + b" HTTP/" + version + b"\r\n"
        for name, value in self.headers:
            if name == b"connection":
                kept = [token for token in value.split(b",") if token.strip().lower() not in _OFFER]
                value = b",".join(kept)
            if name not in _OFFER and value:
                head += name + b": " + value + b"\r\n"
        return head + b"\r\n"

    def _hand_over(self, early: bytes) -> None:
        """The connection is a WebSocket from now on; `early` is what its client sent behind the handshake."""
        self._leave_wheel()
        self._flow.release()
        self.handle_websocket_upgrade()
        if early and not self.transport.is_closing():
            cast(asyncio.Protocol, self.transport.get_protocol()).data_received(early)

    # How it ends

    def on_response_complete(self) -> None:
        """A request has been answered: read on."""
        self.server_state.total_requests += 1
        if self._parting_until is not None or self.transport.is_closing():
            return
        self._deadline = self.loop.time() + self.timeout_keep_alive
        if self._ahead:
            # Not here, where the application is still sending.
            self.loop.call_soon(self._read_ahead)
        else:
            self._flow.resume_reading()

    def _read_ahead(self) -> None:
        ahead, self._ahead = self._ahead, b""
        if not self.transport.is_closing():
            self._flow.release()
            self._read(ahead)

    def end(self) -> None:
        """The last answer of this connection has been written."""
        if self._in_body:
            self._part(UNWANTED_SECS, MAX_UNWANTED_BYTES)
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """The server stops: finish what was asked for, but wait for no client that does nothing for it."""
        self._stopping, self._goes_on = True, False
        if self._parting_until is not None:
            self._parting_until = min(self._parting_until, self.loop.time() + endings.QUIET_SECS)
        else:
            super().shutdown()

    def refuse_if_idle(self, refused: Refused) -> bool:
        """Refuse a client whose first request is not there yet; tells whether that was so."""
        idle = self in self.connections and self.cycle is None and self._parting_until is None
        if idle:
            self._refuse(refused)
        return idle

    def beat(self, payload: bytes) -> None:
        """See whether the client does its part in time. Called about every LOOK_SECS; `payload` is for WebSockets."""
        now = self.loop.time()
        since, self._looked = now - self._looked, now
        if self._parting_until is not None:
            if now > self._parting_until:
                self.transport.abort()
        elif self._takes_too_long(now) or (self._stopping and self._does_nothing()):
            self.transport.abort()
        elif self._in_body:
            if self._waits_for_us():
                self._began += since
            elif _too_slow(now - self._began, self._received) or self._too_long(now):
                self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, "The body of the request came too slowly."))
        elif now > self._deadline and (self.cycle is None or self.cycle.response_complete) and not self._ahead:
            if self._head:
                self._refuse(Refused(HTTPStatus.REQUEST_TIMEOUT, "The headers of the request came too slowly."))
            else:
                self.transport.close()

    def _waits_for_us(self) -> bool:
        """Whether the client could not send more of its body, because the application has not taken what there is."""
        cycle = self.cycle
        return not cycle.response_complete and (self._flow.read_paused or cycle.waiting_for_100_continue)

    def _too_long(self, now: float) -> bool:
        return now - self._began > BODY_SECS + self._received / BODY_BYTES_PER_SEC

    def _takes_too_long(self, now: float) -> bool:
        """Whether the client does not take what was written for it."""
        left = self.transport.get_write_buffer_size()
        if not left:
            self._not_taken = None
            return False
        taken = self._answers.written - left
        if self._not_taken is None:
            self._not_taken = now, taken
        began, before = self._not_taken
        return _too_slow(now - began, taken - before)

    def _does_nothing(self) -> bool:
        """Whether it is the client's turn, and nothing has come or gone since the last look."""
        state = self._received, self.transport.get_write_buffer_size()
        before, self._before = self._before, state
        unread = self.transport.is_closing() or self._flow.write_paused
        return (unread or (self._in_body and not self._waits_for_us())) and state == before

    def _refuse(self, refused: Refused) -> None:
        """Say why the request is not read any further, unless it has been answered already, and hang up."""
        cycle = self.cycle
        if not self._in_body or not cycle.response_started:
            text = str(refused).encode() + b"\n"
            lines = [name + b": " + value for name, value in self.server_state.default_headers]
            lines += [b"content-type: text/plain; charset=utf-8", b"content-length: %d" % len(text), *refused.lines]
            head = STATUS_LINE[refused.status] + b"\r\n".join([*lines, b"connection: close", b"", text])
            self._answers.write(head)
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            # The application may not have asked for the body yet, and then would still have one sent.
            cycle.waiting_for_100_continue = False
            cycle.message_event.set()
        self._part(REFUSED_SECS, MAX_REFUSED_BYTES)

    def _part(self, secs: float, unwanted: int) -> None:
        """Say that nothing more comes from here, and hear the client out, within these bounds."""
        self._parting_until = self.loop.time() + secs
        self._unwanted = unwanted
        self._head.clear()
        self._flow.release()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _leave_wheel(self) -> None:
        if self._slot is not None:
            self._wheel.remove(self, self._slot)
            self._slot = None


class _Flow(FlowControl):
    """Reading can be held: the application cannot resume it then, as it does when it listens for a disconnect."""

    _held = False

    def hold(self) -> None:
        """Read nothing more."""
        self._held = True
        self.pause_reading()

    def release(self) -> None:
        """Read on."""
        self._held = False
        self.resume_reading()

    def resume_reading(self) -> None:
        """Read on, unless it is held."""
        if not self._held:
            super().resume_reading()


class _Answers:
    """What answers are written to: the transport, which is closed as the protocol sees fit."""

    __slots__ = ("_write", "close", "is_closing", "written")

    def __init__(self, protocol: HttpProtocol, transport: asyncio.Transport) -> None:
        self._write = transport.write
        self.close = protocol.end
        self.is_closing = transport.is_closing
        self.written = 0

    def write(self, data: bytes) -> None:
        """Write to the client."""
        self.written += len(data)
        self._write(data)


def _too_slow(secs: float, moved: int) -> bool:
    return secs > GRACE_SECS and moved < (secs - GRACE_SECS) * MIN_BYTES_PER_SEC


def _too_large() -> Refused:
    return Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _TOO_LARGE)


def _not_http() -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, "This is not a valid HTTP request.")
