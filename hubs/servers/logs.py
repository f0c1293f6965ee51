"""What log records look like, and which are worth writing.

Apart from the servers, because the supervisor of several workers logs too, and does not load a server for that.
"""

from __future__ import annotations

import logging

from hubs.servers.workers import assignment


class LineFormatter(logging.Formatter):
    """Writes log records, each line with the number of the worker it is from, if there are several."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the text of a record, which goes out in one piece: records of several workers do not mix."""
        text = super().format(record)
        if (assigned := assignment()) is None:
            return text
        prefix = f"[worker {assigned.number}] "
        return prefix + text.replace("\n", "\n" + prefix)


class ClientFaults(logging.Filter):
    """Keeps what clients do wrong from looking like faults of the server in its log.

    uvicorn 0.54 logs an error for each handshake that was refused with an HTTP status, because it
    does not count it as completed; our consumers always answer, so that complaint never has another
    cause.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is worth writing."""
        return record.msg != "ASGI callable returned without completing handshake."
