"""The switchboard: this process's connections, and its one line to the other processes.

The obvious way to fan out with Channels gives every connection a channel of its own and adds it to
layer groups. A message to a group of a thousand then goes through a thousand queues and wakes a
thousand consumers, each of which encodes it again. Here a *process* has one channel. It joins the
layer group of an address when its first local member comes and leaves it a little after the last
one went. A publication is delivered to local members directly, encoded once per wire format, and
`group_send` carries it once to each other process that has members; that process's switchboard
fans out there.

The switchboard is the one entrance to this room. Its parts, each of which knows those above it and none below:

    Peers          the other processes, as far as they have been heard of; whether they hear this one
    Trunk          the line: what goes out, what comes in and who takes it
    Directory      the connections here and on their way here, and whom of them an audience means
    Whereabouts    which process to turn to for a connection
    Hearing        hello, doubt, goodbye
    Publishing     publications, out and in
    Questions      what processes ask each other
    Probes         whether subscriptions are in force
    Handover       connections that change process

Everything here runs on one event loop. A `Switchboard` belongs to the loop it was made on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import InMemoryChannelLayer, get_channel_layer

from hubs.messaging.directory import Directory
from hubs.messaging.envelope import Answer, Audience, Goodbye, Hello, Moved, Parcel, Probe, Publication, Question
from hubs.messaging.handover import Handover
from hubs.messaging.hearing import Hearing
from hubs.messaging.members import Member
from hubs.messaging.moves import Arrival
from hubs.messaging.peers import HELLO_SECS, Peers
from hubs.messaging.probes import Probes
from hubs.messaging.publishing import Publishing
from hubs.messaging.questions import ANSWERS, Answering, Questions
from hubs.messaging.tally import NOTHING, Had, Tally
from hubs.messaging.trunk import UNREACHABLE, Trunk
from hubs.messaging.whereabouts import Whereabouts, new_process_name
from hubs.protocols.codec import Outgoing

__all__ = ["ANSWERS", "UNREACHABLE", "Answering", "Member", "Switchboard", "switchboard"]


class Switchboard:
    """The connections of one process and its line to the others."""

    def __init__(self, layer: Any, *, alone: bool, hello_secs: float = HELLO_SECS) -> None:
        self.process = new_process_name()
        self._peers = Peers(self.process, hello_secs)
        self._trunk = Trunk(layer, self.process, self._peers, alone=alone)
        self._directory = Directory(self._trunk.lines)
        self._whereabouts = Whereabouts(self.process, self._directory, self._peers, alone=alone)
        self._hearing = Hearing(self._trunk, self._peers)
        self._publishing = Publishing(self._trunk, self._peers, self._directory, self._whereabouts)
        self._questions = Questions(self._trunk, self._hearing, self._peers, self._directory, self._whereabouts)
        self._probes = Probes(self._trunk)
        self._handover = Handover(self._trunk, self._directory, self._whereabouts, self._publishing, self._probes)
        self._trunk.takers = {
            Parcel: self._publishing.take_parcel,
            Publication: self._publishing.take,
            Question: self._questions.take,
            Answer: self._questions.take_answer,
            Moved: self._whereabouts.take,
            Probe: self._probes.take,
            Hello: self._hearing.take_hello,
            Goodbye: self._take_goodbye,
        }
        # See Publishing. The way of every message: without a call between.
        self.publish = self._publishing.publish
        self.post = self._publishing.post
        self.settle = self._publishing.settle

    # Coming and going

    async def start(self) -> None:
        """Open this process's channel and say hello; does nothing when that was done."""
        await self._hearing.start()

    async def stop(self) -> None:
        """Say goodbye, close the channel and end what still runs."""
        await self._hearing.stop(passes_on=len(self._whereabouts.notes) > 0)

    @property
    def is_reached(self) -> bool:
        """Whether what other processes publish arrives here, as far as this one knows."""
        return self._trunk.alone or not self._hearing.started or self._peers.is_undisturbed

    def others(self) -> set[str]:
        """The other processes that are not known to be dead."""
        return self._peers.alive()

    def _take_goodbye(self, goodbye: Goodbye, message: Mapping[str, Any]) -> None:
        self._peers.forget(goodbye.process)
        self._questions.gone(goodbye.process)

    # Connections and groups

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that is its home."""
        return self._whereabouts.new_connection_id()

    async def attach(self, member: Member) -> None:
        """Make a connection reachable."""
        await self.start()
        await self._directory.attach(member)

    def detach(self, member: Member) -> None:
        """Forget a connection. Its groups are left by `leave`."""
        if self._directory.detach(member):
            self._handover.ended(member.id)

    async def join(self, member: Member, group: str) -> None:
        """Add a connection to a group; when this returns, publications of every process reach it."""
        await self._directory.join(member, group)

    def leave(self, member: Member, group: str) -> None:
        """Take a connection out of a group; at once for local publications."""
        self._directory.leave(member, group)

    def opened(self, member: Member) -> None:
        """The socket of a connection is open: it may be written to together with others."""
        self._directory.opened(member)

    def members(self) -> list[Member]:
        """All connections of this process."""
        return list(self._directory.connections.values())

    def member(self, connection_id: str) -> Member | None:
        """The connection of this process that has this id."""
        return self._directory.connections.get(connection_id)

    def __len__(self) -> int:
        return len(self._directory.connections)

    def __contains__(self, member: Member) -> bool:
        return member in self._directory

    # Publications

    @property
    def posts_in_order(self) -> bool:
        """Whether what is posted arrives in the order of posting, though nobody waits for one before the next."""
        return self._trunk.posts_in_order

    def taken(self) -> dict[str, Tally]:
        """What members of this process have been given so far, by publishing process."""
        return self._publishing.taken()

    def had(self, member: Member) -> dict[str, bytes]:
        """What a connection that goes to another process has been given lately, there to be `Had`."""
        return self._publishing.had(member)

    async def all_sent(self) -> None:
        """Wait until everything this process has published so far is on the layer and with local members."""
        await self._publishing.all_sent()

    async def all_here(self) -> None:
        """Wait until local members have what this process has sent to the others first, so far."""
        await self._publishing.all_here()

    # Connections that change process

    def is_home_of(self, connection_id: str) -> bool:
        """Whether this process is asked about a connection, wherever that is; always, where there is no other."""
        return self._whereabouts.is_home_of(connection_id)

    async def expect(self, arrival: Arrival) -> None:
        """Collect from now on what is published for a connection that is coming here. See Handover."""
        await self.start()
        await self._handover.expect(arrival)

    def adopt(self, arrival: Arrival, member: Member, moves: int, had: Had = NOTHING) -> None:
        """The connection is here: make it reachable in the place of its arrival."""
        self._handover.adopt(arrival, member, moves, had)

    def unexpect(self, arrival: Arrival) -> None:
        """Collect no more for a connection, which is here or does not come."""
        self._directory.unexpect(arrival)

    def hand_over(self, member: Member, process: str, moves: int) -> None:
        """A connection has gone to another process: forget it, and pass on what comes for it."""
        self._handover.hand_over(member, process, moves)

    async def pass_back(self, hub: str, connection_id: str, outgoing: Outgoing) -> None:
        """Send a message on that was collected for a connection which does not come here after all."""
        await self._handover.pass_back(hub, connection_id, outgoing)

    # Questions

    async def ask(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """Have the process where a connection is do `verb`, and give its answer. See Questions."""
        return await self._questions.ask(verb, hub, connection_id, arguments)

    async def ask_elsewhere(self, verb: str, hub: str, connection_id: str, arguments: dict[str, Any]) -> Any:
        """As `ask`, about a connection that is not here, or is only arriving."""
        return await self._questions.ask_elsewhere(verb, hub, connection_id, arguments)

    async def ask_process(self, process: str, verb: str, arguments: dict[str, Any]) -> Any:
        """Ask one process something that is not about a connection it has. Raises Refusal."""
        return await self._questions.ask_process(process, verb, arguments)

    async def ask_everybody(self, verb: str, audience: Audience, arguments: dict[str, Any]) -> list[Any]:
        """Have every process do `verb` for those of its connections that are meant; gives all answers.

        Raises the Refusal one of them answered with; Unavailable when a process that lives does not answer.
        """
        return await self._questions.ask_everybody(verb, audience, arguments)


_switchboards: WeakKeyDictionary[asyncio.AbstractEventLoop, Switchboard] = WeakKeyDictionary()


def switchboard() -> Switchboard:
    """This process's switchboard: one per event loop, made at first use."""
    loop = asyncio.get_running_loop()
    board = _switchboards.get(loop)
    if board is None:
        layer = get_channel_layer()
        board = _switchboards[loop] = Switchboard(layer, alone=isinstance(layer, InMemoryChannelLayer))
    return board
