"""Which processes live.

Each process says hello in the log that all read, a few times a second, and says it again only when it has read its
last hello back. So hellos measure time in the order of the log: a process is dead for an observer that has read
`LEASE_HELLOS` of its own hellos since the other's last one. Where the observer stands still, or Redis does, or a line
is lost, no own hello comes back and nobody's lease runs out; what the others said meanwhile is read before the
next own hello. It does not matter whose clock is right.

A process says goodbye when it stops. One that was taken for dead and is not reads so in the log, and gives up what it
had (node/takeovers.py).

Who shares the log shares the hubs. A process that has none of our secrets belongs to another service, or its operator
believes so; nothing keeps it out, but the log of either says it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from django.conf import settings
from django.utils.crypto import salted_hmac

from hubs.cluster.entries import CONTROL_LOG, Hello
from hubs.cluster.log import Log, applied
from hubs.errors import Refusal

logger = logging.getLogger(__name__)

HELLO_SECS = 0.25
LEASE_HELLOS = 10

# Where the log cannot be read again, others are known when they have had the time to say so.
HELLOS_TO_KNOW = 3

MAX_GONE = 1000


class Leases:
    """The processes that live, as far as one process has read."""

    def __init__(self, process: str, log: Log, expired: Callable[[str], None], hello_secs: float = HELLO_SECS) -> None:
        self._process = process
        self._log = log
        self._expired = expired
        self._hello_secs = hello_secs
        # Of the others: how many own hellos had been read when their last one was.
        self._heard: dict[str, int] = {}
        # Those of which the log says that they have stopped or are dead, the last ones of them.
        self._gone: dict[str, None] = {}
        # Those that have stopped or are dead, and whose connections nobody has yet.
        self.orphaned: set[str] = set()
        self._secrets = _marks()
        self._warned_of_secrets = False
        self._said = self._own = self._read_own = 0
        # Set, and made anew, with each own hello, and when connections of an orphaned process are in good hands.
        self._came_back, self._adopted = asyncio.Event(), asyncio.Event()
        self._saying: asyncio.Task[None] | None = None
        self._stopped = False

    @property
    def others(self) -> set[str]:
        """The other processes that live."""
        return set(self._heard)

    def lives(self, process: str) -> bool:
        """Whether a process lives."""
        return process == self._process or process in self._heard

    async def start(self) -> None:
        """Say hello, and know who else is there. Raises Unavailable."""
        if self._log.alone:
            return
        if self._saying is None or self._saying.done():
            await self._say(asks=True)
        if (self._saying is None or self._saying.done()) and not self._stopped:
            self._saying = asyncio.create_task(self._go_on(), name="say hello to the other processes")
        while self._own < (1 if self._log.keeps else HELLOS_TO_KNOW):
            await self._came_back.wait()

    async def stop(self) -> None:
        """Say nothing more."""
        self._stopped = True
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.gather(self._saying, return_exceptions=True)
            self._saying = None

    async def _go_on(self) -> None:
        while True:
            await asyncio.sleep(self._hello_secs)
            with suppress(Refusal):
                await self._say(asks=False)

    async def _say(self, *, asks: bool) -> None:
        self._said += 1
        secrets = self._secrets if asks else ()
        await applied(self._log.append(CONTROL_LOG, Hello(self._process, self._said, asks, secrets)))

    async def next_hello(self) -> None:
        """Wait until a hello that is said from now on has come back."""
        said = self._said
        while self._read_own <= said:
            await self._came_back.wait()

    def take_hello(self, hello: Hello) -> None:
        """Somebody says hello."""
        if hello.process in self._gone:
            # Said before it was read that it is gone, and appended behind. Names do not come again.
            return
        if hello.process != self._process:
            if hello.process not in self._heard:
                logger.info("Process %s of this service is here", hello.process)
            self._heard[hello.process] = self._own
            self.orphaned.discard(hello.process)
            self._compare(hello)
            if hello.asks and not self._stopped:
                self._log.append(CONTROL_LOG, Hello(self._process, secrets=self._secrets))
        elif hello.number:
            self._own += 1
            self._read_own = hello.number
            self._came_back = _set(self._came_back)
            for process, heard in list(self._heard.items()):
                if self._own - heard >= LEASE_HELLOS:
                    logger.warning("Process %s of this service counts as dead: it is silent", process)
                    self._expired(process)

    def _compare(self, hello: Hello) -> None:
        if not hello.secrets or not set(self._secrets).isdisjoint(hello.secrets) or self._warned_of_secrets:
            return
        self._warned_of_secrets = True
        logger.error(
            "Process %s has another SECRET_KEY and the same Redis database, so each delivers the other's messages. If "
            "it belongs to another service, give each a Redis database of its own, such as "
            "REDIS_URL=redis://host:6379/1; if not, set the same SECRET_KEY for both",
            hello.process,
        )

    def forget(self, process: str) -> None:
        """A process has stopped or is dead; where records are kept its connections wait to be adopted."""
        self._heard.pop(process, None)
        if self._log.keeps:
            self.orphaned.add(process)

    def bury(self, process: str) -> None:
        """The log says that a process has stopped or is dead: it never comes again."""
        self._heard.pop(process, None)
        self._gone[process] = None
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]

    def adopted(self, process: str) -> None:
        """The connections of a process are looked after."""
        self.orphaned.discard(process)
        self._adopted = _set(self._adopted)

    async def all_adopted(self) -> None:
        """Wait until no process is orphaned."""
        while self.orphaned:
            await self._adopted.wait()


def _marks() -> tuple[str, ...]:
    """What tells whether somebody has the same secrets, and does not tell the secrets."""
    secrets = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
    return tuple(salted_hmac(__name__, "", secret, algorithm="sha256").hexdigest()[:16] for secret in secrets)


def _set(event: asyncio.Event) -> asyncio.Event:
    event.set()
    return asyncio.Event()
