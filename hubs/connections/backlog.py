"""What a reliable client has not acknowledged yet.

A data frame for the client gets the next sequence id when it comes, whether the client is there or not, and is kept
until the client acknowledges it. So the n-th frame is the n-th entry of the hub's log that concerns the connection,
whichever process counts (connections/snapshots.py).

A frame may be too late for a client that was away. Those that no socket has had yet are left out then, and the ids of
those behind them move up, so that the client finds no gap (`late`, `skip`); the log says which they were.

Frames are kept as their codec wrote them for everybody, without the id; so clients of one format share their bytes, and
an id is added when a frame is sent, again and again if need be. Ids have no gap, so only the last is written down.
Where the log has places, that of each frame is kept, too.

Pure: the caller brings the time (monotonic seconds).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator

from hubs.connections import eviction
from hubs.protocols.codec import Batch, Message, Sized

# What is left of a frame that had to make room, as it was too late for it.
EXPIRED: Sized = ("", 0)

# What all backlogs without frames share, never added to: an empty deque takes three quarters of a KiB, and most of many
# connections have nothing unacknowledged most of the time.
NOTHING: deque[Sized] = deque(maxlen=0)


class Backlog:
    """The unacknowledged frames of one connection, at most `max_messages` of `max_bytes` together.

    It begins behind `last`, the id of the last frame that was acknowledged, and behind a place in the log.
    """

    __slots__ = (
        "_acknowledged_at",
        "_acknowledged_place",
        "_bytes",
        "_deadlines",
        "_expired",
        "_frames",
        "_last",
        "_max_bytes",
        "_max_messages",
        "_places",
        "_sent",
    )

    def __init__(self, max_messages: int, max_bytes: int, *, last: int = 0, sent: int = 0, place: int = 0) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._bytes = 0
        self._last = last
        # The id up to which a socket has had the frames.
        self._sent = max(last, sent)
        self._acknowledged_place = place
        # When the client acknowledged anything last.
        self._acknowledged_at: float | None = None
        # In order of their ids, the last of which is `_last`; so many of them are EXPIRED.
        self._frames = NOTHING
        self._expired = 0
        # Of the same frames, in the same order; None where the log has no places.
        self._places: deque[int] | None = None
        # By id, when it is too late for a frame; None while there is none of that kind.
        self._deadlines: dict[int, float] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def last(self) -> int:
        """The sequence id given last."""
        return self._last

    @property
    def sent(self) -> int:
        """The sequence id up to which a socket has had the frames."""
        return self._sent

    @property
    def acknowledged(self) -> tuple[int, int]:
        """Id of the frame that was acknowledged last, and the place behind which the others came."""
        return self._last - len(self._frames), self._acknowledged_place

    def arrived(self, place: int) -> None:
        """All that came up to a place in the log has been acknowledged, if there was anything."""
        self._acknowledged_place = place

    def bound(self, max_messages: int, max_bytes: int) -> None:
        """Take no more than this from now on; what is there stays."""
        self._max_messages, self._max_bytes = max_messages, max_bytes

    def put(self, batch: Batch, now: float, *, sent: bool) -> int | None:
        """Keep frames; gives the first one's id. None if they do not all fit: then none is kept.

        `sent`: a socket gets them now.
        """
        size, frames, new = self._bytes + batch.bytes, self._frames, batch.sized
        if size > self._max_bytes or len(frames) - self._expired + len(new) > self._max_messages:
            return self.put(batch, now, sent=sent) if self._drop_late(now) else None
        first = self._last + 1
        self._bytes = size
        if frames is NOTHING:
            frames = self._frames = deque()
        frames.extend(new)
        self._last += len(new)
        if sent:
            self._sent = self._last
        if batch.places:
            if self._places is None:
                self._places = deque()
            self._places.extend(batch.places)
        if batch.ttl_secs:
            if self._deadlines is None:
                self._deadlines = {}
            for index, ttl_secs in batch.ttl_secs.items():
                self._deadlines[first + index] = now + ttl_secs
        return first

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
        frames, places = self._frames, self._places
        arrived = len(frames) - max(0, self._last - sequence_id)
        if arrived > 0:
            gone = [frames.popleft() for _ in range(arrived)]
            self._bytes -= sum([sized[1] for sized in gone])
            if self._expired:
                self._expired -= sum(sized is EXPIRED for sized in gone)
            if places:
                self._acknowledged_place = [places.popleft() for _ in gone][-1]
            if not frames:
                self._frames, self._places = NOTHING, None
        acknowledged = self._last - len(frames)
        if self._sent < acknowledged:
            self._sent = acknowledged
        if self._deadlines is not None:
            self._deadlines = {number: at for number, at in self._deadlines.items() if number > acknowledged} or None

    def late(self, now: float) -> list[int]:
        """The ids of frames that it is too late for, and that no socket has had; in order."""
        return sorted(number for number, at in (self._deadlines or {}).items() if at <= now and number > self._sent)

    def places(self, numbers: Collection[int]) -> list[int]:
        """The places of frames in the log."""
        first, places = self._last - len(self._frames) + 1, self._places or ()
        return [places[number - first] for number in numbers]

    def numbers(self, places: Collection[int]) -> list[int]:
        """The ids of those frames that have one of these places."""
        first, wanted = self._last - len(self._frames) + 1, set(places)
        return [number for number, place in enumerate(self._places or (), first) if place in wanted]

    def skip(self, numbers: Collection[int]) -> None:
        """Leave frames out that no socket has had; the ids of those behind them move up."""
        skipped = set(numbers)
        first = self._last - len(self._frames) + 1
        places, deadlines = self._places, self._deadlines or {}
        kept = [number for number in range(first, self._last + 1) if number not in skipped]
        self._deadlines = {
            first + index: deadlines[number] for index, number in enumerate(kept) if number in deadlines
        } or None
        self._frames = deque(self._frames[number - first] for number in kept)
        if places:
            self._places = deque(places[number - first] for number in kept)
        self._bytes = sum(size for _, size in self._frames)
        self._expired = sum(sized is EXPIRED for sized in self._frames)
        self._last = first + len(kept) - 1

    def replay(self) -> Iterator[tuple[int, Message]]:
        """All that the client is to get when it is back, which a socket gets now: ids and forms, in order."""
        self.mark_sent()
        for number, sized in enumerate(self._frames, self._last - len(self._frames) + 1):
            if sized is not EXPIRED:
                yield number, sized[0]

    def mark_sent(self, number: int | None = None) -> None:
        """A socket has had the frames up to this one, or all of them."""
        self._sent = self._last if number is None else max(number, self._last - len(self._frames))

    def _drop_late(self, now: float) -> bool:
        """Have what it is too late for make room; tells whether it did."""
        first, room = self._last - len(self._frames) + 1, False
        for number in self.late(now):
            sized = self._frames[number - first]
            if sized is not EXPIRED:
                self._bytes -= sized[1]
                self._frames[number - first] = EXPIRED
                self._expired += 1
                room = True
        return room
