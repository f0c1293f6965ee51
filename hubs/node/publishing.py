"""Publications: into the log of their hub, and from there to the members here.

Delivery follows the log in every process alike, the publisher's own included: who has published waits until its
entry has come back, and by then the members here have it, so an echo precedes the ack. What one turn of the
loop publishes to a hub is one entry.

This is the way of every message. From `post` to the log, and from there to the members' sockets, all is plain
calls, and few. Where the process is alone both are one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from hubs.cluster.entries import Publication, Publications, hub_log
from hubs.errors import Refusal
from hubs.protocols.codec import Outgoing
from hubs.registry.members import Member, Numbering
from hubs.registry.registry import NOBODY

if TYPE_CHECKING:
    from hubs.node.node import Node

logger = logging.getLogger(__name__)

# In one entry; what a turn has beyond that is the next one. The place of a publication in its entry has so many bits.
MAX_TOGETHER = 1000
MAX_TOGETHER_BYTES = 512 * 1024
PLACE_BITS = 12


class _Turn:
    """What was published to a hub in this turn of the loop."""

    __slots__ = ("bytes", "items", "posted")

    def __init__(self) -> None:
        self.items: list[Publication] = []
        self.bytes = 0
        self.posted: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Publishing:
    """What one process publishes, and delivers of what all publish."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._registry = node.registry
        self._connections = node.registry.connections
        self._numbering = Numbering()
        self._turns: dict[str, _Turn] = {}

    def settle(self) -> None:
        """Have what was published in this turn of the loop with all reliable members, numbered."""
        self._numbering.settle()

    # Out

    def post(self, publication: Publication) -> asyncio.Future[None] | None:
        """Publish, without waiting; None where it has been delivered already.

        The future is done once it has. It fails with Unavailable (see cluster/log.py); one that nobody looks at fails
        in silence.
        """
        if self._node.log.alone:
            self._deliver(publication, 0)
            return None
        hub = publication.audience.hub
        turn = self._turns.get(hub)
        if turn is None:
            turn = self._turns[hub] = _Turn()
            asyncio.get_running_loop().call_soon(self._send_off, hub, turn)
        turn.items.append(publication)
        turn.bytes += len(publication.data)
        if len(turn.items) >= MAX_TOGETHER or turn.bytes >= MAX_TOGETHER_BYTES:
            self._send_off(hub, turn)
        return turn.posted

    def send_off(self, hub: str) -> None:
        """Append what was published to a hub so far; what is appended next comes behind it."""
        if (turn := self._turns.get(hub)) is not None:
            self._send_off(hub, turn)

    def _send_off(self, hub: str, turn: _Turn) -> None:
        if self._turns.get(hub) is not turn:
            return
        del self._turns[hub]
        try:
            appended = self._node.log.append(hub_log(hub), Publications(turn.items))
        except Exception:
            logger.exception("Publications to hub %s could not be written", hub)
            turn.posted.set_exception(Refusal("Internal server error"))
            turn.posted.exception()
            return
        if appended is None:
            turn.posted.set_result(None)
        else:
            appended.add_done_callback(partial(_pass_on, turn.posted))

    # In

    def take(self, position: int, origin: str, publications: Publications) -> None:
        """A process, perhaps this one, has published."""
        place = position << PLACE_BITS
        claims = self._node.ownership.claims
        for publication in publications.items:
            ack_id = publication.ack_id
            if ack_id is None:
                self._try_to_deliver(publication, place)
            elif not claims or claims.is_of(publication.sender, origin):
                self._try_to_deliver(publication, place)
                sender = self._connections.get(publication.sender or "")
                if sender is not None:
                    sender.published(ack_id)
            place += 1 if position else 0

    def _try_to_deliver(self, publication: Publication, place: int) -> None:
        """Deliver one of several; a fault in it is not to be one of the others too."""
        try:
            self._deliver(publication, place)
        except Exception:
            logger.exception("A publication could not be delivered")

    def _deliver(self, publication: Publication, place: int) -> None:
        """Give a publication to the members that are meant."""
        audience = publication.audience
        some: Iterable[Member] = ()
        if publication.connection is not None:
            member = self._connections.get(publication.connection)
            some = [member] if member is not None and member.hub == audience.hub else []
        elif audience.excluded or audience.filter is not None or (audience.group and audience.user_id) is not None:
            some = self._registry.meant(audience)
        else:
            everybody = self._registry.among(audience)
            if everybody is not NOBODY:
                everybody.deliver(
                    Outgoing(publication.frame, ttl_secs=publication.ttl_secs, place=place), self._numbering
                )
            return
        if not some:
            return
        outgoing = Outgoing(publication.frame, ttl_secs=publication.ttl_secs, place=place)
        self._numbering.settle()
        for member in some:
            member.deliver(outgoing)


def _pass_on(posted: asyncio.Future[None], appended: asyncio.Future[None]) -> None:
    """Those who published together learn of it together."""
    if posted.done():
        return
    if appended.cancelled():
        posted.cancel()
    elif (problem := appended.exception()) is not None:
        posted.set_exception(problem)
        posted.exception()
    else:
        posted.set_result(None)
