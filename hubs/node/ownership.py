"""Which process has a reliable connection: the one whose claim the log has.

A claim is an entry of the hub's log. Of two claims the one whose handshake began later holds, in whichever order they
come; a claim in the place of a dead process holds only while nobody else has made one. The old owner stops at the
entry. It may have appended publications of that client before it read the claim, behind it in the log: those with an
ackId are void for everybody, since their client will send them again to its new owner. That is why claims are
remembered for a while by all that read the log.

While a connection is fetched, what is read of its log is held for it (`Arrival`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from hubs.cluster.entries import Claim, Entry, Parted, hub_log
from hubs.cluster.log import HISTORY_SECS, applied
from hubs.errors import NotFound, Unavailable
from hubs.layers.positions import first_of, ms_of

if TYPE_CHECKING:
    from hubs.node.node import Node

# From a handshake to the claim, at most. A log is known from so long before it is read.
CLAIMING_SECS = HISTORY_SECS

# Claims are remembered for longer than an entry that was appended before one was read can take.
CLAIM_SECS = 60.0
MAX_CLAIMS = 100_000
MAX_CLAIMS_OF_ONE = 100

# Entries that may be held for a connection that is being fetched.
MAX_HELD = 200_000

CHANGING = "The connection is changing its server; try again."


class Outrun(NotFound):
    """Another claim holds. Clocks differ a little, so a client that comes again finds the connection."""

    def __init__(self, connection_id: str) -> None:
        super().__init__(f"Connection `{connection_id}` was recovered by another socket.")


class Owner(NamedTuple):
    """Who has a connection: the process, when the handshake of its socket began, and the claim's position."""

    process: str
    began: int
    position: int


class Claims:
    """The claims that were read lately, those of each connection in order.

    `earlier`, `upto`: what is known from before, up to a position.
    """

    def __init__(self, earlier: Claims | None = None, upto: int = 0) -> None:
        self.owners: OrderedDict[str, list[Owner]] = OrderedDict()
        self._earlier, self._upto = earlier, upto

    def __len__(self) -> int:
        return len(self.owners)

    def get(self, connection_id: str) -> Owner | None:
        """Who claimed a connection lately."""
        owners = self.owners.get(connection_id)
        if owners is not None:
            return owners[-1]
        if self._earlier is None:
            return None
        owners = self._earlier.owners.get(connection_id, [])
        return next((owner for owner in reversed(owners) if owner.position <= self._upto), None)

    def follow(self, position: int) -> None:
        """What is known from before counts up to a later position."""
        self._upto = max(self._upto, position)

    def is_known(self, connection_id: str, position: int) -> bool:
        """Whether what is known from before has the claim at a position, so that it need not be taken again."""
        if self._earlier is None or connection_id in self.owners:
            return False
        return any(owner.position == position for owner in self._earlier.owners.get(connection_id, ()))

    def put(self, connection_id: str, owner: Owner) -> None:
        """Somebody has a connection from now on."""
        owners = self.owners.setdefault(connection_id, [])
        owners.append(owner)
        oldest = _before(owner.position)
        while len(owners) > MAX_CLAIMS_OF_ONE or (len(owners) > 1 and owners[1].position <= oldest):
            del owners[0]
        self.owners.move_to_end(connection_id)

    def is_of(self, connection_id: str | None, process: str) -> bool:
        """Whether what a process appended for a connection counts."""
        owner = self.get(connection_id or "")
        return owner is None or owner.process == process

    def take(self, position: int, process: str, claim: Claim) -> bool:
        """A claim was read; tells whether it holds.

        All who read it come to the same result, however much of the log they have read before: a claim that comes long
        after its handshake does not hold, so one that is younger than the last known can only lose to that.
        """
        known = self.get(claim.connection)
        began = claim.began
        if position:
            now = ms_of(position)
            began = min(began, now)
            if claim.of is None and began < now - CLAIMING_SECS * 1000:
                return False
        if claim.of is not None:
            if known is not None and known.process != claim.of:
                return False
            began = 0 if known is None else known.began
        elif known is not None and began < known.began:
            return False
        self.put(claim.connection, Owner(process, began, position))
        self._drop_old(position)
        return True

    def _drop_old(self, position: int) -> None:
        if self._earlier is not None:
            # Needed for one connection, and whoever had that at first may have claimed it long ago, or never.
            return
        oldest = _before(position)
        while self.owners:
            owners = next(iter(self.owners.values()))
            if len(self.owners) <= MAX_CLAIMS and (not position or owners[-1].position > oldest):
                return
            self.owners.popitem(last=False)


def _before(position: int) -> int:
    return position - first_of(int(CLAIM_SECS * 1000))


class Arrival:
    """A connection that is being fetched: what is read of its log meanwhile."""

    def __init__(self, hub: str, connection_id: str) -> None:
        self.hub = hub
        self.id = connection_id
        # The position of the claim that made it this process's.
        self.claimed_at: int | None = None
        # Done when it is here, or does not come.
        self.settled = asyncio.Event()
        # Another process has it now, or too much was held.
        self.lost = False
        # Who had it before, if that is known; set when that process has read the claim, and said what had been
        # acknowledged there.
        self.former: str | None = None
        self.parted = asyncio.Event()
        self.held: list[tuple[int, str, Entry]] = []

    def hold(self, position: int, origin: str, entry: Entry) -> None:
        """An entry of its log was read."""
        if self.claimed_at is not None and not self.lost:
            self.held.append((position, origin, entry))
            if len(self.held) > MAX_HELD:
                self.lost = True
                self.held.clear()


class Ownership:
    """The part of one process in who has what."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.claims = Claims()
        # By hub, and in it by connection id.
        self.arrivals: dict[str, dict[str, Arrival]] = {}
        # By the name of a hub's log: the position where a connection last came here or went.
        self.moved: dict[str, int] = {}
        self._claiming: dict[tuple[str, int, str | None], asyncio.Future[bool]] = {}

    def expect(self, hub: str, connection_id: str) -> Arrival:
        """A connection is about to be claimed. One at a time for each connection."""
        arrival = self.arrivals.setdefault(hub, {})[connection_id] = Arrival(hub, connection_id)
        return arrival

    def settle(self, arrival: Arrival) -> None:
        """It is here, or does not come."""
        arrivals = self.arrivals.get(arrival.hub, {})
        if arrivals.get(arrival.id) is arrival:
            del arrivals[arrival.id]
            if not arrivals:
                del self.arrivals[arrival.hub]
        arrival.settled.set()
        arrival.held.clear()

    async def claim(self, arrival: Arrival, began: int, of: str | None = None) -> int:
        """Claim a connection; gives the claim's position. Raises Outrun, Unavailable."""
        entry = Claim(arrival.id, began, of)
        key = (arrival.id, began, of)
        future = self._claiming[key] = asyncio.get_running_loop().create_future()
        try:
            self._node.publishing.send_off(arrival.hub)
            await applied(self._node.log.append(hub_log(arrival.hub), entry))
            if not future.done():
                # In the log, and not read back: nobody reads that log here.
                raise Unavailable(CHANGING)
            if not future.result():
                raise Outrun(arrival.id)
        finally:
            del self._claiming[key]
        return arrival.claimed_at or 0

    def take(self, name: str, position: int, origin: str, claim: Claim) -> None:
        """A claim was read."""
        node = self._node
        member = node.registry.connections.get(claim.connection)
        if member is not None and member.owner is not None and self.claims.get(claim.connection) is None:
            self.claims.put(claim.connection, Owner(*member.owner))
        known = self.claims.get(claim.connection)
        holds = self.claims.take(position, origin, claim)
        if holds and member is not None:
            member.claimed(*self.claims.owners[claim.connection][-1])
        arrival = self._arrival(claim.connection)
        if holds and (origin == node.process or arrival is not None or member is not None):
            self.moved[name] = position
        if origin == node.process:
            if holds and arrival is None and member is None and (hub := node.hub_of(name)) is not None:
                # Nobody waits for it any more, and it is this process's all the same.
                arrival = self.expect(hub, claim.connection)
                node.fetch_late(arrival, claim.of)
            if holds and arrival is not None:
                arrival.claimed_at = position
                arrival.former = None if known is None else known.process
                arrival.lost = False
                arrival.held.clear()
            future = self._claiming.get((claim.connection, claim.began, claim.of))
            if future is not None and not future.done():
                future.set_result(holds)
            return
        if not holds:
            return
        if arrival is not None:
            arrival.lost = True
            arrival.held.clear()
        if member is not None:
            member.depart(taken_over=claim.of is not None)

    def take_parted(self, parted: Parted) -> None:
        """The process that had a connection has read who claimed it."""
        arrival = self._arrival(parted.connection)
        if arrival is not None:
            arrival.parted.set()

    def _arrival(self, connection_id: str) -> Arrival | None:
        for arrivals in self.arrivals.values():
            if connection_id in arrivals:
                return arrivals[connection_id]
        return None

    def hold(self, hub: str, position: int, origin: str, entry: Entry) -> None:
        """An entry was read: connections that are being fetched may need it."""
        for arrival in self.arrivals.get(hub, {}).values():
            arrival.hold(position, origin, entry)
