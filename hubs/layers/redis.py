"""A Channels layer on Redis Streams: messages to groups are entries of logs that Redis keeps in order.

To the world it is a Channels layer with channels_redis' configuration (`hosts`, `prefix`,
`symmetric_encryption_keys`, `serializer_format`). Each group is a stream, its *log*. A message to a group is an *entry*
appended to it, and each process with members of the group reads the log from a *position*. So what others miss
with pub/sub, while their connection is lost or they stand still, they read when they are back.

The extension `log` says more about what happened:

* `post` appends without waiting and gives a future that is done with the entry's position once Redis has it, or fails
  in a way that says whether the entry may be in the log. Everything of one loop turn is one write (appender.py).
* `listen` has entries handed over as they are read from the socket, many per read and with their positions, in place of
  `receive` with its queue and a task to wake for each (reader.py). It says so when entries may be missing.
* `group_add` takes a position to read from, and gives one; `read` reads a part of a log.
* `execute` has a command executed in the same pipeline as posts, in order.
* While Redis is away, whoever asks is told at once, and within a second of the moment it went. Nothing is held
  back and sent later: who posted decides whether to do it again.

Logs are kept for a time and up to a size (trimming.py). Messages to a channel go through a stream for all channels of
its process.

A layer may be used on several event loops, as Django does with `async_to_sync`. Connections and
channels belong to the loop they were made on and are closed with it.
"""

from __future__ import annotations

import asyncio
import logging
import types
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakSet

import msgspec
from channels.layers import BaseChannelLayer
from channels_redis.serializers import BaseMessageSerializer, registry
from channels_redis.utils import _consistent_hash, decode_hosts
from redis.exceptions import ResponseError

from hubs.layers.appender import Appender, Log
from hubs.layers.commands import KEY, Argument, Key, pack
from hubs.layers.errors import LayerAway, LogTrimmed
from hubs.layers.mailbox import Mailbox, Member, Message, OnEntry
from hubs.layers.positions import Position, id_of, position_of
from hubs.layers.reader import RawEntry, Reader
from hubs.layers.requirements import lacks
from hubs.layers.subscriptions import Inbox, SharedInbox, Subscription
from hubs.layers.trimming import Trimmer
from hubs.layers.wire import Host

__all__ = ["KEY", "Position", "RedisLayer"]

logger = logging.getLogger(__name__)

# How long Redis may be silent while something is asked of it. So an outage is noticed, and its end, within a second.
PATIENCE_SECS = 0.7

# What may wait for Redis to take it, per process and host.
MAX_POSTED_MESSAGES = 20_000
MAX_POSTED_BYTES = 32 * 1024 * 1024

# What may wait in a channel for somebody to receive it.
CAPACITY = 10_000
MAX_CHANNEL_BYTES = 32 * 1024 * 1024

# How long entries are kept, and how many bytes of each log.
RETENTION_SECS = 300.0
MAX_LOG_BYTES = 64 * 1024 * 1024

# How long a message to a channel is kept for its process to read it.
EXPIRY_SECS = 60.0

# Logs that nobody has used for so long are forgotten; at least this, and a multiple of the retention.
MIN_LOG_EXPIRY_SECS = 3600.0
LOG_EXPIRY_RETENTIONS = 4

# A channel whose `receive` was cancelled is kept this long, for whoever calls it again.
LINGER_SECS = 5.0

# Logs remembered that were posted to; one costs about 600 bytes.
MAX_LOGS = 20_000


class _Msgpack(BaseMessageSerializer):
    """channels_redis' default format, written and read by msgspec."""

    as_bytes = staticmethod(msgspec.msgpack.Encoder().encode)
    from_bytes = staticmethod(msgspec.msgpack.Decoder().decode)


class RedisLayer(BaseChannelLayer):
    """The layer, as CHANNEL_LAYERS names it."""

    extensions: Sequence[str] = ("groups", "flush", "log")

    def __init__(
        self,
        hosts: Sequence[Any] | None = None,
        prefix: str = "asgi",
        symmetric_encryption_keys: Sequence[str] | None = None,
        serializer_format: str = "msgpack",
        *,
        expiry: float = EXPIRY_SECS,
        patience_secs: float = PATIENCE_SECS,
        max_posted_messages: int = MAX_POSTED_MESSAGES,
        max_posted_bytes: int = MAX_POSTED_BYTES,
        capacity: int = CAPACITY,
        retention_secs: float = RETENTION_SECS,
        max_log_bytes: int = MAX_LOG_BYTES,
    ) -> None:
        super().__init__(capacity=capacity, expiry=expiry)
        self.prefix = prefix
        self.patience_secs = patience_secs
        self.max_posted = (max_posted_messages, max_posted_bytes)
        self.retention_secs, self.max_log_bytes = retention_secs, max_log_bytes
        self.log_expiry_secs = max(LOG_EXPIRY_RETENTIONS * retention_secs, MIN_LOG_EXPIRY_SECS)
        self._hosts = decode_hosts(hosts)
        if serializer_format == "msgpack":
            serializer = _Msgpack(symmetric_encryption_keys=symmetric_encryption_keys)
        else:
            serializer = registry.get_serializer(serializer_format, symmetric_encryption_keys=symmetric_encryption_keys)
        plain = isinstance(serializer, _Msgpack) and serializer.crypter is None
        self._encode: Callable[[Message], bytes] = serializer.as_bytes if plain else serializer.serialize
        self._decode: Callable[[bytes], Any] = serializer.from_bytes if plain else serializer.deserialize
        self._loops: dict[asyncio.AbstractEventLoop, _OnLoop] = {}
        self._closed_with: WeakSet[asyncio.AbstractEventLoop] = WeakSet()

    # Appending

    def post(self, group: str, message: Message) -> asyncio.Future[Position]:
        """Append a message to a group's log, without waiting.

        The future is done with the entry's position once Redis has it. It fails with LayerFull; with LayerAway, when
        the entry is not in the log and never will be; or with LayerInDoubt, whose `outcome` tells later. It fails
        within about a second of the moment when Redis went; one that nobody waits for fails in silence. Calls are
        sent and completed in their order.
        """
        here = self._loops.get(asyncio.get_running_loop()) or self._here()
        appender, log = here.logs.get(group) or here.log(group)
        return appender.append(log, self._packed(message))

    async def group_send(self, group: str, message: Message) -> None:
        """Send a message to a group; when this returns Redis has it. Raises what `post` fails with."""
        await self.post(group, message)

    async def send(self, channel: str, message: Message) -> None:
        """Send a message to a channel; when this returns Redis has it. Raises what `post` fails with."""
        self.require_valid_channel_name(channel)
        here = self._here()
        appender, log = here.channel_log(channel)
        await appender.append(log, self._packed(message), channel.encode())

    def execute(self, key: str, *command: Argument | Key) -> asyncio.Future[Any]:
        """Have a command about one key executed, in the same pipeline as posts, in order.

        `key` is a name without the prefix; in the command KEY stands where the key stands. The future is done with
        what Redis answers (bytes, integers, None, lists of such). It fails with redis.exceptions.ResponseError; with
        LayerFull; and with LayerAway, after which the command may have been executed all the same, though not behind
        whatever is asked later.
        """
        full = f"{self.prefix}:{key}".encode()
        packed = pack(*[full if part is KEY else part for part in command])
        return self._here().appender(full).execute(packed)

    def _packed(self, message: Message) -> bytes:
        if not isinstance(message, dict):
            raise TypeError("A message is a dictionary.")
        return self._encode(message)

    # Channels

    async def new_channel(self, prefix: str = "specific.") -> str:
        """Make a channel of this process; what is sent to it arrives. Does not need Redis."""
        here = self._here()
        channel = f"{prefix}{here.name}!{uuid.uuid4().hex}"
        self.require_valid_channel_name(channel)
        here.make(channel)
        return channel

    async def receive(self, channel: str) -> Any:
        """The next message of a channel. One that is not there is made."""
        here = self._here()
        mailbox = here.mailboxes.get(channel)
        if mailbox is None:
            self.require_valid_channel_name(channel)
            mailbox = here.make(channel)
        here.stay(mailbox)
        mailbox.readers += 1
        leaves = True
        try:
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
        on_entry: OnEntry,
        on_line: Callable[[bool], None],
        on_gap: Callable[[str], None],
    ) -> Callable[[], None]:
        """Have what comes for a channel handed over as it comes, in place of `receive`.

        `on_entry(group, position, message)` is called with each entry, in the log's order for each group; of a
        message to the channel itself `group` is the channel. `on_line(False)` says that a connection to read by is
        lost, or is not there now; `on_line(True)` that reading goes on, from where it was. `on_gap(group)` says that
        entries may be missing before the next one of this group: Redis has forgotten them, or the log was trimmed
        before they were read. All are plain calls. Gives a function that ends it, and the channel with it.
        """
        here = self._here()
        mailbox = here.mailbox(channel)
        here.stay(mailbox)
        mailbox.listen(on_entry, on_line, on_gap)
        if here.is_down:
            mailbox.tell(False)
        return lambda: here.leave(mailbox)

    # Groups

    async def group_add(self, group: str, channel: str, *, after: Position | None = None) -> Position:
        """Add a channel of this process to a group.

        From when this returns, entries behind the returned position come to the channel: `after`, or where the log
        ended just now. With a position in the past, entries are read again. Without one Redis is asked; raises
        LayerAway.
        """
        self.require_valid_group_name(group)
        here = self._here()
        mailbox = here.mailbox(channel)
        if after is None:
            return await here.join_at_end(group, mailbox)
        here.join(group, mailbox, after)
        return after

    async def group_discard(self, group: str, channel: str) -> None:
        """Take a channel out of a group, if it is in it. Does not wait."""
        self.require_valid_group_name(group)
        here = self._here()
        mailbox = here.mailboxes.get(channel)
        if mailbox is not None:
            here.part(group, mailbox)

    async def read(
        self,
        group: str,
        after: Position,
        upto: Position | None = None,
        *,
        count: int = 1000,
        including: bool = False,
        checked: bool = True,
    ) -> list[tuple[Position, Message]]:
        """Read up to `count` entries behind `after`, up to and including `upto`, with their positions.

        `after` is the position of an entry, or 0 for all that the log has; with `including` the entry at `after` is
        read too, as one more. Fewer than `count` are all there are. Raises LayerAway; and LogTrimmed when the entry
        at `after` is not in the log any more, so that others behind it may be missing. Not `checked`, any position
        will do, and what was trimmed is left out.
        """
        appender, log = self._here().log(group)
        messages: list[tuple[Position, Message]] = []
        end = b"+" if upto is None else id_of(upto)
        if after:
            # The entry at `after` is read too, to see that it is there.
            start, asked, is_checked = id_of(after), count + 1, checked and (upto is None or upto >= after)
        else:
            start, asked, is_checked = b"-", count, False
        while True:
            entries, is_all = await _answer(appender.read(log.key, start, end, asked))
            if is_checked and (not entries or entries[0][0] != start):
                raise LogTrimmed(f"The log of {group!r} does not reach back to {after}.")
            messages += self._messages(entries, after - 1 if including else after)
            if is_all or len(messages) >= count:
                return messages
            start, asked, is_checked = b"(" + entries[-1][0], count - len(messages), False

    def _messages(self, entries: Sequence[RawEntry], after: Position) -> list[tuple[Position, Message]]:
        messages = []
        for entry_id, fields in entries:
            position = position_of(entry_id)
            if position > after and fields[0] == b"m":
                try:
                    messages.append((position, self._decode(fields[1])))
                except Exception as problem:
                    logger.warning("Passed over a message on the channel layer that cannot be read: %s", problem)
        return messages

    # Coming and going

    async def requirements(self) -> list[str]:
        """Connect to each Redis and look for what this layer needs and that Redis lacks: sentences for an operator.

        Empty where nothing is missing. Raises LayerAway, which says why a Redis cannot be used at all. The layer itself
        is not touched; each Redis is given `patience_secs`.
        """
        return [
            complaint
            for settings in self._hosts
            for complaint in await lacks(Host(settings, self.patience_secs), self.prefix)
        ]

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
        self._layer, self._decode = layer, decode
        # In the names of channels, and of streams that nobody else reads.
        self.name = uuid.uuid4().hex
        self._hosts = [Host(host, layer.patience_secs) for host in hosts]
        self._appenders = [Appender(host, *layer.max_posted) for host in self._hosts]
        self._trimmers = [Trimmer(each, layer.max_log_bytes) for each in self._appenders]
        self._readers = [self._reader(index) for index in range(len(hosts))]
        self.mailboxes: dict[str, Mailbox] = {}
        self.logs: dict[str, tuple[Appender, Log]] = {}
        self._channel_logs: dict[bytes, tuple[Appender, Log]] = {}
        # By the key of the log.
        self._subscriptions: dict[bytes, Subscription] = {}
        self._keep_secs = min(layer.retention_secs, layer.log_expiry_secs / 4)
        self._keeping = self._loop.call_later(self._keep_secs, self._keep)

    def _reader(self, index: int) -> Reader:
        key = f"{self._layer.prefix}:wake:{self.name}".encode()
        appender = self._appenders[index]
        wake = pack("XADD", key, "MAXLEN", "~", 1, "*", "n", "1")
        expire = pack("PEXPIRE", key, round(EXPIRY_SECS * 1000))

        def on_wanted() -> None:
            if appender.wire is not None:
                appender.ask(wake)
                appender.ask(expire)

        return Reader(self._hosts[index], key, on_wanted, self._line)

    # Names

    def appender(self, key: bytes) -> Appender:
        """The one whose host a key belongs to."""
        return self._appenders[self._index(key)]

    def _index(self, key: bytes) -> int:
        return _consistent_hash(key, len(self._hosts))

    def log(self, group: str) -> tuple[Appender, Log]:
        """How to append to a group."""
        found = self.logs.get(group)
        if found is None:
            _NAMES.require_valid_group_name(group)
            if len(self.logs) >= MAX_LOGS:
                self.logs.clear()
            key = self._group_key(group)
            found = self.logs[group] = (self.appender(key), self._log(key, self._layer.retention_secs))
        return found

    def channel_log(self, channel: str) -> tuple[Appender, Log]:
        """How to append for a channel."""
        key = self._channel_key(channel)
        found = self._channel_logs.get(key)
        if found is None:
            if len(self._channel_logs) >= MAX_LOGS:
                self._channel_logs.clear()
            found = self._channel_logs[key] = (self.appender(key), self._log(key, self._layer.expiry))
        return found

    def _log(self, key: bytes, retention_secs: float) -> Log:
        return Log(key, round(retention_secs * 1000), round(self._layer.log_expiry_secs * 1000))

    def _group_key(self, group: str) -> bytes:
        return f"{self._layer.prefix}:log:{group}".encode()

    def _channel_key(self, channel: str) -> bytes:
        # All channels of one process share a stream.
        process, local, _ = channel.partition("!")
        return f"{self._layer.prefix}:channel:{process}{local}".encode()

    # Channels and groups

    def mailbox(self, channel: str) -> Mailbox:
        """The mailbox of a channel that has to be there."""
        mailbox = self.mailboxes.get(channel)
        if mailbox is None:
            raise RuntimeError(f"There is no channel {channel!r} in this process. Get one from new_channel().")
        return mailbox

    def make(self, channel: str) -> Mailbox:
        """Make a channel; what is sent to it arrives."""
        mailbox = self.mailboxes[channel] = Mailbox(channel, self._decode, self._layer.capacity, MAX_CHANNEL_BYTES)
        key = self._channel_key(channel)
        inbox = self._subscriptions.get(key)
        if inbox is None:
            inbox = Inbox(channel, key, 0) if "!" in channel else SharedInbox(channel, key, self.appender(key))
            self._follow(inbox)
        member = inbox.members[channel] = Member(mailbox)
        member.position = 0
        return mailbox

    async def join_at_end(self, group: str, mailbox: Mailbox) -> Position:
        """Put a channel into a group where its log ends. If it is taken out meanwhile, it stays out."""
        member = mailbox.groups.get(group)
        if member is None:
            member = mailbox.groups[group] = Member(mailbox)
        member.adds += 1
        try:
            position = await self._end(group)
            if mailbox.groups.get(group) is member and member.position is None:
                self.join(group, mailbox, position)
            return position
        finally:
            member.adds -= 1
            if member.position is None and not member.adds and mailbox.groups.get(group) is member:
                del mailbox.groups[group]

    async def _end(self, group: str) -> Position:
        """The position of the last entry of a group's log, which is begun if it is empty."""
        appender, log = self.log(group)
        last = await _answer(appender.execute(pack("XREVRANGE", log.key, "+", "-", "COUNT", 1)))
        if last:
            return position_of(last[0][0])
        begun = appender.execute(pack("XADD", log.key, "*", "n", "1"))
        appender.ask(pack("PEXPIRE", log.key, log.expiry_ms))
        return position_of(await _answer(begun))

    def join(self, group: str, mailbox: Mailbox, after: Position) -> None:
        """Put a channel into a group from a position on."""
        member = mailbox.groups.get(group)
        if member is None:
            member = mailbox.groups[group] = Member(mailbox)
        member.position = after
        key = self._group_key(group)
        subscription = self._subscriptions.get(key)
        if subscription is None:
            subscription = Subscription(group, key, after)
            subscription.members[mailbox.channel] = member
            self._follow(subscription)
            return
        subscription.members[mailbox.channel] = member
        if after < position_of(subscription.cursor.entry_id):
            self._readers[self._index(key)].rewind(subscription.cursor, after)

    def _follow(self, subscription: Subscription) -> None:
        key = subscription.cursor.key
        self._subscriptions[key] = subscription
        self._readers[self._index(key)].add(subscription.cursor)

    def part(self, group: str, mailbox: Mailbox) -> None:
        """Take a channel out of a group."""
        member = mailbox.groups.pop(group, None)
        if member is not None:
            # Nothing more, also of what is being handed over.
            member.position = None
            self._drop(self._group_key(group), mailbox)

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
        mailbox.close()
        if self.mailboxes.get(mailbox.channel) is not mailbox:
            return
        del self.mailboxes[mailbox.channel]
        for group in list(mailbox.groups):
            self.part(group, mailbox)
        self._drop(self._channel_key(mailbox.channel), mailbox)

    def _drop(self, key: bytes, mailbox: Mailbox) -> None:
        subscription = self._subscriptions.get(key)
        if subscription is None:
            return
        subscription.members.pop(mailbox.channel, None)
        if not subscription.members:
            del self._subscriptions[key]
            self._readers[self._index(key)].drop(subscription.cursor)

    # Connections

    @property
    def is_down(self) -> bool:
        """Whether a connection to read by is lost."""
        return any(reader.is_down for reader in self._readers)

    def _line(self, up: bool) -> None:
        # Several hosts are one line: it is up when all are, and down from the first that goes to the last that comes.
        down = sum(reader.is_down for reader in self._readers)
        if down != (0 if up else 1):
            return
        for mailbox in list(self.mailboxes.values()):
            mailbox.tell(up)

    def _keep(self) -> None:
        """See to it that logs that are only read here are trimmed, and do not expire."""
        self._keeping = self._loop.call_later(self._keep_secs, self._keep)
        for subscription in self._subscriptions.values():
            if not isinstance(subscription, Inbox):
                appender, log = self.log(subscription.name)
                appender.touch(log)

    async def close(self) -> None:
        """Close all connections."""
        self._keeping.cancel()
        for mailbox in self.mailboxes.values():
            self.stay(mailbox)
        await asyncio.gather(*(trimmer.close() for trimmer in self._trimmers))
        await asyncio.gather(*(link.close() for link in (*self._appenders, *self._readers)))
        for host in self._hosts:
            await host.close()


async def _answer(future: Awaitable[Any]) -> Any:
    """What Redis answers; it is away if it refuses."""
    try:
        return await future
    except ResponseError as problem:
        raise LayerAway(f"Redis refused: {problem}") from problem


_NAMES = BaseChannelLayer()


def _close_with(loop: asyncio.AbstractEventLoop, layer: RedisLayer) -> None:
    """Have what the layer has on a loop closed just before the loop is."""
    close = loop.close

    def close_both(self: asyncio.AbstractEventLoop) -> None:
        loop.close = close  # type: ignore[method-assign]
        if loop in layer._loops and not loop.is_running():
            loop.run_until_complete(layer.flush())
        loop.close()

    loop.close = types.MethodType(close_both, loop)  # type: ignore[method-assign]
