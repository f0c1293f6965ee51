"""Events as listeners get them: CloudEvents, whatever carries them.

The attributes are named as in the messages that Azure Web PubSub sends to Event Hubs: in lower case
and without hyphens, which is also how CloudEvents wants the names of extensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hubs.protocols.frames import JSON, Payload
from hubs.upstream.cloudevents import Unsendable, content_of, source_of, time_of, type_of
from hubs.upstream.events import Event

# What the attributes of a message take, more or less; its data and state come on top.
_ATTRIBUTE_BYTES = 512


@dataclass(frozen=True, slots=True)
class Message:
    """An event, ready to be carried.

    `id` is the message's own, the same however often it is carried; `partition` is equal for all whose
    order matters. `payload` is what the client sent, or a system event's JSON.
    """

    id: str
    partition: str
    attributes: Mapping[str, str]
    content_type: str
    payload: Payload


def size_of(event: Event) -> int:
    """About how many bytes an event takes, in memory and on its way."""
    payload, context = event.payload, event.context
    data = len(payload.data) if payload is not None else len(event.reason)
    return _ATTRIBUTE_BYTES + data + len(context.state or "") + len(context.user_id or "") + 2 * len(event.name)


def message_of(event: Event) -> Message:
    """Make an event's message. Raises Unsendable for text that is no Unicode."""
    context = event.context
    number = str(event.number)
    attributes = {
        "specversion": "1.0",
        "awpsversion": "1.0",
        "type": type_of(event),
        "source": source_of(event),
        "id": number,
        "time": time_of(event),
        "hub": context.hub,
        "eventname": event.name,
        "connectionid": context.connection_id,
    }
    if context.user_id:
        attributes["userid"] = context.user_id
    if context.subprotocol:
        attributes["subprotocol"] = context.subprotocol
    # A state that was set to the empty text is one.
    if context.state is not None:
        attributes["connectionstate"] = context.state
    try:
        "".join(attributes.values()).encode()
    except UnicodeEncodeError:
        raise Unsendable("something in the event is half a surrogate pair, which UTF-8 cannot say") from None
    content_type, body = content_of(event)
    return Message(
        id=f"{context.connection_id}/{number}",
        partition=context.connection_id,
        attributes=attributes,
        content_type=content_type,
        payload=event.payload or Payload(JSON, body),
    )
