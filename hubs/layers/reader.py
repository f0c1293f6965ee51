"""Reading: one connection per host follows all the logs that are wanted there, from a cursor in each.

**Plain reads.** One `XREAD BLOCK` is always under way. It is answered as soon as one of its streams has an entry behind
its cursor, or with nothing after a while, which is also the sign of life of the connection. The next one is written
as soon as a reply has been parsed, before its entries are handed over, so Redis works on it meanwhile. A cursor
moves as entries are parsed. So when the connection is lost nothing is missed and nothing comes twice: the next
connection reads on from the cursors.

**Checked reads.** Redis may have lost entries: it was restarted and had kept nothing, the replica that took over had
not got the last of them, or the log was trimmed past a reader that was slow or away. A plain read would not tell.
The entry at a cursor is in its log as long as nothing behind it was trimmed (trimming.py). So a checked read looks for
it right after an XREAD that does not block: what is there then was there before. (A transaction would not do: a
Redis that is out of memory executes none.) All cursors are checked when a connection was made and when this process
stood still for a while; a single one when it was set by somebody, or when the last reply had not all that
there was. Otherwise a read has found all there was, and so little time passes until the next one that nothing can
have been appended and trimmed since: entries that are younger than SETTLED_MS are not.

**Changes.** A cursor that is added, or moved back, while a read blocks would have to wait for its end. So Redis is
asked to append an entry to a stream of this reader's own, which every read includes.

A reply may be for a cursor that was moved or removed after the read was written. What it has for it is passed over,
and read again from where the cursor is now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from hubs.layers.commands import bulk, pack
from hubs.layers.errors import LayerAway
from hubs.layers.link import Link
from hubs.layers.positions import Position, id_of
from hubs.layers.wire import BEATS, Host

logger = logging.getLogger(__name__)

# Of one stream in one reply, and about so many bytes in one reply, by what the last one had. Redis drops a connection
# that it owes more than its operator allows.
MAX_ENTRIES = 256
REPLY_BYTES = 512 * 1024
# As long as nothing is known of their size.
FIRST_ENTRIES = 32

# A reply that was handled so much later than its read was to end at the latest: this process stood still.
STALL_SECS = 0.5

# An entry as Redis gives it: its id, and the names and values of its fields in turn.
RawEntry = tuple[bytes, Sequence[bytes]]


class Cursor:
    """How far one stream has been read."""

    __slots__ = ("entry_id", "id_bulk", "is_moved", "is_unsure", "key", "key_bulk", "on_entries", "on_gap")

    def __init__(
        self,
        key: bytes,
        position: Position,
        on_entries: Callable[[Sequence[RawEntry]], None],
        on_gap: Callable[[Sequence[RawEntry]], None],
    ) -> None:
        """`on_gap` is called before `on_entries`, with the same entries, when some may be missing before them."""
        self.key, self.key_bulk = key, bulk(key)
        self.on_entries, self.on_gap = on_entries, on_gap
        # Moved since the read that is under way was written.
        self.is_moved = False
        # To be checked by the next read.
        self.is_unsure = True
        self.move(id_of(position))

    def move(self, entry_id: bytes) -> None:
        """Set it to an entry's id."""
        self.entry_id, self.id_bulk = entry_id, bulk(entry_id)


class Reader(Link):
    """Follows the logs of one host."""

    purpose = "to read"

    def __init__(
        self, host: Host, wake_key: bytes, on_wanted: Callable[[], None], on_line: Callable[[bool], None]
    ) -> None:
        """`on_wanted` has to append to the stream `wake_key`, if it can."""
        super().__init__(host)
        self._loop = asyncio.get_running_loop()
        self._on_wanted, self._on_line = on_wanted, on_line
        self._block_ms = max(1, round(host.patience_secs * 1000 / BEATS))
        self._wake = Cursor(wake_key, 0, _pass_over, _pass_over)
        self._cursors: dict[bytes, Cursor] = {wake_key: self._wake}
        # The read under way: its cursors by their keys, which of them it checks, since when, and what has come of it.
        self._read: dict[bytes, Cursor] = {}
        self._checked: list[Cursor] = []
        self._written_at = 0.0
        self._replies: list[Any] = []
        self._received = 0
        # The beginning of a plain read, up to the ids; and how much of each stream it asks for.
        self._plain_head = b""
        self._max_entries = FIRST_ENTRIES
        # Whether other cursors are wanted than the last read had, or any is unsure.
        self._is_other, self._is_unsure = True, True
        self._is_woken = False
        # Told that the line is down, and not yet that it is there again.
        self.is_down = False

    def add(self, cursor: Cursor) -> None:
        """Follow a stream from now on."""
        self._cursors[cursor.key] = cursor
        self._is_other = self._is_unsure = True
        self._changed()

    def rewind(self, cursor: Cursor, position: Position) -> None:
        """Read again from a position."""
        cursor.move(id_of(position))
        cursor.is_moved = cursor.is_unsure = self._is_unsure = True
        self._changed()

    def drop(self, cursor: Cursor) -> None:
        """Follow a stream no more."""
        if self._cursors.get(cursor.key) is cursor:
            del self._cursors[cursor.key]
            self._is_other = True

    def _changed(self) -> None:
        self.need()
        if self.wire is not None and not self._is_woken:
            self._is_woken = True
            self._on_wanted()

    def _read_on(self) -> None:
        """Write the next read."""
        if self.wire is None:
            return
        if self._is_other:
            self._is_other = False
            self._read = dict(self._cursors)
            self._plain_head = b""
        ids = b"".join([cursor.id_bulk for cursor in self._read.values()])
        if self._is_unsure:
            self._write_checked(ids)
        else:
            self._checked = []
            if not self._plain_head:
                self._plain_head = self._head(b"$5\r\nBLOCK\r\n" + bulk(b"%d" % self._block_ms), 2)
            self.wire.write(self._plain_head + ids)
        self._is_woken = False
        self._received = self.wire.received
        self._written_at = time.monotonic()

    def _write_checked(self, ids: bytes) -> None:
        # A cursor at the very beginning has nothing that could be missing.
        cursors = self._read.values()
        self._checked = [cursor for cursor in cursors if cursor.is_unsure and cursor.entry_id != b"0-0"]
        if self.wire is not None:
            looks = [pack("XREVRANGE", each.key, each.entry_id, "-", "COUNT", 1) for each in self._checked]
            self.wire.write(b"".join([self._head(b"", 0), ids, *looks]))
        self._is_unsure = False
        for cursor in cursors:
            cursor.is_moved = cursor.is_unsure = False

    def _head(self, options: bytes, count: int) -> bytes:
        """An XREAD of all that is wanted, up to the ids."""
        keys = b"".join([cursor.key_bulk for cursor in self._read.values()])
        return b"*%d\r\n$5\r\nXREAD\r\n%b$5\r\nCOUNT\r\n%b$7\r\nSTREAMS\r\n%b" % (
            2 * len(self._read) + 4 + count,
            options,
            bulk(b"%d" % self._max_entries),
            keys,
        )

    def _replied(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, Exception):
                if self.wire is not None:
                    self.wire.lose(LayerAway(f"Redis refused to be read: {reply}"))
                return
        self._replies += replies
        expected = 1 + len(self._checked)
        if len(self._replies) < expected or self.wire is None:
            return
        (answer, *looks), self._replies = self._replies, []
        if len(looks) > len(self._checked) or not isinstance(answer, list | None):
            self.wire.lose(LayerAway("Redis answered what it was not asked."))
            return
        self._take(answer, looks)

    def _take(self, answer: list[Any] | None, looks: list[Any]) -> None:
        cursors, current = self._read, self._cursors
        lost: list[Cursor] = []
        for cursor, found in zip(self._checked, looks, strict=True):
            if cursor.is_moved or current.get(cursor.key) is not cursor:
                continue
            if not found or found[0][0] != cursor.entry_id:
                lost.append(cursor)
                # To what is left of what was read. If Redis has forgotten it all, whatever it has now is new.
                cursor.move(found[0][0] if found else b"0-0")
        came: dict[Cursor, list[RawEntry]] = {}
        count = 0
        for key, entries in answer or ():
            cursor = cursors[key]
            if not cursor.is_moved and current.get(key) is cursor:
                came[cursor] = entries
                cursor.move(entries[-1][0])
                if len(entries) >= self._max_entries:
                    # There may be more, and until it is read it may be trimmed.
                    cursor.is_unsure = self._is_unsure = True
                count += len(entries)
        if count and self.wire is not None:
            self._pace((self.wire.received - self._received) // count * len(came))
        if time.monotonic() - self._written_at > self._block_ms / 1000 + STALL_SECS:
            self._doubt_all()
        self._read_on()
        self._stands_again()
        for cursor in lost:
            self._hand_over(cursor, cursor.on_gap, came.get(cursor, ()))
        for cursor, entries in came.items():
            self._hand_over(cursor, cursor.on_entries, entries)

    def _hand_over(self, cursor: Cursor, to: Callable[[Sequence[RawEntry]], None], entries: Sequence[RawEntry]) -> None:
        # Whoever was handed entries just now may have changed what is wanted.
        if cursor.is_moved or self._cursors.get(cursor.key) is not cursor:
            return
        try:
            to(entries)
        except Exception:
            logger.exception("Entries of %s could not be handled", cursor.key.decode())

    def _pace(self, row_bytes: int) -> None:
        """Ask for as many entries as a reply should have, by the size of one of each stream that came."""
        most = min(MAX_ENTRIES, 2 * self._max_entries)
        while most > 1 and most * row_bytes > REPLY_BYTES:
            most //= 2
        if most != self._max_entries:
            self._max_entries, self._plain_head = most, b""

    def _doubt_all(self) -> None:
        self._is_unsure = True
        for cursor in self._cursors.values():
            cursor.is_unsure = True

    def _stands_again(self) -> None:
        if self.away is not None:
            self._stands()
        if self.is_down:
            self.is_down = False
            self._on_line(True)

    def _ping(self) -> None:
        """Nothing is asked: the read under way is answered soon, by its time limit if by nothing else."""

    def _came_up(self) -> None:
        self._replies = []
        self._doubt_all()
        self._read_on()

    def _went_away(self) -> None:
        # Redis hangs up on whom it owes more than its operator allows, and would do so again at the same reply.
        self._max_entries, self._plain_head = max(1, self._max_entries // 2), b""
        if not self.is_down and not self._closed:
            self.is_down = True
            self._on_line(False)


def _pass_over(entries: Sequence[RawEntry]) -> None:
    pass
