"""The publish and subscribe tutorial: two plain WebSockets and two client URLs, in three languages."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from tests.running import Service
from tests.tutorials.programs import Program, java, node, python

GROUP = "prices"
SUBSCRIBERS = {
    "python": (python, "pubsub/subscriber.py"),
    "node": (node, "pubsub/subscriber.js"),
    "java": (java, "Subscriber.java"),
}
PUBLISHERS = {
    "python": (python, "pubsub/publisher.py"),
    "node": (node, "pubsub/publisher.js"),
    "java": (java, "Publisher.java"),
}
PUBLISHED = (
    {"dataType": "json", "data": {"price": 12.5, "tags": ["a", "ü"], "sold": None}},
    {"dataType": "text", "data": "Grüße ✓ 🎈"},
    {"dataType": "binary", "data": base64.b64encode(bytes(range(256))).decode()},
)


def connected(frame: dict[str, Any], user_id: str) -> bool:
    """Whether this is the greeting of a new connection."""
    return (
        list(frame) == ["type", "event", "userId", "connectionId"]
        and frame | {"connectionId": ""}
        == {"type": "system", "event": "connected", "userId": user_id, "connectionId": ""}
        and bool(frame["connectionId"])
    )


def acks(count: int) -> list[dict[str, Any]]:
    return [{"type": "ack", "ackId": number, "success": True} for number in range(1, count + 1)]


def received(publisher: str) -> list[dict[str, Any]]:
    origin = {"type": "message", "from": "group", "group": GROUP, "fromUserId": publisher}
    return [origin | message for message in PUBLISHED]


def subscribed(subscriber: Program, user_id: str) -> Program:
    """Wait until it is in the group."""
    assert connected(subscriber.object(), user_id)
    assert subscriber.object() == acks(1)[0]
    return subscriber


def test_with_client_urls_of_the_command_line(run: Callable[..., Program], service: Service, hub: str) -> None:
    generator = ["webpubsub", "client", "url", "--hub-name", hub]
    may_join = service.manage(*generator, "--user-id", "reader", "--role", f"webpubsub.joinLeaveGroup.{GROUP}")
    may_send = service.manage(*generator, "--user-id", "writer", "--role", f"webpubsub.sendToGroup.{GROUP}")

    subscriber = run(python("pubsub/subscriber.py", may_join.stdout.strip(), GROUP, "3"))
    subscribed(subscriber, "reader")
    publisher = run(python("pubsub/publisher.py", may_send.stdout.strip(), GROUP))
    assert connected(publisher.object(), "writer")
    assert [publisher.object() for _ in PUBLISHED] == acks(3)
    publisher.end()
    assert [subscriber.object() for _ in PUBLISHED] == received("writer")
    assert subscriber.object() == {"closed": 1000}
    subscriber.end()


def test_each_language_reads_what_each_language_writes(
    run: Callable[..., Program], client_url: Callable[..., str]
) -> None:
    count = str(len(PUBLISHERS) * len(PUBLISHED))
    subscribers = [
        (run(command(program, client_url(f"{language} reader", "webpubsub.joinLeaveGroup"), GROUP, count)), language)
        for language, (command, program) in SUBSCRIBERS.items()
    ]
    for subscriber, language in subscribers:
        subscribed(subscriber, f"{language} reader")

    for language, (command, program) in PUBLISHERS.items():
        publisher = run(command(program, client_url(language, "webpubsub.sendToGroup"), GROUP))
        assert connected(publisher.object(), language)
        assert [publisher.object() for _ in PUBLISHED] == acks(3)
        publisher.end()
        for subscriber, _ in subscribers:
            assert [subscriber.object() for _ in PUBLISHED] == received(language)

    for subscriber, _ in subscribers:
        assert subscriber.object() == {"closed": 1000}
        subscriber.end()


@pytest.mark.parametrize("language", PUBLISHERS)
def test_a_publisher_without_the_role_is_told(
    language: str, run: Callable[..., Program], client_url: Callable[..., str]
) -> None:
    command, program = PUBLISHERS[language]
    publisher = run(command(program, client_url(language, "webpubsub.sendToGroup.others"), GROUP))
    assert connected(publisher.object(), language)
    message = f"The client does not have permission to send to group '{GROUP}'."
    for number in range(1, 4):
        assert publisher.object() == {
            "type": "ack",
            "ackId": number,
            "success": False,
            "error": {"name": "Forbidden", "message": message},
        }
    publisher.end(code=1)
