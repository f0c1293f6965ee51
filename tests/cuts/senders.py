"""Servers that publish by REST, each in one of the ways that the API has, and wait for each answer.

A sender goes to any worker, another one with each message. An answer of 202 is a claim that everybody who is
meant is told; 503 says that it is not known, and the message counts as refused: it may arrive or not, and
is not sent again, since it would be another message then.
"""

from __future__ import annotations

import asyncio
import http.client
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
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
        self, index: int, way: str, services: Sequence[Service], connections: Callable[[], Sequence[str]], seed: int
    ) -> None:
        self.index = index
        self.way = way
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.refused = 0
        self._targets = [Target(service.connection_string) for service in services]
        self._ports = [service.port for service in services]
        self._connections = connections
        self._random = random.Random(f"{seed} sender {index}")

    @property
    def ordered(self) -> bool:
        """Whether an order is promised; what is sent to one connection may be overtaken while that moves."""
        return "{connection}" not in self.way

    async def publish(self, seconds: float, rate: float) -> None:
        """Send at a pace for so long; fewer, where each message is one to every member."""
        loop = asyncio.get_running_loop()
        if not self.ordered:
            rate /= 4
        began, until = loop.time() + self._random.uniform(0, 1 / rate), loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(began + self.sent / rate - loop.time())
            await self.send()

    async def send(self) -> bool:
        """Send the next message, and tell whether it was taken."""
        self.sent += 1
        number = self.sent
        paths = [self.way]
        if not self.ordered:
            paths = [self.way.format(connection=connection) for connection in self._connections()]
        worker = self._random.randrange(len(self._ports))
        try:
            await asyncio.to_thread(self._post, worker, paths, f"{self.index} {number}".encode())
        except Refused:
            self.refused += 1
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
            self._post_all(line, self._targets[worker], paths, body)

    @staticmethod
    def _post_all(line: http.client.HTTPConnection, target: Target, paths: Sequence[str], body: bytes) -> None:
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
                raise AssertionError(f"{url} was answered with {answer.status} {text!r}")
