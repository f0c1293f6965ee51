"""Event listeners that are webhooks: events come to them in batches, as CloudEvents in JSON.

A batch is one POST of `application/cloudevents-batch+json`, made by the client that also calls event
handlers, with its guard: public addresses alone, no redirects. Any 2xx says that the batch was taken.
What else an answer means for the batch:

    408, 429, 502, 503, 504, no connection    nobody took it: it is kept until somebody does
    413                                       the same in halves
    other 5xx, no answer in time, bad HTTP    something in it may be what they stumble over: four attempts
    everything else                           they do not want it: it is dropped
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import msgspec

from hubs.hub_settings import EventListenerSettings
from hubs.protocols.frames import JSON, TEXT, Payload
from hubs.upstream import webhooks
from hubs.upstream.concurrency import HandlerProblem
from hubs.upstream.listeners.message import Message
from hubs.upstream.listeners.transport import TransportError
from hubs.upstream.webhooks import NetworkTrouble

CONTENT_TYPE = "application/cloudevents-batch+json; charset=utf-8"

ANSWER_SECS = 20.0
TRIES = 4

_NOBODY_TOOK_IT = frozenset({408, 429, 502, 503, 504})
_TOO_LARGE = 413

_any_json = msgspec.json.Decoder(msgspec.Raw)


class WebhookBatches:
    """Posts batches of events."""

    max_messages = 100
    max_bytes = 256 * 1024

    def __init__(self, listener: EventListenerSettings) -> None:
        self._url = listener.address
        self._headers = {"Content-Type": CONTENT_TYPE}
        if listener.authorization:
            self._headers["Authorization"] = listener.authorization

    async def send(self, batch: Sequence[Message]) -> None:
        """Post a batch. Raises TransportError."""
        body = msgspec.json.encode([in_json(message) for message in batch])
        try:
            async with asyncio.timeout(ANSWER_SECS):
                answer = await webhooks.client().exchange("POST", self._url, self._headers, body)
        except NetworkTrouble as problem:
            raise TransportError(str(problem)) from None
        except HandlerProblem as problem:
            raise TransportError(str(problem), tries=TRIES) from None
        except TimeoutError:
            raise TransportError(f"no answer within {ANSWER_SECS:g} seconds", tries=TRIES) from None
        if answer.accepted:
            return
        tries: int | None = 1
        if answer.status in _NOBODY_TOOK_IT:
            tries = None
        elif answer.status >= 500:
            tries = TRIES
        raise TransportError(
            f"the answer's status is {answer.status}",
            status=answer.status,
            tries=tries,
            too_large=answer.status == _TOO_LARGE,
        )

    async def close(self) -> None:
        """Nothing to let go of: the HTTP client is everybody's."""


def in_json(message: Message) -> dict[str, Any]:
    """An event in the JSON format of CloudEvents."""
    return {**message.attributes, "datacontenttype": message.content_type, **_data(message.payload)}


def _data(payload: Payload) -> dict[str, Any]:
    """The data as JSON can say it; bytes where it cannot."""
    try:
        if payload.data_type == JSON:
            # As it came: numbers keep their digits. Read once, since it must not spoil the batch around it.
            return {"data": _any_json.decode(payload.data)}
        if payload.data_type == TEXT:
            return {"data": payload.data.decode()}
    except ValueError:
        pass
    return {"data_base64": base64.b64encode(payload.data).decode()}
