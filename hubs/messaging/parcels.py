"""What one turn of the event loop publishes for the other processes, packed together.

A publication that goes out by itself costs several times what its content does: a command to Redis and an
answer, a read in each process that hears it, a message to take apart. So the publications of a hub that are
made in one turn of the loop leave as one `Parcel` (envelope.py), in their order. As long as a parcel is on its
way and not confirmed the next one is filled, as Nagle's algorithm does with bytes. So one that is published when
nothing is on its way leaves at once, and the busier a process is, the more leave together.

A parcel for one group goes to the address of that group. One for several groups goes to the hub's address, which
every process with a member in any of them hears. The price is that processes are told of groups they have no members
of, and look them up in vain; that is less than a message per group as long as there are few processes
(`FEW_PROCESSES`). Where there are more, or the layer has no order between addresses, publications leave with those
right before and behind them that have the same address, so that the order is kept.

Whether the others hear it is decided for the parcel as a whole (peers.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

from hubs.errors import Unavailable
from hubs.messaging.envelope import Parcel, Publication, address_of, encode, hub_address
from hubs.messaging.peers import Peers
from hubs.messaging.trunk import UNREACHABLE, Trunk

# More do not get cheaper, and whoever reads a parcel does nothing else meanwhile.
MOST_TOGETHER = 100
MOST_BYTES = 256 * 1024

# What one of several processes can take in of all, rather than of the groups it has members of, without minding.
FEW_PROCESSES = 8


class Item:
    """A publication on its way out.

    `again`: the name it has from an earlier time. `here_last`: the members here get it once the others do, or
    nobody does. `posted` is done once it is on the layer, and fails with Unavailable.
    """

    __slots__ = ("again", "here_last", "number", "posted", "publication")

    def __init__(
        self,
        publication: Publication,
        number: int,
        again: tuple[str, int] | None,
        posted: asyncio.Future[None],
        *,
        here_last: bool,
    ) -> None:
        self.publication = publication
        self.number = number
        self.again = again
        self.posted = posted
        self.here_last = here_last


class Parcels:
    """The publications of this turn.

    `floor`: gives the number below which all are done (tally.py). `done`: told of items whose way is over, and
    whether they arrived, before those who wait for them are.
    """

    def __init__(
        self, trunk: Trunk, peers: Peers, floor: Callable[[], int], done: Callable[[list[Item], bool], None]
    ) -> None:
        self._trunk = trunk
        self._peers = peers
        self._floor = floor
        self._done = done
        self._collected: dict[str, list[Item]] = {}
        self._count = self._bytes = 0
        # So many are on their way.
        self._unconfirmed = 0

    def put(self, item: Item) -> None:
        """Have one leave at the end of this turn, or when what is on its way has arrived; behind all put before."""
        publication = item.publication
        if not self._collected and not self._unconfirmed:
            asyncio.get_running_loop().call_soon(self.send_off)
        self._collected.setdefault(publication.audience.hub, []).append(item)
        self._count += 1
        self._bytes += len(publication.data)
        if self._count >= MOST_TOGETHER or self._bytes >= MOST_BYTES:
            self.send_off()

    def send_off(self) -> None:
        """Have what was put leave now, because it is time or something else is to come behind it."""
        if not self._collected:
            return
        collected, self._collected = self._collected, {}
        self._count = self._bytes = 0
        for hub, items in collected.items():
            for address, together in self._addressed(hub, items):
                self._send(address, together)

    def _addressed(self, hub: str, items: list[Item]) -> Iterable[tuple[str, list[Item]]]:
        addresses = [address_of(item.publication.audience) for item in items]
        if addresses.count(addresses[0]) == len(addresses):
            return [(addresses[0], items)]
        if self._trunk.one_order and len(self._peers.alive()) < FEW_PROCESSES:
            return [(hub_address(hub), items)]
        return _runs(addresses, items)

    def _send(self, address: str, items: list[Item]) -> None:
        if not self._peers.all_hear:
            # Since they were put there has been a reason to doubt. These have not left, and do not.
            self._finish([item for item in items if item.here_last], arrived=False)
            items = [item for item in items if not item.here_last]
            if not items:
                return
        doubts = self._peers.doubts if self._peers.all_hear else None
        parcel = Parcel([(item.publication, item.number, item.again) for item in items])

        def sent(sending: asyncio.Future[object]) -> None:
            self._unconfirmed -= 1
            failed = sending.cancelled() or sending.exception() is not None
            self._finish(items, arrived=not failed and doubts == self._peers.doubts)
            if not self._unconfirmed:
                self.send_off()

        self._unconfirmed += 1
        self._trunk.start_sending(address, encode(parcel), {"floor": self._floor()}).add_done_callback(sent)

    def _finish(self, items: list[Item], *, arrived: bool) -> None:
        self._done(items, arrived)
        for item in items:
            posted = item.posted
            if posted.done():
                continue
            if arrived:
                posted.set_result(None)
                continue
            unavailable = Unavailable(UNREACHABLE)
            if not item.here_last:
                unavailable.published = item.again or (self._trunk.process, item.number)
            posted.set_exception(unavailable)
            # Looked at, if by nobody else.
            posted.exception()


def _runs(addresses: list[str], items: list[Item]) -> Iterator[tuple[str, list[Item]]]:
    pairs = zip(addresses, items, strict=True)
    for address, together in groupby(pairs, key=lambda pair: pair[0]):
        yield address, [item for _, item in together]
