"""What a client's frame is held to, whatever wire it came by.

The codecs find the values, each in its own format; here is decided whether they will do. So the same
frame is good or bad in JSON and in protobuf alike.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hubs.protocols.frames import TEXT, Payload
from hubs.protocols.metadata import is_metadata
from hubs.rules.names import is_event_name, is_group_name

MAX_UINT64 = 2**64 - 1
MAX_TTL_SECS = 300
MAX_INVOCATION_ID_CHARACTERS = 1024


class Malformed(ValueError):
    """A value is missing or is not what the protocol says; never leaves a codec."""


def group_name(name: str) -> str:
    """Pass a group's name."""
    if not is_group_name(name):
        raise Malformed("not a group name")
    return name


def event_name(name: str) -> str:
    """Pass an event's name."""
    if not is_event_name(name):
        raise Malformed("not an event name")
    return name


def invocation_id(value: str) -> str:
    """Pass the id of an invocation: any text that is not empty, and not too long to be kept."""
    if not 0 < len(value) <= MAX_INVOCATION_ID_CHARACTERS:
        raise Malformed("not an invocation id")
    return value


def whole_number(value: int, maximum: int) -> int:
    """Pass a number from 0 to `maximum`."""
    if not 0 <= value <= maximum:
        raise Malformed("out of range")
    return value


def metadata_map(pairs: Collection[tuple[str, Any]]) -> dict[str, str]:
    """Make a map of metadata as it came."""
    if not is_metadata(pairs):
        raise Malformed("not a flat map of short texts")
    return dict(pairs)


def no_data(metadata: Mapping[str, str] | None) -> Payload:
    """Give what a message without data says: an empty text if it names metadata, be they empty; else it is none."""
    if metadata is None:
        raise Malformed("data is missing")
    return Payload(TEXT, b"")
