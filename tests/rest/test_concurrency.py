"""Requests that Django works on at once: so many, and nobody holds a turn by being slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hubs.rest import concurrency
from hubs.rest.concurrency import BoundedRequests


class Behind:
    """An application that reads a body, then works until it is told to end, and answers."""

    def __init__(self, length: int | None = 2) -> None:
        self.at_work = self.most = 0
        self.end = asyncio.Event()
        self.headers = [] if length is None else [(b"Content-Length", str(length).encode())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        self.at_work += 1
        self.most = max(self.most, self.at_work)
        try:
            await self.end.wait()
            if scope["path"] == "/fault":
                raise ValueError
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            await send({"type": "http.response.body", "body": b"ok"})
        finally:
            self.at_work -= 1


async def status(application: BoundedRequests, path: str = "/", body: Any = None, read: Any = None) -> Any:
    sent: list[Any] = []

    async def receive() -> Any:
        if body is not None:
            await body.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if read is not None:
            await read.wait()
        sent.append(message)

    await application({"type": "http", "path": path}, receive, send)
    assert len(sent) == 2
    return sent[0]["status"], dict(sent[0]["headers"])


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_others_wait_for_their_turn(configure: Any) -> None:
    configure(MAX_CONCURRENT_REQUESTS=2)
    behind = Behind()
    application = BoundedRequests(behind)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(status(application)) for _ in range(20)]
        await settled()
        assert behind.at_work == 2
        behind.end.set()
    assert [task.result()[0] for task in tasks] == [200] * 20
    assert behind.most == 2


async def test_who_waits_too_long_is_refused(
    configure: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(concurrency, "WAIT_SECS", 0.05)
    configure(MAX_CONCURRENT_REQUESTS=1)
    behind = Behind()
    application = BoundedRequests(behind)
    first = asyncio.create_task(status(application))
    await settled()
    found, headers = await status(application)
    assert (found, headers[b"retry-after"]) == (503, b"5")
    assert "A request was refused: 1 others" in caplog.text
    behind.end.set()
    assert (await first)[0] == 200
    # A fault gives its turn back, too.
    for _ in range(3):
        with pytest.raises(ValueError):
            await status(application, "/fault")
    assert (await status(application))[0] == 200


async def test_who_is_slow_holds_no_turn(configure: Any) -> None:
    configure(MAX_CONCURRENT_REQUESTS=1)
    behind, never = Behind(), asyncio.Event()
    behind.end.set()
    application = BoundedRequests(behind)
    slow = [asyncio.create_task(status(application, body=never)), asyncio.create_task(status(application, read=never))]
    await settled()
    assert (await status(application))[0] == 200
    never.set()
    assert [found for found, _ in await asyncio.gather(*slow)] == [200, 200]


@pytest.mark.parametrize("length", [None, concurrency.MAX_HELD_BYTES + 1])
async def test_streams_and_long_answers_are_not_held(length: int | None) -> None:
    behind, read = Behind(length), asyncio.Event()
    behind.end.set()
    answered = asyncio.create_task(status(BoundedRequests(behind), read=read))
    await settled()
    assert behind.at_work == 1
    read.set()
    assert (await answered)[0] == 200
