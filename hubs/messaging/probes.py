"""Whether what this process has subscribed to is in force.

Most layers for Redis ask for a subscription and leave it at that: when `group_add` returns, the command may still be
on its way. For the members of a group that is as good as joining a moment later. For a connection that
changes process it is not: from a certain moment on nothing may be missed. Redis takes the subscriptions of
a process in order, though; so one more stands for all before it, and a message to that one, repeated until it is
heard, tells. It has to be an address that was never there before.

Our own layer waits for Redis' confirmation (hubs/layers/subscriber.py), and needs none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hubs import conf
from hubs.errors import Unavailable
from hubs.messaging.envelope import Probe, encode, process_address
from hubs.messaging.trunk import UNREACHABLE, Trunk

# How long a probe is waited for before the next one.
PROBE_SECS = 0.05


class Probes:
    """What one process sends to itself to learn that it hears."""

    def __init__(self, trunk: Trunk) -> None:
        self._trunk = trunk
        self._lines = trunk.lines
        # Those that have not been heard yet, by number.
        self.open: dict[int, asyncio.Event] = {}
        self._last = 0
        # So many of the subscriptions made by the lines are known to be in force.
        self._in_force = 0

    async def hear_all(self) -> None:
        """Wait until this process hears what is sent to every address it has subscribed to. Raises Unavailable."""
        added = self._lines.added
        if self._trunk.confirms_subscriptions or self._in_force >= added:
            return
        self._last += 1
        number = self._last
        address = f"{process_address(self._trunk.process)}.{number}"
        await self._lines.want(address)
        try:
            await self._hear(address, number)
        finally:
            self._lines.release(address)
        # The probe's own subscription, too, if it was the only one meanwhile.
        self._in_force = max(self._in_force, added + (self._lines.added == added + 1))

    async def _hear(self, address: str, number: int) -> None:
        heard = self.open[number] = asyncio.Event()
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                while not heard.is_set():
                    await self._trunk.send(address, encode(Probe(self._trunk.process, number)), origin="")
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PROBE_SECS):
                            await heard.wait()
        except TimeoutError:
            raise Unavailable(UNREACHABLE) from None
        finally:
            del self.open[number]

    def take(self, probe: Probe, message: Mapping[str, Any]) -> None:
        """One was heard."""
        if probe.process == self._trunk.process and (heard := self.open.get(probe.number)) is not None:
            heard.set()
