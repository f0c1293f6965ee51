"""Who hears whom: this process makes itself known to the others, hears of them, and says when it cannot.

peers.py keeps what follows from what was heard, and when. Here is what is said for it: a hello at the start and then
in steady time, an answer to those who ask, a hello at once when the line changes, a goodbye at the end.

That the layer has taken a publication is success only if the others hear it. After an outage they do
not all come back in the same moment; until each has been heard to hear, a publication goes out as always
and is said to have failed, or, where nobody may get it then, is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from hubs import conf
from hubs.errors import Refusal, Unavailable
from hubs.messaging.envelope import EVERYBODY, Goodbye, Hello, encode, process_address
from hubs.messaging.peers import Peers
from hubs.messaging.trunk import UNREACHABLE, Trunk

logger = logging.getLogger(__name__)

# How long a process that stops goes on passing on what comes for connections that have moved.
PASSING_ON_SECS = 1.0


class Hearing:
    """What one process says of itself, and takes from what the others say of themselves."""

    def __init__(self, trunk: Trunk, peers: Peers) -> None:
        self._trunk = trunk
        self._peers = peers
        # Whether this process knows that it does not hear the others.
        self._deaf = False
        # Whether it has said goodbye.
        self._leaving = False
        # Set and made anew with every hello that is heard, for those who wait to know everybody.
        self.heard_hello = asyncio.Event()
        # Whether the line was opened; from then on the layer keeps it up.
        self.started = False
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Open the line and say hello; does nothing when that was done."""
        if self.started:
            return
        async with self._starting:
            if self.started:
                return
            await self._trunk.open()
            if not self._trunk.alone:
                # Before the first connection is here: nobody may count without this process then.
                await self._hello(ask=True)
            self._trunk.listen(self.line_changed, self.line_is_silent)
            if not self._trunk.alone:
                self._trunk.keep_running(self._say_hello(), "hello to other processes")
            self.started = True

    async def stop(self, *, passes_on: bool = False) -> None:
        """Say goodbye and end what still runs; if it `passes_on`, only when others have had time to hear it."""
        if self.started and not self._trunk.alone:
            # A hello behind it would have the others wait for answers.
            self._leaving = True
            with suppress(Refusal, TimeoutError):
                async with asyncio.timeout(conf.settings.ANSWER_SECS):
                    await self._trunk.send(EVERYBODY, encode(Goodbye(self._trunk.process)))
            if passes_on:
                # Until all have heard it, what is for connections that were here still comes.
                await asyncio.sleep(PASSING_ON_SECS)
        await self._trunk.close()
        self.started = self._leaving = False

    async def others(self) -> set[str]:
        """All other processes that live. Raises Unavailable while that cannot be known."""
        try:
            await self.start()
        except Refusal:
            raise
        except Exception as problem:
            logger.error("Cannot reach the other processes: %s", problem)
            raise Unavailable(UNREACHABLE) from problem
        # A line that works is known to within this time.
        patience = conf.settings.ANSWER_SECS + self._peers.settled_secs
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while not self._peers.is_complete(_now()):
                    await self.heard_hello.wait()
        if not self._peers.is_complete(_now()):
            raise Unavailable(UNREACHABLE)
        return self._peers.alive()

    # What this process says

    async def _say_hello(self) -> None:
        failed = False
        while True:
            certain = self._peers.is_complete(_now()) and self._peers.all_hear
            await asyncio.sleep(self._peers.hello_secs / (1 if certain else 4))
            try:
                # Whoever answered is forgotten over a longer silence, so ask again then, as at first.
                await self._hello(ask=failed or not self._peers.all_hear)
                failed = False
            except Unavailable:
                failed = True

    async def _hello(self, *, ask: bool) -> None:
        if self._leaving:
            return
        hello = Hello(self._trunk.process, self._peers.doubts if ask else None, deaf=self._deaf)
        # Without an origin: its own hellos are for this process too.
        await self._trunk.send(EVERYBODY, encode(hello), origin="")

    async def _hello_now(self) -> None:
        with suppress(Refusal):
            await self._hello(ask=True)

    async def _greet(self, process: str, asked: int) -> None:
        if self._leaving:
            return
        asks = None if self._peers.hears(process) else self._peers.doubts
        with suppress(Refusal):
            await self._trunk.send(process_address(process), encode(Hello(self._trunk.process, asks, asked)))

    # What the layer says

    def line_changed(self, up: bool) -> None:
        """The layer says that it has lost its way to this process, or has all of it back."""
        self._deaf = not up
        self._peers.disturbed()
        self._peers.doubt()
        if not self._trunk.alone:
            # It tells the others that this process does not hear them, or asks who hears it.
            self._trunk.in_background(self._hello_now(), "hello from a line that changed")
        if up:
            logger.warning("The other processes are reached again; what they published meanwhile is missed here")
        else:
            logger.error("The line from the other processes is lost")

    def line_is_silent(self) -> None:
        """The layer says that it waits for an answer; others may have waited in vain, and not be back at once."""
        self._peers.doubt()
        if not self._trunk.alone:
            self._trunk.in_background(self._hello_now(), "hello on a silent line")

    # What the others say

    def take_hello(self, hello: Hello, message: Mapping[str, Any]) -> None:
        """A process is here; perhaps this one."""
        self._peers.hear(hello.process, _now())
        self.heard_hello.set()
        self.heard_hello = asyncio.Event()
        if hello.process == self._trunk.process:
            return
        if hello.deaf:
            self._peers.doubt(hello.process)
        elif hello.answers is not None:
            self._peers.answered(hello.process, hello.answers)
        # Who has not all its subscriptions yet has heard this, and may miss the next.
        if hello.asks is not None and not self._deaf:
            self._trunk.in_background(self._greet(hello.process, hello.asks), "hello to who asked")


def _now() -> float:
    return asyncio.get_running_loop().time()
