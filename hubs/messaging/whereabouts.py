"""Which process to turn to for a connection.

A connection's id names its home, the process that made it. As long as it has not moved it is there, and nobody has
to be told anything. One that has moved is looked for at its home all the same, which has a note of where it went
(moves.py) and passes on what comes for it: so a process that knows nothing but the id is right.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from hubs.messaging.directory import Directory
from hubs.messaging.envelope import Moved
from hubs.messaging.moves import Notes
from hubs.messaging.peers import Peers

PROCESS_HEX_DIGITS = 8
CONNECTION_HEX_DIGITS = 32


def new_process_name() -> str:
    """A name that no other process has."""
    return secrets.token_hex(PROCESS_HEX_DIGITS // 2)


def home_of(connection_id: str) -> str:
    """The process that made a connection's id."""
    return connection_id[:PROCESS_HEX_DIGITS]


class Whereabouts:
    """Where connections are, as far as one process knows."""

    def __init__(self, process: str, directory: Directory, peers: Peers, *, alone: bool) -> None:
        self._process = process
        self._connections, self._arrivals = directory.connections, directory.arrivals
        self._peers = peers
        self._alone = alone
        self.notes = Notes()

    def new_connection_id(self) -> str:
        """A fresh id: 32 hex digits, of which the first eight name the process that is its home."""
        return self._process + secrets.token_hex((CONNECTION_HEX_DIGITS - PROCESS_HEX_DIGITS) // 2)

    def is_home_of(self, connection_id: str) -> bool:
        """Whether this process is asked about a connection, wherever that is; always, where there is no other."""
        return self._alone or home_of(connection_id) == self._process

    def holder(self, connection_id: str, *, elsewhere: bool = False) -> str:
        """The process to turn to for a connection: where it is, was told to be, or at least has its home."""
        here = connection_id in self._connections or connection_id in self._arrivals
        if self._alone or (here and not elsewhere):
            return self._process
        if len(connection_id) != CONNECTION_HEX_DIGITS or not _is_hex(connection_id):
            return self._process
        return self.notes.where(connection_id) or home_of(connection_id)

    def next_process(self, connection_id: str | None, message: Mapping[str, Any]) -> str | None:
        """Where to pass a message on that is about a connection which was here."""
        if connection_id is None or connection_id in self._connections or connection_id in self._arrivals:
            return None
        process = self.notes.where(connection_id) if message.get("forwards", 0) > 0 else None
        if process is None or process in self._peers.alive():
            return process
        # If it died there, nobody would ever answer.
        return None if self._peers.is_complete(asyncio.get_running_loop().time()) else process

    def take(self, moved: Moved, message: Mapping[str, Any]) -> None:
        """A connection whose home is here has moved or ended elsewhere."""
        if moved.connection not in self._connections:
            self.notes.went(moved.connection, moved.process, moved.moves)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789abcdef" for character in text)
