"""The load generator counts right, whatever pieces the stream comes in."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode

from bench.wire import CLOSE, PING, TEXT, FrameCounter, Handshake, Unexpected, client_frame

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000]


def _server_frame(opcode: Opcode, payload: bytes) -> bytes:
    """A frame as the server's own library writes it."""
    return Frame(opcode, payload).serialize(mask=False)


STREAM = b"".join(
    [
        *(_server_frame(Opcode.TEXT, b"x" * size) for size in SIZES),
        _server_frame(Opcode.PING, b"ping"),
        _server_frame(Opcode.BINARY, b"\x00\xff"),
        _server_frame(Opcode.CLOSE, b"\x03\xe8"),
    ]
)


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 4096, len(STREAM)])
def test_frames_are_counted_in_pieces_of_any_size(piece: int) -> None:
    counter = FrameCounter()
    counted = sum(counter.feed(STREAM[at : at + piece]) for at in range(0, len(STREAM), piece))
    assert counted == len(SIZES) + 1
    assert [len(message) for message in counter.messages] == [*SIZES, 2]
    assert counter.control == [(PING, b"ping"), (CLOSE, b"\x03\xe8")]


def test_a_tail_waits_for_its_rest() -> None:
    counter = FrameCounter()
    assert counter.feed(STREAM[:-3]) == len(SIZES) + 1
    assert counter.control == [(PING, b"ping")]
    assert counter.feed(STREAM[-3:]) == 0
    assert counter.control[-1] == (CLOSE, b"\x03\xe8")


@pytest.mark.parametrize("frame", [b"\x01\x00", b"\x80\x00", b"\x83\x00", b"\xc1\x00", b"\x81\x80\0\0\0\0"])
def test_what_no_server_here_should_say_is_an_error(frame: bytes) -> None:
    with pytest.raises(Unexpected):
        FrameCounter().feed(frame + b"\0" * 200)


@pytest.mark.parametrize("size", SIZES)
def test_our_frames_are_read_by_the_servers_library(size: int) -> None:
    from websockets.protocol import State
    from websockets.server import ServerProtocol

    server = ServerProtocol(max_size=None)
    server.state = State.OPEN
    server.parser = super(ServerProtocol, server).parse()
    next(server.parser)
    server.receive_data(client_frame(TEXT, b"y" * size))
    [frame] = server.events_received()
    assert isinstance(frame, Frame)
    assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, b"y" * size)


def test_a_refused_handshake_says_what_the_server_said() -> None:
    handshake = Handshake("/client/hubs/chat", "localhost", None)
    with pytest.raises(Unexpected, match="401"):
        handshake.feed(b"HTTP/1.1 401 Unauthorized\r\n\r\nno token")
