"""The moderator of the moderated chat: event handlers as an app of yours would have them.

Clients of the hub `moderated` have no role, so none can send to the room itself. What they write goes
to `say` as an event; the moderator masks bad words, sends the rest on, and answers its writer with
what became of it and with statistics. Those are kept in the connection's state, so any process of
the service can handle the next event.

Who is signed in keeps the account's name. Others say theirs in the client URL's query, and are marked
as guests, in a way that no account is called.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from hubs.service import ServiceClient
from hubs.upstream import ConnectAnswer, ConnectRequest, Rejected, Reply, UserEventRequest, hub

HUB = "moderated"
ROOM = "room"

# Mild ones, to try with. A moderator with a real list does the same, or asks another service here.
WORDS = ("blast", "bother", "dang", "drat", "heck", "rubbish")

MAX_CHARACTERS = 4000
MAX_NAME_CHARACTERS = 64
MAX_ID_CHARACTERS = 64

_WORDS = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)

handlers = hub(HUB)
service = ServiceClient(HUB)


@handlers.on_connect
async def come_in(request: ConnectRequest) -> ConnectAnswer:
    """Give everybody a name and a place in the room, and no right to anything else."""
    name = request.context.user_id
    if name is None:
        (said, *_) = request.query.get("name", [""])
        if not 0 < len(said.strip()) <= MAX_NAME_CHARACTERS or not said.isprintable():
            raise Rejected(400, f"Say who you are: name=, 1 to {MAX_NAME_CHARACTERS} characters.")
        name = f"{said.strip()} (guest)"
    return ConnectAnswer(user_id=name, groups=[ROOM], roles=[])


@handlers.on_event("say")
async def say(request: UserEventRequest) -> Reply:
    """Send a message on as far as it may be said, and tell its writer."""
    context = request.context
    text, message_id = _read(request)
    if not text:
        return Reply.of({"id": message_id, "refused": f"A message has 1 to {MAX_CHARACTERS} characters."})
    text, masked = mask(text)
    await service.send_to_group(
        ROOM,
        {"id": message_id, "from": context.user_id, "text": text, "masked": masked},
        excluded=[context.connection_id],
    )
    before = json.loads(context.state or "{}")
    statistics = {
        "messages": before.get("messages", 0) + 1,
        "masked": before.get("masked", 0) + masked,
    }
    answer = {"id": message_id, "text": text, "masked": masked, "statistics": statistics}
    return replace(Reply.of(answer), state=json.dumps(statistics))


def mask(text: str) -> tuple[str, int]:
    """Put stars for bad words; also gives how many there were."""
    return _WORDS.subn(lambda word: "*" * len(word[0]), text)


def _read(request: UserEventRequest) -> tuple[str, str]:
    """What a client wants to say ("" if that cannot be said), and what it calls the message."""
    data: Any = request.data
    if not isinstance(data, dict):
        return "", ""
    text, message_id = data.get("text"), data.get("id")
    if not isinstance(text, str) or not 0 < len(text) <= MAX_CHARACTERS or text.isspace():
        text = ""
    if not isinstance(message_id, str) or len(message_id) > MAX_ID_CHARACTERS:
        message_id = ""
    return text, message_id
