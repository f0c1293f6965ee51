"""The one line of a process to the others: a channel on the layer, by which everything goes out and comes in.

The layer may be any Channels layer. What only our own has (hubs/layers) is used where it is there: `post`, which
sends without waiting, and `listen`, which hands messages over without a queue and a task between.

What comes in is an envelope (envelope.py), and who takes which kind is a table, `takers`. What this process sent to
an address that it hears itself comes back, and is dropped by its origin; without an origin it is for this process too.

That the layer has taken something does not say that the others hear it (peers.py). `send` claims the first,
`send_heard` both. Whatever fails here is a reason for doubt, and is noted as one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from channels.exceptions import ChannelFull

from hubs import conf
from hubs.errors import Refusal, Unavailable
from hubs.messaging.envelope import EVERYBODY, Envelope, decode, encode, process_address
from hubs.messaging.lines import Lines
from hubs.messaging.peers import Peers

logger = logging.getLogger(__name__)

MESSAGE_TYPE = "hubwire.envelope"

# How often an outage is complained of.
COMPLAINT_SECS = 1.0

UNREACHABLE = "The other servers of this service cannot be reached."

# Gets an envelope, and the message of the layer that it came in, with its numbers (see `send`).
Taker = Callable[[Any, Mapping[str, Any]], None]


class Trunk:
    """The line of one process, and what runs in the background for it."""

    def __init__(self, layer: Any, process: str, peers: Peers, *, alone: bool) -> None:
        self.layer = layer
        self.process = process
        # Alone: the layer reaches no other process, so there is nobody to pass anything on to.
        self.alone = alone
        self.lines = Lines(layer)
        # Who takes what comes, by the kind of envelope.
        self.takers: dict[type[Envelope], Taker] = {}
        # Called before anything is sent that does not come from Parcels.
        self.before_sending: Callable[[], None] = _nothing
        # What will end by itself, and what goes on as long as the line is there.
        self.tasks: set[asyncio.Task[None]] = set()
        self.running: list[asyncio.Task[None]] = []
        self._peers = peers
        # Asked of the class: channels_redis' layer makes a connection when an instance is asked.
        can = type(layer)
        self._post: Callable[[str, dict[str, Any]], asyncio.Future[Any]] | None = (
            layer.post if hasattr(can, "post") else None
        )
        self._listens_directly = hasattr(can, "listen")
        # Where it cannot post: what was started last. What is sent after it comes behind it.
        self._started: asyncio.Task[None] | None = None
        self._end_listening: Callable[[], None] | None = None
        self._complained_at = float("-inf")

    @property
    def posts_in_order(self) -> bool:
        """Whether what is sent arrives in the order of sending, though nobody waits for one before the next."""
        return self._post is not None

    @property
    def one_order(self) -> bool:
        """Whether that order holds for messages to different addresses, too."""
        return self._post is not None and bool(getattr(self.layer, "one_order", False))

    @property
    def confirms_subscriptions(self) -> bool:
        """Whether an address is heard once the layer says so. Others ask for a subscription, and leave it at that."""
        return self._listens_directly

    # Coming and going

    async def open(self) -> None:
        """Get a channel, and have it in the addresses that every process hears. May be called again if it failed."""
        await self.lines.open()
        await self.lines.want(process_address(self.process))
        if not self.alone:
            await self.lines.want(EVERYBODY)

    def listen(self, on_line: Callable[[bool], None], on_silence: Callable[[], None]) -> None:
        """Have what comes taken. The layer may say that the line was lost or is back, or is silent (hubs/layers)."""
        if self._listens_directly:
            own = {"type": MESSAGE_TYPE, "origin": self.process}
            self._end_listening = self.layer.listen(
                self.lines.channel, self._read, on_line, on_silence=on_silence, passing_over=own
            )
        else:
            self.keep_running(self._listen(), "switchboard")

    async def close(self) -> None:
        """End what runs, and listen no more. It may still be sent."""
        tasks = [*self.tasks, *self.running, *self.lines.tasks]
        pending = set(tasks)
        while pending:
            # More than once, since a layer's client may swallow a cancellation that comes just as it got its answer.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.1)
        await asyncio.gather(*tasks, return_exceptions=True)
        self.running.clear()
        if self._end_listening is not None:
            self._end_listening()
            self._end_listening = None

    def in_background(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something that nobody waits for. It is ended when the line closes."""
        self._hold(asyncio.create_task(work, name=name))

    def keep_running(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something until the line closes."""
        self.running.append(asyncio.create_task(work, name=name))

    def _hold(self, task: asyncio.Task[None]) -> None:
        # The loop alone would not.
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # What comes

    async def _listen(self) -> None:
        while True:
            try:
                self._read(await self.layer.receive(self.lines.channel))
            except Exception:
                self._peers.disturbed()
                self._peers.doubt()
                logger.exception("The line to the other processes is disturbed; listening again in a second")
                await asyncio.sleep(1)

    def _read(self, message: Any) -> None:
        try:
            if message.get("origin") != self.process:
                envelope = decode(message["body"])
                self.takers[type(envelope)](envelope, message)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            # Another version of this service may share the layer while servers are replaced one by one.
            logger.warning("Passed over a message from another process that this version cannot read")
        except Exception:
            # The fault is here, not in the line.
            logger.exception("A message from another process could not be handled")

    # What goes

    async def send(self, address: str, body: bytes, *, origin: str | None = None, **numbers: Any) -> None:
        """Send to an address. `numbers`: `floor` (tally.py), `forwards` (moves.py)."""
        self.before_sending()
        if self._started is not None and not self._started.done():
            await asyncio.wait({self._started})
        await self._send(address, body, self.process if origin is None else origin, numbers)

    async def _send(self, address: str, body: bytes, origin: str, numbers: Mapping[str, Any]) -> None:
        message = {"type": MESSAGE_TYPE, "origin": origin, "body": body}
        try:
            async with asyncio.timeout(conf.settings.ANSWER_SECS):
                await self.layer.group_send(address, {**message, **numbers})
        except Exception as problem:
            self._disturbed(problem)
            raise Unavailable(UNREACHABLE) from problem

    async def send_heard(self, process: str | None, address: str, body: bytes, numbers: dict[str, Any]) -> None:
        """As `send`. Raises Unavailable also if a process, or without one any other, may not hear it."""
        hears = self._peers.all_hear if process is None else self._peers.hears(process)
        doubts = self._peers.doubts
        if hears:
            await self.send(address, body, **numbers)
        if not hears or doubts != self._peers.doubts:
            raise Unavailable(UNREACHABLE)

    def start_sending(self, address: str, body: bytes, numbers: dict[str, Any]) -> asyncio.Future[Any]:
        """As `send`, without waiting: where the layer can (hubs/layers), everything of one loop turn is one write."""
        if self._post is None:
            self._started = sending = asyncio.ensure_future(self._send_behind(self._started, address, body, numbers))
            self._hold(sending)
            return sending
        message = {"type": MESSAGE_TYPE, "origin": self.process, "body": body}
        posted: asyncio.Future[Any] = self._post(address, message | numbers)
        posted.add_done_callback(self._look_at)
        return posted

    async def _send_behind(
        self, earlier: asyncio.Future[Any] | None, address: str, body: bytes, numbers: dict[str, Any]
    ) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait({earlier})
        await self._send(address, body, self.process, numbers)

    def pass_on(self, process: str, envelope: Envelope, message: Mapping[str, Any]) -> None:
        """Send a process what came here in `message`, and is not for this one any more."""

        async def pass_on() -> None:
            with suppress(Refusal):
                await self.send(process_address(process), encode(envelope), forwards=message["forwards"] - 1)

        self.in_background(pass_on(), "pass on")

    def _look_at(self, posted: asyncio.Future[Any]) -> None:
        if not posted.cancelled() and (problem := posted.exception()) is not None:
            self._disturbed(problem)

    def _disturbed(self, problem: BaseException) -> None:
        self._peers.disturbed()
        if not isinstance(problem, ChannelFull):
            self._peers.doubt()
        now = asyncio.get_running_loop().time()
        # Of an outage one line a second tells enough.
        if now - self._complained_at >= COMPLAINT_SECS:
            self._complained_at = now
            logger.error("Cannot reach the other processes: %s", str(problem) or type(problem).__name__)


def _nothing() -> None:
    """What is done where nothing has to be."""
