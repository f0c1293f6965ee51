"""Servers that publish by REST, each in one of the ways that the API has, and wait for each answer.

A sender goes to any worker, another one with each message. An answer of 202 is a claim that everybody who is
meant is told; 503 says that it is not known, as does no answer from a process that failed. The message counts as
refused then: it may arrive or not, and is not sent again, since it would be another message.
"""

from __future__ import annotations

import asyncio
import http.client
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from urllib.parse import quote

import jwt

from tests.running import PATIENCE, Service
from tests.service.client import Target

HUB = "chat"
# All members are this user.
AUDIENCE = "audience"
TOKEN_SECS = 24 * 3600
AGAIN_SECS = 0.2

_FILTER = quote(f"userId eq '{AUDIENCE}' and 'group-0' in groups")

# Paths below the hub. `{connection}`: sent to each member's connection, one after the other.
WAYS = (
    "users/audience/:send",
    ":send",
    "groups/group-0/:send",
    f":send?filter={_FILTER}",
    "groups/group-1/:send?excluded=0123456789abcdef0123456789abcdef",
    "connections/{connection}/:send",
)


class Refused(Exception):
    """Nobody, or not everybody, is told."""


class Sender:
    """One that sends numbered messages, and which of them the service has taken."""

    def __init__(
        self,
        index: int,
        way: str,
        services: Sequence[Service],
        connections: Callable[[], Sequence[str]],
        seed: int,
        padding: int = 0,
    ) -> None:
        self.way = way
        self.sent_at: list[float] = []
        self.acknowledged: set[int] = set()
        self._refused: set[int] = set()
        # Other answers than these two.
        self.answers: Counter[str] = Counter()
        self._index, self._padding = index, padding
        self._targets = [Target(service.connection_string) for service in services]
        self._ports = [service.port for service in services]
        self._connections = connections
        self._random = random.Random(f"{seed} sender {index}")

    @property
    def sent(self) -> int:
        return len(self.sent_at)

    @property
    def refused(self) -> int:
        return len(self._refused)

    @property
    def _each(self) -> bool:
        return "{connection}" in self.way

    @property
    def unordered(self) -> Collection[int]:
        """For which no order is promised.

        What was refused may come late, if at all; what is sent to one connection may be overtaken while that moves.
        """
        return range(1, self.sent + 1) if self._each else self._refused

    async def publish(self, rate: float, over: asyncio.Event) -> None:
        """Send at a pace until it is over; fewer, where each message is one to every member."""
        loop = asyncio.get_running_loop()
        if self._each:
            rate /= 4
        due = loop.time() + self._random.uniform(0, 1 / rate)
        while not over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(max(due - loop.time(), 0)):
                    await over.wait()
                    return
            await self.send()
            # Not in a burst what was not sent for a while.
            due = max(due + 1 / rate, loop.time() - 1)

    async def send(self) -> bool:
        """Send the next message, and tell whether it was taken."""
        self.sent_at.append(time.monotonic())
        number = self.sent
        paths = [self.way]
        if self._each:
            paths = [self.way.format(connection=connection) for connection in self._connections()]
        worker = self._random.randrange(len(self._ports))
        body = f"{self._index} {number} {'x' * self._padding}".encode()
        try:
            await asyncio.to_thread(self._post, worker, paths, body)
        except Refused:
            self._refused.add(number)
            return False
        self.acknowledged.add(number)
        return True

    async def last(self) -> None:
        """Send until one is taken."""
        while not await self.send():
            await asyncio.sleep(AGAIN_SECS)

    def _post(self, worker: int, paths: Sequence[str], body: bytes) -> None:
        # One for each message: a server hangs up on those that are idle.
        line = http.client.HTTPConnection("127.0.0.1", self._ports[worker], timeout=PATIENCE)
        with closing(line):
            try:
                self._post_all(line, self._targets[worker], paths, body)
            except (OSError, http.client.HTTPException) as lost:
                raise Refused from lost

    def _post_all(self, line: http.client.HTTPConnection, target: Target, paths: Sequence[str], body: bytes) -> None:
        for path in paths:
            url = f"/api/hubs/{HUB}/{path}"
            claims = {"aud": f"{target.endpoint}{url}", "exp": int(time.time()) + TOKEN_SECS}
            token = jwt.encode(claims, target.key, "HS256")
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain", "Host": target.host}
            line.request("POST", url, body, headers)
            with line.getresponse() as answer:
                text = answer.read()
            if answer.status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                raise Refused
            if answer.status != http.HTTPStatus.ACCEPTED:
                self.answers[f"{answer.status} {text.decode(errors='replace')[:200]}"] += 1
                raise Refused
