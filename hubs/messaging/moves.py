"""Connections that change process: where those that left went, and those that are on their way here.

A connection's id names its home. Whoever looks for it asks there; so when it has been recovered in
another process, its home keeps a note of where it is and passes on what comes for it. A connection
may move again: the process that has it then tells the home, and moves are counted, so that news
which comes late is known to be old.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Mapping

from hubs.messaging.tally import NOTHING, Had, Tally
from hubs.protocols.codec import Outgoing
from hubs.protocols.frames import DATA_FRAMES, GroupMessage

MAX_NOTES = 100_000

# How often a message may be passed on: from its home to where it went, and once more if it has just left there.
MAX_FORWARDS = 3


class Notes:
    """Where connections that were here are now. The oldest note goes when there are too many."""

    def __init__(self) -> None:
        self._where: OrderedDict[str, tuple[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._where)

    def went(self, connection_id: str, process: str, moves: int) -> None:
        """It is with `process` since its move number `moves`; with nobody (it ended), if that is empty."""
        _, known = self._where.get(connection_id, ("", 0))
        if moves < known:
            return
        if process:
            self._where[connection_id] = (process, moves)
            if len(self._where) > MAX_NOTES:
                self._where.popitem(last=False)
        else:
            self._where.pop(connection_id, None)

    def forget(self, connection_id: str) -> None:
        """It is here."""
        self._where.pop(connection_id, None)

    def where(self, connection_id: str) -> str | None:
        """The process that it went to."""
        process, _ = self._where.get(connection_id, (None, 0))
        return process


class Arrival:
    """A connection on its way here: takes what is published for it until the connection itself can."""

    def __init__(
        self,
        connection_id: str,
        hub: str,
        *,
        user_id: str | None,
        subprotocol: str | None,
        groups: Collection[str],
        max_messages: int,
        max_bytes: int,
    ) -> None:
        self.id = connection_id
        self.hub = hub
        self.user_id = user_id
        self.subprotocol = subprotocol
        self.groups: set[str] = set(groups)
        # Set when the connection is here, or does not come.
        self.settled = asyncio.Event()
        # Whether more came than the connection itself could hold, which has overflowed then.
        self.overrun = False
        # And what each repeats, if it does.
        self._held: list[tuple[Outgoing, tuple[str, int] | None]] = []
        # Since when this process collects: so many numbers had been read of each publisher, and so many given.
        self.since: dict[str, int] | None = None
        self.own = 0
        self._room = max_messages
        self._room_bytes = max_bytes

    def deliver(self, outgoing: Outgoing, again: tuple[str, int] | None = None) -> None:
        """Hold a frame. `again`: the name of what it repeats."""
        if self.overrun:
            return
        if isinstance(outgoing.frame, DATA_FRAMES):
            self._room_bytes -= len(outgoing.frame.payload.data)
        self._room -= 1
        if self._room < 0 or self._room_bytes < 0:
            self.overrun = True
            self._held.clear()
        else:
            self._held.append((outgoing, again))

    def addressed(self) -> list[Outgoing]:
        """What was sent to this connection alone, wherever it is."""
        return [outgoing for outgoing, _ in self._held if outgoing.source is None]

    def not_in(self, taken: Mapping[str, Tally], groups: Collection[str], had: Had = NOTHING) -> list[Outgoing]:
        """What was held and has not been taken by the process that the connection comes from.

        `groups`: those it came with. What was for one that it has left meanwhile, there, is not for it any more.
        `had`: what it was given before, perhaps under another name than that of its repetition.
        """
        nothing = Tally()
        found: list[Outgoing] = []
        names: set[tuple[str, int]] = set()
        for outgoing, again in self._held:
            source = outgoing.source
            if source is not None:
                name = again or source
                # The tally also counts what has failed to come; how far back that is known exactly, it is looked at.
                taken_there = source in had or not had.reaches(source)
                taken_there = taken_there and source[1] in taken.get(source[0], nothing)
                if taken_there or name in names or (again is not None and again in had):
                    continue
                names.add(name)
            if not isinstance(outgoing.frame, GroupMessage) or outgoing.frame.group in groups:
                found.append(outgoing)
        return found
