"""Whom the entries of a stream are for: a group's members, or the channels that messages are sent to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hubs.layers.appender import Appender
from hubs.layers.commands import pack
from hubs.layers.mailbox import Member
from hubs.layers.positions import Position, position_of
from hubs.layers.reader import Cursor, RawEntry


class Subscription:
    """A log that is read here, and for whom."""

    def __init__(self, name: str, key: bytes, position: Position) -> None:
        self.name = name
        # By channel.
        self.members: dict[str, Member] = {}
        self.cursor = Cursor(key, position, self.take, self.miss)

    def take(self, entries: Sequence[RawEntry]) -> None:
        """Hand over entries of a group's log."""
        members = list(self.members.values())
        name = self.name
        for entry_id, fields in entries:
            if fields[0] != b"m":
                # The beginning of a log.
                continue
            try:
                position = position_of(entry_id)
            except OverflowError:
                for member in members:
                    member.mailbox.tell_of_gap(name)
                continue
            for member in members:
                at = member.position
                if at is not None and at < position:
                    member.position = position
                    member.mailbox.take(name, position, fields[1])

    def miss(self, entries: Sequence[RawEntry]) -> None:
        """Say to all members that have not got further than these entries that some may be missing."""
        first = position_of(entries[0][0]) if entries else None
        # Where the cursor was set back to, as there is nothing behind it.
        left = None if entries else position_of(self.cursor.entry_id)
        for member in list(self.members.values()):
            if member.position is None or (first is not None and member.position >= first):
                continue
            if left is not None:
                member.position = min(member.position, left)
            member.mailbox.tell_of_gap(self.name)


class Inbox(Subscription):
    """The stream of what is sent to channels: to all those of this process with one prefix."""

    def take(self, entries: Sequence[RawEntry]) -> None:
        """Hand over messages, each to its channel."""
        for entry_id, fields in entries:
            self._give(entry_id, fields)

    def _give(self, entry_id: bytes, fields: Sequence[bytes]) -> None:
        if len(fields) < 6 or fields[4] != b"c":
            return
        member = self.members.get(fields[5].decode(errors="replace"))
        if member is not None:
            member.mailbox.take(member.mailbox.channel, position_of(entry_id), fields[1])

    def miss(self, entries: Sequence[RawEntry]) -> None:
        """Say to all channels that messages may be missing."""
        for member in list(self.members.values()):
            member.mailbox.tell_of_gap(member.mailbox.channel)


class SharedInbox(Inbox):
    """The stream of a channel that many processes receive. Each message is for the one that deletes it."""

    def __init__(self, channel: str, key: bytes, appender: Appender) -> None:
        super().__init__(channel, key, 0)
        self._appender = appender

    def take(self, entries: Sequence[RawEntry]) -> None:
        """Take what nobody else has taken."""
        for entry_id, fields in entries:

            def deleted(future: asyncio.Future[Any], entry_id: bytes = entry_id, fields: Any = fields) -> None:
                if not future.cancelled() and future.exception() is None and future.result() == 1:
                    self._give(entry_id, fields)

            self._appender.ask(pack("XDEL", self.cursor.key, entry_id)).add_done_callback(deleted)

    def miss(self, entries: Sequence[RawEntry]) -> None:
        """Entries are missing when somebody has taken them."""
