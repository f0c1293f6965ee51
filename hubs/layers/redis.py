"""A Channels layer on Redis pub/sub that publishes in pipelines and subscribes in batches.

To the world it is channels_redis' pub/sub layer: the same configuration (`hosts`, `prefix`,
`symmetric_encryption_keys`, `serializer_format`), the same topics and messages on the wire, so processes with either
can share a Redis. It says more about what happened, and costs less:

* `post` publishes without waiting and gives a future that is done once Redis has taken the message.
  Everything of one loop turn is one write (publisher.py).
* `group_add` returns when Redis has confirmed the subscription. Calls of one loop turn are one SUBSCRIBE
  (subscriber.py).
* `listen` has messages handed over as they are read from the socket, many per read, in place of `receive` with
  its queue and a task to wake for each.
* While Redis is away, whoever asks is told at once, and within a second of the moment it went. Nothing is held
  back and sent later: who published decides whether to do it again.

A layer may be used on several event loops, as Django does with `async_to_sync`. Connections and
channels belong to the loop they were made on and are closed with it.
"""

from __future__ import annotations

import asyncio
import types
import uuid
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakSet

import msgspec
from channels.layers import BaseChannelLayer
from channels_redis.serializers import BaseMessageSerializer, registry
from channels_redis.utils import _consistent_hash, decode_hosts

from hubs.layers.errors import LayerAway
from hubs.layers.mailbox import Mailbox, Message
from hubs.layers.publisher import Publisher, head
from hubs.layers.subscriber import Subscriber
from hubs.layers.wire import Host

# How long Redis may be silent while something is asked of it. So an outage is noticed, and its end, within a second.
PATIENCE_SECS = 0.7

# What may wait for Redis to take it, per process and host.
MAX_POSTED_MESSAGES = 20_000
MAX_POSTED_BYTES = 32 * 1024 * 1024

# What may wait in a channel for somebody to receive it.
CAPACITY = 10_000
MAX_CHANNEL_BYTES = 32 * 1024 * 1024

# A channel whose `receive` was cancelled is kept this long, for whoever calls it again.
LINGER_SECS = 5.0

# Of so many items msgpack writes the number in one byte.
MAX_SMALL_MAP = 15

# Routes of groups remembered; a group costs about 300 bytes.
MAX_ROUTES = 20_000


class _Msgpack(BaseMessageSerializer):
    """channels_redis' default format, written and read by msgspec."""

    as_bytes = staticmethod(msgspec.msgpack.Encoder().encode)
    from_bytes = staticmethod(msgspec.msgpack.Decoder().decode)


class RedisLayer(BaseChannelLayer):
    """The layer, as CHANNEL_LAYERS names it."""

    extensions: Sequence[str] = ("groups", "flush")

    def __init__(
        self,
        hosts: Sequence[Any] | None = None,
        prefix: str = "asgi",
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
        *,
        patience_secs: float = PATIENCE_SECS,
        max_posted_messages: int = MAX_POSTED_MESSAGES,
        max_posted_bytes: int = MAX_POSTED_BYTES,
        capacity: int = CAPACITY,
    ) -> None:
        super().__init__(capacity=capacity)
        self.prefix = prefix
        self.patience_secs = patience_secs
        self.max_posted = (max_posted_messages, max_posted_bytes)
        self._hosts = decode_hosts(hosts)
        if serializer_format == "msgpack":
            serializer = _Msgpack(symmetric_encryption_keys=symmetric_encryption_keys)
        else:
            serializer = registry.get_serializer(serializer_format, symmetric_encryption_keys=symmetric_encryption_keys)
        plain = isinstance(serializer, _Msgpack) and serializer.crypter is None
        self._plain = plain
        self._encode: Callable[[Message], bytes] = serializer.as_bytes if plain else serializer.serialize
        self._decode: Callable[[bytes], Any] = serializer.from_bytes if plain else serializer.deserialize
        self._loops: dict[asyncio.AbstractEventLoop, _OnLoop] = {}
        self._closed_with: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    # Publishing

    def post(self, group: str, message: Message) -> asyncio.Future[int]:
        """Send a message to a group, without waiting.

        The future is done once Redis has taken the message; its value is the number of processes that Redis passed it
        to. It fails with LayerFull, LayerAway or what Redis answered; one that nobody waits for fails in
        silence. Calls are sent and completed in their order.
        """
        here = self._loops.get(asyncio.get_running_loop()) or self._here()
        publisher, topic_head = here.routes.get(group) or here.route(group)
        return publisher.post(topic_head, self._packed(message))

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to a group; when this returns Redis has taken it."""
        await self.post(group, message)

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to a channel; when this returns Redis has taken it."""
        self.require_valid_channel_name(channel)
        here, topic = self._here(), channel.encode()
        await here.publisher(topic).post(head(topic), self._packed(message))

    def _beginning(self, items: Message) -> bytes | None:
        """What messages that begin with these items have behind their first byte, which is their number of items."""
        return self._encode(items)[1:] if self._plain and 0 < len(items) <= MAX_SMALL_MAP else None

    def _packed(self, message: Message) -> bytes:
        if not isinstance(message, dict):
            raise TypeError("A message is a dictionary.")
        return self._encode(message)

    @property
    def one_order(self) -> bool:
        """Whether everybody hears messages in the order in which one process published them, whatever their groups."""
        return len(self._hosts) == 1

    # Channels

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Make a channel of this process; when this returns, what is sent to it arrives."""
        channel = f"{self.prefix}{prefix}{uuid.uuid4().hex}"
        self.require_valid_channel_name(channel)
        here = self._here()
        mailbox = here.make(channel)
        try:
            await here.open(mailbox)
        except BaseException:
            here.leave(mailbox)
            raise
        return channel

    async def receive(self, channel: str) -> Any:
        """The next message of a channel. One that is not there is made."""
        here = self._here()
        mailbox = here.mailboxes.get(channel)
        is_new = mailbox is None
        if mailbox is None:
            self.require_valid_channel_name(channel)
            mailbox = here.make(channel)
        here.stay(mailbox)
        mailbox.readers += 1
        leaves = True
        try:
            if is_new:
                await here.open(mailbox)
            message = await mailbox.receive()
            leaves = False
            return message
        finally:
            mailbox.readers -= 1
            if leaves:
                # Cancelled: Channels has no other way to say that a channel is not needed any more.
                here.leave_soon(mailbox)

    def listen(
        self,
        channel: str,
        on_message: Callable[[Message], None],
        on_line: Callable[[bool], None],
        *,
        on_silence: Callable[[], None] | None = None,
        passing_over: Message | None = None,
    ) -> Callable[[], None]:
        """Have the messages of a channel handed over as they come, in place of `receive`.

        `on_message` is called with each, in order. `on_line(False)` says that the connection they come by
        is lost, or is not there now; `on_line(True)` that Redis has confirmed all subscriptions again.
        What was published in between is missed. Gives a function that ends it, and the channel with it.

        `on_silence` is called when Redis has not answered for half the time after which a connection counts as
        lost. This one may last; another process may have lost its own, and be back a little later.

        `passing_over`: messages that begin with these items, in this order, may be passed over. Who publishes to
        a group it is in hears itself, and need not read that: such messages are known by their first bytes, where
        the format has them plain; else they are handed over as all others are.
        """
        here = self._here()
        mailbox = here.mailbox(channel)
        here.stay(mailbox)
        mailbox.listen(on_message, on_line, on_silence, self._beginning(passing_over or {}))
        if here.is_down:
            mailbox.tell(False)
        return lambda: here.leave(mailbox)

    # Groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel of this process to a group; when this returns Redis has confirmed it.

        Raises LayerAway. The channel is in the group then, once Redis is reached again, unless it is discarded.
        """
        self.require_valid_group_name(group)
        here = self._here()
        await here.join(group, here.mailbox(channel))

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, if it is in it. Does not wait."""
        self.require_valid_group_name(group)
        here = self._here()
        mailbox = here.mailboxes.get(channel)
        if mailbox is not None and group in mailbox.groups:
            here.part(group, mailbox)

    # Coming and going

    async def reach(self) -> None:
        """Connect to each Redis, have it answer, and hang up. Raises LayerAway, which says why that failed."""
        for settings in self._hosts:
            host = Host(settings, self.patience_secs)
            try:
                wire = await host.dial()
                wire.lose(LayerAway("It was reached."))
                await wire.closed
            finally:
                await host.close()

    async def flush(self) -> None:
        """Forget all channels and groups of this loop and close its connections. The layer may be used again."""
        loop = asyncio.get_running_loop()
        if (here := self._loops.pop(loop, None)) is not None:
            await here.close()

    close = flush

    def _here(self) -> _OnLoop:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            here = self._loops[loop] = _OnLoop(self, self._hosts, self._decode)
            if loop not in self._closed_with:
                self._closed_with.add(loop)
                _close_with(loop, self)
        return here


class _OnLoop:
    """What the layer has on one event loop."""

    def __init__(self, layer: RedisLayer, hosts: Sequence[Any], decode: Callable[[bytes], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._prefix, self._capacity, self._decode = layer.prefix, layer.capacity, decode
        self._hosts = [Host(host, layer.patience_secs) for host in hosts]
        self._publishers = [Publisher(host, *layer.max_posted) for host in self._hosts]
        self._subscribers = [Subscriber(host, self._take, self._line, self._silence) for host in self._hosts]
        self.mailboxes: dict[str, Mailbox] = {}
        self.routes: dict[str, tuple[Publisher, bytes]] = {}
        # By topic, and in it by channel, whom a message is for.
        self._readers: dict[bytes, dict[str, Mailbox]] = {}

    # Names

    def route(self, group: str) -> tuple[Publisher, bytes]:
        """How to publish to a group."""
        _NAMES.require_valid_group_name(group)
        topic = self._topic(group)
        if len(self.routes) >= MAX_ROUTES:
            self.routes.clear()
        route = self.routes[group] = (self.publisher(topic), head(topic))
        return route

    def publisher(self, topic: bytes) -> Publisher:
        """The one whose host a topic belongs to."""
        return self._publishers[_consistent_hash(topic, len(self._publishers))]

    def _subscriber(self, topic: bytes) -> Subscriber:
        return self._subscribers[_consistent_hash(topic, len(self._subscribers))]

    def _topic(self, group: str) -> bytes:
        return f"{self._prefix}__group__{group}".encode()

    # Channels and groups

    def mailbox(self, channel: str) -> Mailbox:
        """The mailbox of a channel that has to be there."""
        mailbox = self.mailboxes.get(channel)
        if mailbox is None:
            raise RuntimeError(f"There is no channel {channel!r} in this process. Get one from new_channel().")
        return mailbox

    def make(self, channel: str) -> Mailbox:
        """Make a channel; messages for it arrive once it is open."""
        mailbox = self.mailboxes[channel] = Mailbox(channel, self._decode, self._capacity, MAX_CHANNEL_BYTES)
        self._readers[channel.encode()] = {channel: mailbox}
        return mailbox

    async def open(self, mailbox: Mailbox) -> None:
        """When this returns, messages for a channel arrive."""
        topic = mailbox.channel.encode()
        await self._subscriber(topic).subscribe(topic)

    async def join(self, group: str, mailbox: Mailbox) -> None:
        """Put a channel into a group; when this returns, messages for the group arrive."""
        topic = self._topic(group)
        mailbox.groups.add(group)
        self._readers.setdefault(topic, {})[mailbox.channel] = mailbox
        await self._subscriber(topic).subscribe(topic)

    def part(self, group: str, mailbox: Mailbox) -> None:
        """Take a channel out of a group."""
        mailbox.groups.discard(group)
        self._drop(self._topic(group), mailbox)

    def stay(self, mailbox: Mailbox) -> None:
        """Somebody reads a channel."""
        if mailbox.leaving is not None:
            mailbox.leaving.cancel()
            mailbox.leaving = None

    def leave_soon(self, mailbox: Mailbox) -> None:
        """Somebody stopped reading a channel; if nobody does now, it ends after a while, with its memberships."""
        if mailbox.readers or self.mailboxes.get(mailbox.channel) is not mailbox or self._loop.is_closed():
            return
        self.stay(mailbox)
        mailbox.leaving = self._loop.call_later(LINGER_SECS, self.leave, mailbox)

    def leave(self, mailbox: Mailbox) -> None:
        """End a channel."""
        self.stay(mailbox)
        mailbox.on_message, mailbox.on_line, mailbox.on_silence = _ignore, None, None
        if self.mailboxes.get(mailbox.channel) is not mailbox:
            return
        del self.mailboxes[mailbox.channel]
        for group in list(mailbox.groups):
            self.part(group, mailbox)
        self._drop(mailbox.channel.encode(), mailbox)

    def _drop(self, topic: bytes, mailbox: Mailbox) -> None:
        readers = self._readers.get(topic, {})
        readers.pop(mailbox.channel, None)
        if not readers and topic in self._readers:
            del self._readers[topic]
            self._subscriber(topic).unsubscribe(topic)

    # From Redis

    def _take(self, topic: bytes, payload: bytes) -> None:
        readers = self._readers.get(topic)
        if readers is None:
            return
        # A reader may leave as it reads.
        for mailbox in readers.values() if len(readers) == 1 else list(readers.values()):
            mailbox.take(payload)

    @property
    def is_down(self) -> bool:
        """Whether a connection to subscribe by is lost."""
        return any(subscriber.is_down for subscriber in self._subscribers)

    def _line(self, up: bool) -> None:
        # Several hosts are one line: it is up when all are, and down from the first that goes to the last that comes.
        down = sum(subscriber.is_down for subscriber in self._subscribers)
        if down != (0 if up else 1):
            return
        for mailbox in list(self.mailboxes.values()):
            mailbox.tell(up)

    def _silence(self) -> None:
        for mailbox in list(self.mailboxes.values()):
            mailbox.tell_of_silence()

    async def close(self) -> None:
        """Close all connections."""
        for mailbox in self.mailboxes.values():
            self.stay(mailbox)
        await asyncio.gather(*(link.close() for link in (*self._publishers, *self._subscribers)))
        for host in self._hosts:
            await host.close()


_NAMES = BaseChannelLayer()


def _ignore(message: Message) -> None:
    pass


def _close_with(loop: asyncio.AbstractEventLoop, layer: RedisLayer) -> None:
    """Have what the layer has on a loop closed just before the loop is."""
    close = loop.close

    def close_both(self: asyncio.AbstractEventLoop) -> None:
        loop.close = close  # type: ignore[method-assign]
        if loop in layer._loops and not loop.is_running():
            loop.run_until_complete(layer.flush())
        loop.close()

    loop.close = types.MethodType(close_both, loop)  # type: ignore[method-assign]
