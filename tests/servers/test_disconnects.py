"""What an application hears of the end: once, after all messages, with the code and reason there really were."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.application import description
from tests.servers.conftest import OnEach
from tests.servers.raw import CLOSE, CONTINUATION, PING, TEXT, RawClient, frame
from tests.servers.running import Running

LOST = {"code": 1006, "reason": ""}

UNFINISHED = {
    "nothing": b"",
    "half a header": b"\x81",
    "half a frame": frame(TEXT, b"unfin", size=9),
    "half a message": frame(TEXT, b"un", final=False),
}


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1000, "bye"), (1001, "ü" * 61), (1011, ""), (1012, ""), (3000, "registered"), (4999, "")],
)
async def test_a_close_is_echoed_and_reported(running: Running, code: int, reason: str) -> None:
    async with running.client() as client:
        client.send(TEXT, b"before")
        assert await client.echo() == description("before")
        await client.close(code, reason)
        assert await running.heard(client) == [description("before"), {"code": code, "reason": reason}]


async def test_a_close_without_a_code(running: Running) -> None:
    async with running.client() as client:
        await client.close()
        assert await running.heard(client) == [{"code": 1005, "reason": ""}]


async def test_a_close_between_the_pieces_of_a_message(running: Running) -> None:
    async with running.client() as client:
        client.send(TEXT, b"unfin", final=False)
        await client.close(1000, "changed my mind")
        assert await running.heard(client) == [{"code": 1000, "reason": "changed my mind"}]


async def test_what_comes_after_a_close_is_not_heard(running: Running) -> None:
    async with running.client() as client:
        client.write(frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"late") + frame(CLOSE, b"\x0b\xb8") + frame(PING))
        assert await client.close_frame() == (1000, "")
        await client.hung_up()
        assert await running.heard(client) == [{"code": 1000, "reason": ""}]


def _ends(client: RawClient) -> None:
    client.writer.write_eof()


@pytest.mark.parametrize("leave", [_ends, RawClient.abandon, RawClient.reset], ids=["eof", "closed", "reset"])
@pytest.mark.parametrize("unfinished", UNFINISHED)
async def test_a_lost_connection(running: Running, leave: Callable[[RawClient], None], unfinished: str) -> None:
    async with running.client() as client:
        client.send(TEXT, b"before")
        assert await client.echo() == description("before")
        client.write(UNFINISHED[unfinished])
        await client.writer.drain()
        leave(client)
        assert await running.heard(client) == [description("before"), LOST]


async def test_a_connection_lost_while_much_is_written(running: Running) -> None:
    async with running.client() as client:
        client.order("flood", kind="text", size=1 << 20, count=64)
        await client.frame()
        client.reset()
        assert (await running.heard(client))[-1:] == [LOST]


async def test_a_connection_lost_before_the_handshake_is_answered(running: Running) -> None:
    async with running.client(query="unanswered") as client:
        await running.ask(client.name, "begun")
        client.writer.write_eof()
        assert await running.heard(client) == [LOST]


@pytest.mark.parametrize("answer", [(1008, "out"), (None, ""), (4000, "me too"), "gone", "reset"])
async def test_the_application_closes(running: Running, answer: object) -> None:
    async with running.client() as client:
        client.order("close", code=1008, reason="out")
        assert await client.close_frame() == (1008, "out")
        client.send(TEXT, b"late")
        if answer == "gone":
            client.abandon()
        elif answer == "reset":
            client.reset()
        else:
            client.send_close(*answer)  # type: ignore[misc]
            await client.cut_off()
        assert await running.heard(client) == [{"code": 1008, "reason": "out"}]


async def test_both_close_at_once(running: Running) -> None:
    async with running.client() as client:
        client.write(frame(TEXT, b'{"do":"close","code":1008,"reason":"out"}') + frame(CLOSE, b"\x03\xe8mine"))
        # Whichever the server had in hand first.
        seen = await client.close_frame()
        assert seen in ((1008, "out"), (1000, "mine"))
        await client.cut_off()
        assert await running.heard(client) == [{"code": seen[0], "reason": seen[1]}]


async def test_an_application_that_fails_closes_with_1011(running: Running) -> None:
    async with running.client() as client:
        client.order("fail")
        assert await client.close_frame() == (1011, "Internal server error")
        client.send_close(1011)
        await client.cut_off()


async def test_an_application_that_just_ends_leaves_no_socket_behind(on_each: OnEach) -> None:
    async def story(running: Running) -> None:
        async with running.client() as client:
            await running.ask(client.name, "release")
            # uvicorn's socket outlives its application's coroutine, and is closed then: two bytes and a code.
            assert await client.cut_off() == (0 if running.server == "daphne" else 4)

    await on_each(story, closing_secs=1)


async def test_messages_are_heard_before_the_end(running: Running) -> None:
    async with running.client() as client:
        texts = [f"message {number}" for number in range(50)]
        client.write(b"".join(frame(TEXT, text.encode()) for text in texts))
        client.write(frame(TEXT, b"in ", final=False) + frame(CONTINUATION, b"pieces"))
        client.send_close(1000)
        # The close is answered at once; what the application still has to say to that comes too late.
        assert await client.close_frame(after=TEXT) == (1000, "")
        expected = [description(text) for text in [*texts, "in pieces"]]
        assert await running.heard(client) == [*expected, {"code": 1000, "reason": ""}]
