"""Snapshots of reliable connections, so that any process can go on with them.

A snapshot says how a connection was at a place in the log of its hub: the number of the frame that its client
acknowledged last, and its groups there. What it has besides (permissions, acks, the handlers' state) may be of a
little later. Whatever changed it since is in the log, and applying an entry twice is applying it once; so a snapshot
and the entries behind its place give the connection as it is, with the same frames under the same numbers
(`Rebuilt`).

An old snapshot is as right as a new one, it only leaves more of the log to be read. So they are written one after
the other, as often as a fixed rate allows, whatever happens to the connections; nothing need be noted to be written.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from hubs import conf, operations
from hubs.cluster.entries import (
    Begun,
    Change,
    Claim,
    Done,
    Ended,
    Entry,
    Gap,
    Parted,
    Publication,
    Publications,
    Skipped,
)
from hubs.connections.backlog import Backlog
from hubs.connections.connection import Connection
from hubs.layers.positions import ms_of
from hubs.node.node import CHANGES, Node, node
from hubs.node.ownership import Claims, Owner
from hubs.node.publishing import PLACE_BITS
from hubs.protocols.codec import CODECS, Outgoing
from hubs.rules.audiences import includes
from hubs.rules.roles import Permissions
from hubs.upstream.session import Session

# So many in a second, and none more often than this.
SNAPSHOTS_PER_SEC = 500
PERIOD_SECS = 1.0
TICK_SECS = 0.1

_LAST_PLACE = (1 << PLACE_BITS) - 1

# Also where nothing was published, for records expire.
MAX_AGE_SECS = 3600.0


def restored(record: Mapping[str, Any]) -> Connection:
    """The connection of a snapshot, without a socket, as it was at the snapshot's place."""
    subprotocol = record["subprotocol"]
    connection = Connection(
        record["id"],
        record["hub"],
        CODECS[subprotocol.lower()],
        None,
        user_id=record["user_id"],
        permissions=Permissions.unpacked(record["permissions"]),
        subprotocol=subprotocol,
        session=Session.unpacked(record["session"]),
        ack_pause_secs=record["ack_pause_secs"],
    )
    connection.groups.update(record["groups"])
    connection.acks.remember_all(record["acks"])
    for ack_id, process in record["begun"]:
        connection.event_begun(Begun(connection.id, ack_id), process)
    # Without bounds, until it is as it was: the snapshot may be old, and what its client has acknowledged since is told
    # by the process that had it, at the end of what is read.
    connection.backlog = Backlog(
        sys.maxsize,
        sys.maxsize,
        last=record["number"],
        sent=record["sent"] or 0,
        place=record["place"],
    )
    # As if they had been sent: a client drops what it has had, and nothing is left out that it may have acknowledged.
    connection.sent_unsure = record["sent"] is None
    return connection


class Rebuilt:
    """A connection that is made again from its snapshot and the entries behind it."""

    def __init__(self, record: Mapping[str, Any], claims: Claims, now_ms: int) -> None:
        self.connection = restored(record)
        self._place: int = record["place"]
        self._now_ms = now_ms
        # Why it cannot be had, if so.
        self.problem = ""
        self._claims = Claims(claims, self.after)
        self._claims.put(self.connection.id, Owner(*record["claimed"]))
        self.connection.claimed(*record["claimed"])

    @property
    def after(self) -> int:
        """The position behind which it needs the log."""
        return self._place >> PLACE_BITS

    @property
    def including(self) -> bool:
        """Whether it needs that entry too: there may be more in it behind the place."""
        return self._place & _LAST_PLACE != _LAST_PLACE

    def done(self) -> Connection:
        """The connection, when all that is behind its snapshot has been applied."""
        assert self.connection.backlog is not None  # noqa: S101 - only reliable ones have snapshots
        self.connection.backlog.bound(conf.settings.RELIABLE_BUFFER_MESSAGES, conf.settings.RELIABLE_BUFFER_BYTES)
        return self.connection

    def take(self, position: int, origin: str, entry: Entry) -> None:
        """Apply an entry of its hub's log."""
        self._claims.follow(position)
        take = self._TAKERS.get(type(entry))
        if take is not None:
            take(self, position, origin, entry)

    def _publications(self, position: int, origin: str, entry: Publications) -> None:
        place = position << PLACE_BITS
        for publication in entry.items:
            if publication.ack_id is None or self._claims.is_of(publication.sender, origin):
                if place > self._place and self._is_meant(publication):
                    self.connection.deliver(self._outgoing(publication, position, place))
                if publication.ack_id is not None and publication.sender == self.connection.id:
                    self.connection.published(publication.ack_id)
            place += 1

    def _outgoing(self, publication: Publication, position: int, place: int) -> Outgoing:
        ttl_secs = publication.ttl_secs
        if ttl_secs is not None:
            # Not nothing, which would be for ever.
            ttl_secs = ttl_secs - (self._now_ms - ms_of(position)) // 1000 or -1
        return Outgoing(publication.frame, ttl_secs=ttl_secs, place=place)

    def _is_meant(self, publication: Publication) -> bool:
        connection, audience = self.connection, publication.audience
        if audience.hub != connection.hub:
            return False
        if publication.connection is not None:
            return publication.connection == connection.id
        return includes(audience, connection)

    def _change(self, position: int, origin: str, change: Change) -> None:
        place = position << PLACE_BITS
        connection = self.connection
        if place > self._place and connection.id in change.connections and self._claims.is_of(connection.id, origin):
            CHANGES[change.verb](connection, change.arguments, place)
            if change.ack_id is not None:
                connection.published(change.ack_id)

    def _claim(self, position: int, origin: str, claim: Claim) -> None:
        # Where many are rebuilt at once, most of what each has to read is the claims of the others.
        if position << PLACE_BITS <= self._place or self._claims.is_known(claim.connection, position):
            return
        if self._claims.take(position, origin, claim) and claim.connection == self.connection.id:
            self.connection.claimed(*self._claims.owners[claim.connection][-1])
            if claim.of is None:
                # The socket that it was claimed for may have had all of them.
                self.connection.sent_unsure = True
                assert self.connection.backlog is not None  # noqa: S101 - only reliable ones have snapshots
                self.connection.backlog.mark_sent()

    def _skipped(self, position: int, origin: str, skipped: Skipped) -> None:
        connection_id = self.connection.id
        is_new = position << PLACE_BITS > self._place
        if is_new and skipped.connection == connection_id and self._claims.is_of(connection_id, origin):
            self.connection.skip([at << PLACE_BITS | which for at, which in skipped.frames])

    def _parted(self, position: int, origin: str, parted: Parted) -> None:
        if parted.connection == self.connection.id and position << PLACE_BITS > self._place:
            owner = self.connection.owner
            self.connection.parted(parted, just_now=owner is not None and owner[0] == operations.process())

    def _begun(self, position: int, origin: str, begun: Begun) -> None:
        if begun.connection == self.connection.id and self._claims.is_of(begun.connection, origin):
            self.connection.event_begun(begun, origin)

    def _done(self, position: int, origin: str, done: Done) -> None:
        if done.connection == self.connection.id and position << PLACE_BITS > self._place:
            self.connection.event_done(done, origin, position << PLACE_BITS)

    def _ended(self, position: int, origin: str, ended: Ended) -> None:
        # Also where another has claimed it meanwhile: who had it did not know yet, and has told that it ended.
        if ended.connection == self.connection.id and (
            self._claims.is_of(ended.connection, origin) or operations.lives(origin)
        ):
            self.problem = "It has ended."

    def _gap(self, position: int, origin: str, gap: Gap) -> None:
        if position << PLACE_BITS > self._place:
            self.problem = "Redis has lost a part of the log."

    _TAKERS: Mapping[type, Callable[[Any, int, str, Any], None]] = {
        Publications: _publications,
        Change: _change,
        Claim: _claim,
        Parted: _parted,
        Begun: _begun,
        Done: _done,
        Skipped: _skipped,
        Ended: _ended,
        Gap: _gap,
    }


class _Writer:
    """Writes the snapshots of one node."""

    def __init__(self, here: Node) -> None:
        self._node = here
        self._waiting: deque[Connection] = deque()
        self._next_round = 0.0
        asyncio.get_running_loop().call_later(TICK_SECS, self._tick)

    def _tick(self) -> None:
        here, loop = self._node, asyncio.get_running_loop()
        if here.stopped:
            return
        loop.call_later(TICK_SECS, self._tick)
        if here.log.is_away:
            return
        if not self._waiting and loop.time() >= self._next_round:
            self._next_round = loop.time() + PERIOD_SECS
            self._waiting.extend(
                member for member in here.members() if isinstance(member, Connection) and member.is_reliable
            )
        for _ in range(min(len(self._waiting), int(SNAPSHOTS_PER_SEC * TICK_SECS))):
            write(here, self._waiting.popleft())


_writers: WeakKeyDictionary[Node, _Writer] = WeakKeyDictionary()


def write(here: Node, connection: Connection) -> None:
    """Write the snapshot of a connection, if it is here and anything has happened in its hub."""
    if connection not in here or connection.closing_for_good:
        return
    now = asyncio.get_running_loop().time()
    place = here.place(connection.hub)
    written_place, written_at = connection.written
    if place == written_place and now - written_at < MAX_AGE_SECS:
        return
    connection.written = (place, now)
    here.records.write(connection.hub, connection.id, connection.snapshot()).add_done_callback(_looked_at)


def _looked_at(written: asyncio.Future[Any]) -> None:
    if not written.cancelled():
        # The next one is written soon.
        written.exception()


def keep(here: Node) -> None:
    """Have the snapshots of a node written from now on."""
    if here.keeps and here not in _writers:
        _writers[here] = _Writer(here)


def write_all() -> None:
    """The process stops: write those of all that others will go on with."""
    here = node()
    if here.keeps:
        for member in here.members():
            if isinstance(member, Connection) and member.is_reliable:
                member.written = (0, float("-inf"))
                write(here, member)
