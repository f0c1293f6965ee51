"""Which layer groups this process's one channel is in."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)

# How long an address without members stays subscribed: clients that reload a page come right back.
LINGER_SECS = 2.0


class Lines:
    """The layer groups of one channel, brought to what is wanted.

    Adding and discarding wait for the layer, while members come and go; so each address is settled
    under a lock of its own, and what is wanted is looked at again once the lock is held.

    A call to the layer that fails or is cancelled may have been half done. So besides the addresses
    that are surely held there are those that may be (all held ones among them): wanting one of
    these asks the layer again, and one that nobody wants is left again.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self.channel = ""
        # How many times the layer was asked to add the channel to a group.
        self.added = 0
        self._held: set[str] = set()
        self._perhaps: set[str] = set()
        self._wanted: set[str] = set()
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        self._leaving: dict[str, float] = {}
        self._sweep: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What runs in the background."""
        return [self._sweep] if self._sweep else []

    async def open(self) -> None:
        """Get the process's channel."""
        if not self.channel:
            self.channel = await self._layer.new_channel()

    async def want(self, address: str) -> None:
        """Have the channel in the layer group `address` when this returns."""
        self._wanted.add(address)
        self._leaving.pop(address, None)
        if address not in self._held or address in self._locks:
            await self._settle(address)

    def release(self, address: str) -> None:
        """Nobody here needs `address` now; it is left after a while, unless somebody comes."""
        self._wanted.discard(address)
        self._leaving[address] = asyncio.get_running_loop().time() + LINGER_SECS
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(self._leave_unwanted(), name="leave unwanted groups")

    async def _settle(self, address: str) -> None:
        async with self._lock(address):
            if address in self._wanted and address not in self._held:
                self._perhaps.add(address)
                self.added += 1
                await self._layer.group_add(address, self.channel)
                self._held.add(address)
            elif address not in self._wanted and address in self._perhaps:
                self._held.discard(address)
                await self._layer.group_discard(address, self.channel)
                self._perhaps.discard(address)

    async def _leave_unwanted(self) -> None:
        loop = asyncio.get_running_loop()
        while self._leaving:
            address, due = next(iter(self._leaving.items()))
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
                continue
            del self._leaving[address]
            try:
                await self._settle(address)
            except Exception as problem:
                # Staying subscribed costs a few unneeded messages; the next release tries again.
                logger.warning("Could not leave a group of the channel layer: %s", problem)

    @asynccontextmanager
    async def _lock(self, address: str) -> Any:
        lock, users = self._locks.get(address, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[address] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[address]
            if users == 1:
                del self._locks[address]
            else:
                self._locks[address] = (lock, users - 1)
