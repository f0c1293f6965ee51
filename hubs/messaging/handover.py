"""A connection changes process: what its new one, its old one and its home do for it, here on the switchboard.

    the new process    `expect`s it: collects from then on what is published for it, as an `Arrival` (moves.py)
    the old process    gives away what it has and `taken`, and hands it over: passes on what still comes
    the new process    `adopt`s it, with what it collected and the old one had not taken (tally.py), and tells
                       its home; or, if it does not come, `passes back` what was sent to it alone

connections/recovery.py leads through these steps, and knows what else a connection consists of.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

from hubs.errors import Refusal, Unavailable
from hubs.messaging.directory import Directory
from hubs.messaging.envelope import Audience, Moved, Publication, encode, process_address
from hubs.messaging.members import Member
from hubs.messaging.moves import Arrival
from hubs.messaging.probes import Probes
from hubs.messaging.publishing import Publishing
from hubs.messaging.tally import NOTHING, Had
from hubs.messaging.trunk import UNREACHABLE, Trunk
from hubs.messaging.whereabouts import Whereabouts, home_of
from hubs.protocols.codec import Outgoing
from hubs.protocols.frames import ServerMessage

# How often and how far apart the home of a connection is told where that is, while it cannot be reached.
TELL_HOME_TRIES = 10
TELL_HOME_SECS = 1.0


class Handover:
    """The part of one process in the moves of connections."""

    def __init__(
        self, trunk: Trunk, directory: Directory, whereabouts: Whereabouts, publishing: Publishing, probes: Probes
    ) -> None:
        self._trunk = trunk
        self._directory = directory
        self._whereabouts = whereabouts
        self._publishing = publishing
        self._probes = probes

    async def expect(self, arrival: Arrival) -> None:
        """Collect from now on what is published for a connection that is coming here.

        When this returns, whatever is published from then on by any process is collected, and what this
        process published before has reached the process where the connection still is. Called again when
        there are more groups. Raises Unavailable.
        """
        self._publishing.collects(arrival)
        try:
            await self._directory.expect(arrival)
            await self._probes.hear_all()
            await self._publishing.all_sent()
        except Refusal:
            raise
        except Exception as problem:
            raise Unavailable(UNREACHABLE) from problem

    def adopt(self, arrival: Arrival, member: Member, moves: int, had: Had = NOTHING) -> None:
        """The connection is here: make it reachable in the place of its arrival."""
        self._publishing.came(arrival, had)
        self._whereabouts.notes.forget(member.id)
        self._directory.adopt(arrival, member)
        if not self._whereabouts.is_home_of(member.id):
            self._tell_home(Moved(member.id, self._trunk.process, moves))

    def hand_over(self, member: Member, process: str, moves: int) -> None:
        """A connection has gone to another process: forget it, and pass on what comes for it."""
        self._directory.detach(member)
        self._publishing.went(member.id)
        for group in member.groups:
            self._directory.leave(member, group)
        self._whereabouts.notes.went(member.id, process, moves)

    def ended(self, connection_id: str) -> None:
        """A connection has ended here: nobody is to look for it any more."""
        self._publishing.went(connection_id)
        if not self._whereabouts.is_home_of(connection_id):
            self._tell_home(Moved(connection_id, "", sys.maxsize))

    async def pass_back(self, hub: str, connection_id: str, outgoing: Outgoing) -> None:
        """Send a message on that was collected for a connection which does not come here after all."""
        frame = outgoing.frame
        if isinstance(frame, ServerMessage):
            data_type, data = frame.payload.data_type, frame.payload.data
            metadata = None if frame.metadata is None else dict(frame.metadata)
            publication = Publication(Audience(hub), data_type, data, None, metadata, connection_id, outgoing.ttl_secs)
            await self._publishing.publish_to_one(publication, connection_id, elsewhere=True)

    def _tell_home(self, moved: Moved) -> None:
        async def tell() -> None:
            # More than once, if need be: until its home knows, it looks there for what has gone.
            home = home_of(moved.connection)
            for _ in range(TELL_HOME_TRIES):
                with suppress(Refusal):
                    await self._trunk.send_heard(home, process_address(home), encode(moved), {})
                    return
                await asyncio.sleep(TELL_HOME_SECS)

        self._trunk.in_background(tell(), "a connection has moved")
