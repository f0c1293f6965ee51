"""The moderator's functions, called as the service calls them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.apps import apps

from hubs.demos import moderation
from hubs.protocols.frames import BINARY, JSON, TEXT, Payload
from hubs.upstream import ConnectRequest, EventContext, Rejected, Reply, UserEventRequest
from hubs.upstream.handlers import handlers_of


def test_a_plain_installation_has_the_moderator() -> None:
    assert apps.is_installed("hubs.demos")
    own = handlers_of("moderated")
    assert own is not None
    assert (own.system["connect"], own.for_event("say")) == (moderation.come_in, moderation.say)


@pytest.mark.parametrize(
    ("text", "masked", "number"),
    [
        ("Good morning", "Good morning", 0),
        ("Drat! What RUBBISH, oh heck.", "****! What *******, oh ****.", 3),
        ("heckle, brubbish, drat-free", "heckle, brubbish, ****-free", 1),
    ],
)
def test_bad_words_are_masked(text: str, masked: str, number: int) -> None:
    assert moderation.mask(text) == (masked, number)


def joining(user_id: str | None = None, **query: list[str]) -> ConnectRequest:
    return ConnectRequest(EventContext("moderated", "c", user_id), query=query)


async def test_everybody_gets_a_name_a_place_and_no_role() -> None:
    answer = await moderation.come_in(joining(name=[" Ada "]))
    assert (answer.user_id, answer.groups, answer.roles) == ("Ada (guest)", ["room"], [])
    # Who is signed in cannot say another name.
    answer = await moderation.come_in(joining("ada", name=["Grace"]))
    assert (answer.user_id, answer.groups, answer.roles) == ("ada", ["room"], [])


@pytest.mark.parametrize("query", [{}, {"name": [""]}, {"name": ["  "]}, {"name": ["a\nb"]}, {"name": ["x" * 65]}])
async def test_nobody_comes_in_without_a_name(query: dict[str, list[str]]) -> None:
    with pytest.raises(Rejected, match="Say who you are") as refused:
        await moderation.come_in(joining(**query))
    assert refused.value.status == 400


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the moderator sends on; the service itself is in the browser's tests."""
    messages: list[Any] = []

    async def send(group: str, message: Any, *, excluded: list[str]) -> None:
        messages.append((group, message, excluded))

    monkeypatch.setattr(moderation.service, "send_to_group", send)
    return messages


async def said(data: Any, state: str | None = None) -> Reply:
    payload = data if isinstance(data, Payload) else Payload(JSON, json.dumps(data).encode())
    context = EventContext("moderated", "c0ffee", "Ada (guest)", state=state)
    return await moderation.say(UserEventRequest(context, "say", payload))


def answer_of(reply: Reply) -> Any:
    assert reply.payload is not None
    return json.loads(reply.payload.data)


async def test_a_message_is_sent_on_and_counted(sent: list[Any]) -> None:
    reply = await said({"text": "oh drat", "id": "1"})
    assert sent == [("room", {"id": "1", "from": "Ada (guest)", "text": "oh ****", "masked": 1}, ["c0ffee"])]
    statistics = {"messages": 1, "masked": 1}
    assert answer_of(reply) == {"id": "1", "text": "oh ****", "masked": 1, "statistics": statistics}
    again = await said({"text": "heck, heck", "id": "2"}, reply.state)
    assert answer_of(again)["statistics"] == {"messages": 2, "masked": 3}


@pytest.mark.parametrize(
    "data",
    [
        {"text": " "},
        {"text": "x" * 4001},
        {"text": 1},
        {},
        [],
        None,
        Payload(TEXT, b"text"),
        Payload(BINARY, b"\xff"),
    ],
)
async def test_what_cannot_be_said_is_refused(sent: list[Any], data: Any) -> None:
    reply = await said(data)
    assert answer_of(reply) == {"id": "", "refused": "A message has 1 to 4000 characters."}
    assert reply.state is None
    assert sent == []
