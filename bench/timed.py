"""Deliveries that are timed one by one, from when each message was due and not from when it was sent.

Messages are numbered; the number stands in the payload, between a character that no name has and the filling. So a
reader knows how late each one is, and whether it got the right ones.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Sequence

from bench.clients import Client
from bench.wire import TEXT, client_frame

# What the payload of a numbered message begins with.
MARK, DIGITS = b"#", 9
# What was sent has arrived, or nothing has for so long; in any case nobody waits longer than this.
NOTHING_SECS, DRAIN_SECS = 5.0, 60.0
# How often a sender looks for messages that are due.
LOOK_SECS = 0.001


class Reader:
    """One member that writes down how long each message took since it was due, and sums up which ones it got."""

    __slots__ = ("_arrived", "_due", "client", "group", "received", "total")

    def __init__(self, client: Client, group: int = 0) -> None:
        self.client = client
        self.group = group
        self.begin([], array("d"))
        client.heard = self._heard

    def begin(self, due: list[float], arrived: array[float]) -> None:
        """Forget what came; from now on append to `arrived`. `due` tells when each message should have been sent."""
        self._due, self._arrived = due, arrived
        self.received = self.total = 0

    def _heard(self, client: Client, messages: list[bytes]) -> None:
        now = time.perf_counter()
        for raw in messages:
            at = raw.find(MARK) + 1
            if at:
                number = int(raw[at : at + DIGITS])
                self._arrived.append(now - self._due[number])
                self.received += 1
                self.total += number


class Numbered:
    """Frames that send numbered messages of one size to one group."""

    def __init__(self, group: str, payload_bytes: int) -> None:
        head = {"type": "sendToGroup", "group": group, "dataType": "text", "data": ""}
        self._head = json.dumps(head, separators=(",", ":")).encode()[:-2] + MARK
        self._filling = b"x" * (payload_bytes - len(MARK) - DIGITS) + b'"}'

    def frame(self, number: int) -> bytes:
        """The frame with this number."""
        return client_frame(TEXT, b"%s%0*d%s" % (self._head, DIGITS, number, self._filling))


async def drained(arrived: Sequence[float], expected: int) -> None:
    """Wait until so much has arrived, or nothing has for a while."""
    deadline = time.monotonic() + DRAIN_SECS
    before, since = len(arrived), time.monotonic()
    while len(arrived) < expected and time.monotonic() < deadline and time.monotonic() - since < NOTHING_SECS:
        await asyncio.sleep(0.02)
        if len(arrived) > before:
            before, since = len(arrived), time.monotonic()
