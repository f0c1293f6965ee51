"""The WebSocket door, where a real server would show too little: a handshake that is given up half-way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from hubs import operations
from hubs.connections.handshake import Admission
from hubs.consumers import _Conversation
from hubs.messaging.switchboard import switchboard
from hubs.protocols.plain import PlainCodec
from hubs.rules.roles import Permissions
from tests.running import PATIENCE


async def test_a_cancelled_beginning_leaves_nobody_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    attached = asyncio.Event()

    async def slow_join(connection: Any, group: str) -> None:
        attached.set()
        await asyncio.Event().wait()

    async def unused(*_: Any) -> Any:
        raise AssertionError("nothing is sent or received before the beginning is done")

    monkeypatch.setattr(operations, "join_group", slow_join)
    board = switchboard()
    admission = Admission("chat", PlainCodec(), None, None, Permissions(), ("room",), None, 0)
    conversation = _Conversation({}, unused, unused)
    running = asyncio.create_task(conversation.begin({"extensions": {}}, board.new_connection_id(), admission))
    try:
        await asyncio.wait_for(attached.wait(), PATIENCE)
        assert len(board) == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(board) == 0
    finally:
        await board.stop()
