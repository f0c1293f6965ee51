"""What a reliable client has not acknowledged yet.

Every data frame for the client gets the next sequence id when it is handed to a socket, and is kept
until the client acknowledges it. While the client is away frames wait without an id: one that may
not wait that long is left out when the client comes back, and the ids have no gap all the same.

Frames are kept as their codec wrote them for everybody, without the id; so clients of one format
share their bytes, and an id is added when a frame is sent, again and again if need be. Those with an
id have ids without a gap, so only the last is written down.

Pure: the caller brings the time (monotonic seconds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from hubs.connections import eviction
from hubs.protocols.codec import Batch, Message, Sized, size_of

# A frame on its way to another process: form, and how long it may wait from now on (None: for as long as it takes).
Packed = tuple[Message, float | None]


class BacklogFull(Exception):
    """More is unacknowledged than a client may leave so."""


class Backlog:
    """The unacknowledged frames of one connection, at most `max_messages` of `max_bytes` together."""

    __slots__ = ("_acknowledged_at", "_bytes", "_last", "_max_bytes", "_max_messages", "_newest", "_sent", "_waiting")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        # When the client acknowledged anything last.
        self._acknowledged_at: float | None = None
        # The sequence id given last, and the number of the newest frame: those that wait are counted on from there,
        # and keep their numbers among themselves when one is left out.
        self._last = self._newest = 0
        # In order of their ids, the last of which is `_last`; and (number, form, when it is too late for it or None).
        self._sent: deque[Sized] = deque()
        # None while nothing waits, which is so while the client is there.
        self._waiting: deque[tuple[int, Message, float | None]] | None = None

    def __len__(self) -> int:
        return len(self._sent) + len(self._waiting or ())

    @property
    def last(self) -> int:
        """The sequence id given last."""
        return self._last

    def send(self, form: Message) -> int:
        """Keep a frame that goes to the socket now; gives its sequence id. Raises BacklogFull."""
        return self.send_sized((form, size_of(form)))

    def send_sized(self, sized: Sized) -> int:
        """As `send`, for a frame that many get and that was measured once."""
        size = self._bytes + sized[1]
        sent = self._sent
        # Nothing waits while there is a socket; the bound holds all the same.
        count = len(sent) if self._waiting is None else len(self)
        if size > self._max_bytes or count >= self._max_messages:
            raise BacklogFull
        self._bytes = size
        sent.append(sized)
        self._last = self._newest = last = self._last + 1
        return last

    def send_all(self, batch: Batch) -> int | None:
        """As `send` for several; gives the first one's id. None if they do not all fit: then none is kept."""
        size, sent, new = self._bytes + batch.bytes, self._sent, batch.sized
        # Nothing waits while there is a socket; the bound holds all the same.
        count = len(new) + (len(sent) if self._waiting is None else len(self))
        if size > self._max_bytes or count > self._max_messages:
            return None
        self._bytes = size
        sent.extend(new)
        before = self._last
        self._last = self._newest = before + len(new)
        return before + 1

    def hold(self, form: Message, ttl_secs: float | None, now: float) -> None:
        """Keep a frame for a client that is away. Raises BacklogFull."""
        if len(self) >= self._max_messages or self._bytes + size_of(form) > self._max_bytes:
            self._drop_late(now)
        size = size_of(form)
        if len(self) >= self._max_messages or self._bytes + size > self._max_bytes:
            raise BacklogFull
        self._bytes += size
        self._wait(form, ttl_secs, now)

    def overflow(self, now: float) -> tuple[str, str]:
        """Why a frame was not taken, and what is there, for the log (eviction.py)."""
        setting = "RELIABLE_BUFFER_MESSAGES" if len(self) >= self._max_messages else "RELIABLE_BUFFER_BYTES"
        last = "no acknowledgement yet"
        if self._acknowledged_at is not None:
            last = f"last acknowledgement {now - self._acknowledged_at:.1f} s ago"
        return eviction.exceeded(setting), f"{len(self):,} messages, {self._bytes:,} bytes, {last}"

    def acknowledge(self, sequence_id: int, now: float) -> None:
        """Everything up to this id has arrived; ids that were never given are taken as the last one."""
        self._acknowledged_at = now
        for _ in range(len(self._sent) - max(0, self._last - sequence_id)):
            self._bytes -= self._sent.popleft()[1]

    def replay(self, now: float) -> Iterator[tuple[int, Message]]:
        """All that the client is to get when it is back: sequence ids and forms, in order."""
        self._drop_late(now)
        for _, form, _ in self._waiting or ():
            self._last = self._newest = self._last + 1
            self._sent.append((form, size_of(form)))
        self._waiting = None
        first = self._first
        for position, (form, _) in enumerate(self._sent):
            yield first + position, form

    # On the way to another process

    def packed(self, after: int, max_bytes: int, now: float) -> tuple[list[Packed], int]:
        """Frames behind number `after`, as many as `max_bytes` allow but at least one, and the last one's number.

        The next part begins there, whatever comes or is left out meanwhile; it is the last one when
        `newest` is reached.
        """
        frames: list[Packed] = []
        room = max_bytes
        for number, form, late_at in self._behind(after):
            room -= size_of(form)
            if frames and room < 0:
                return frames, after
            frames.append((form, None if late_at is None else max(0.0, late_at - now)))
            after = number
        return frames, self._newest

    def unpack(self, frames: list[Any], *, sent: int, last: int, now: float) -> None:
        """Take over another process's frames, of which the first `sent` had ids up to `last`."""
        self._last = self._newest = last
        for position, (form, ttl_secs) in enumerate(frames):
            self._bytes += size_of(form)
            if position < sent:
                self._sent.append((form, size_of(form)))
            else:
                self._wait(form, ttl_secs, now)

    @property
    def newest(self) -> int:
        """The number of the newest frame."""
        return self._newest

    @property
    def sent(self) -> int:
        """How many of the frames have an id."""
        return len(self._sent)

    def _behind(self, after: int) -> Iterator[tuple[int, Message, float | None]]:
        for number, (form, _) in enumerate(self._sent, self._first):
            if number > after:
                yield number, form, None
        for waiting in self._waiting or ():
            if waiting[0] > after:
                yield waiting

    @property
    def _first(self) -> int:
        """The id of the oldest frame that has one."""
        return self._last - len(self._sent) + 1

    def _wait(self, form: Message, ttl_secs: float | None, now: float) -> None:
        self._newest += 1
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append((self._newest, form, None if ttl_secs is None else now + ttl_secs))

    def _drop_late(self, now: float) -> None:
        if self._waiting is None:
            return
        kept = deque(waiting for waiting in self._waiting if waiting[2] is None or waiting[2] > now)
        self._bytes -= sum(size_of(form) for _, form, _ in self._waiting) - sum(size_of(form) for _, form, _ in kept)
        self._waiting = kept
