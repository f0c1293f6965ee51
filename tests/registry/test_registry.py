"""Whom of the connections of a process an audience means, and that nothing is left of those who went."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hubs.protocols.codec import CODECS
from hubs.registry.registry import Registry
from hubs.rules.audiences import Audience, includes


class Visitor:
    """As much of a connection as matters here."""

    codec: Any = CODECS["json.webpubsub.azure.v1"]
    subprotocol = codec.name
    socket = None

    def __init__(self, hub: str, user_id: str | None, *groups: str) -> None:
        self.id = secrets.token_hex(8)
        self.hub, self.user_id = hub, user_id
        self.groups = set(groups)


# The test's own idea of each filter.
FILTERS: dict[str | None, Callable[[Any], bool]] = {
    None: lambda visitor: True,
    "userId eq 'ann'": lambda visitor: visitor.user_id == "ann",
    "userId eq null": lambda visitor: visitor.user_id is None,
    "'g' in groups and not('h' in groups)": lambda visitor: "g" in visitor.groups and "h" not in visitor.groups,
    "userId ne 'ann' or 'h' in groups": lambda visitor: visitor.user_id != "ann" or "h" in visitor.groups,
}
HUBS = ("chat", "chat2")
GROUPS = (None, "g", "h", "G", "nowhere")
USERS = (None, "ann", "é 👋", "", "nobody")


def test_an_audience_is_all_that_every_part_holds_for() -> None:
    registry = Registry()
    visitors: list[Any] = [
        Visitor(hub, user_id, *groups)
        for hub, user_id, groups in product(HUBS, (None, "ann", "é 👋"), ((), ("g",), ("g", "h")))
    ]
    for visitor in visitors:
        registry.attach(visitor)
    excluded = (visitors[2].id, visitors[4].id, visitors[-1].id, "no such id")
    for hub, group, user_id, filter, out in product(HUBS, GROUPS, USERS, FILTERS, ((), excluded)):
        audience = Audience(hub, group, user_id, filter, out)
        meant = [
            visitor
            for visitor in visitors
            if visitor.hub == hub
            and (group is None or group in visitor.groups)
            and (user_id is None or user_id == visitor.user_id)
            and FILTERS[filter](visitor)
            and visitor.id not in out
        ]
        assert list(registry.meant(audience)) == meant, audience
        assert set(registry.among(audience).values()) >= set(meant)
        # What one connection that is made again asks of itself.
        assert [visitor for visitor in visitors if visitor.hub == hub and includes(audience, visitor)] == meant


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["attach", "detach", "join", "leave", "opened"]), st.integers(0, 5), st.sampled_from("gh")
    ),
    max_size=40,
)


@given(_STEPS)
def test_whoever_comes_and_goes_each_audience_has_those_who_are_there(steps: list[tuple[str, int, str]]) -> None:
    registry = Registry()
    visitors: list[Any] = [Visitor(HUBS[number % 2], (None, "ann", "bob")[number % 3]) for number in range(6)]
    present: list[Any] = []
    for verb, who, group in steps:
        visitor = visitors[who]
        if verb == "attach" and visitor not in present:
            present.append(visitor)
            registry.attach(visitor)
        elif verb == "detach":
            assert registry.detach(visitor) == (visitor in present)
            if visitor in present:
                present.remove(visitor)
        elif verb == "join" and visitor in present:
            visitor.groups.add(group)
            registry.join(visitor, group)
        elif verb == "leave":
            visitor.groups.discard(group)
            registry.leave(visitor, group)
        elif verb == "opened":
            registry.opened(visitor)
        for hub, audience_group, user_id in product(HUBS, (None, "g", "h"), (None, "ann")):
            meant = {visitor for visitor in present if visitor.hub == hub}
            if audience_group is not None:
                meant = {visitor for visitor in meant if audience_group in visitor.groups}
            if user_id is not None:
                meant = {visitor for visitor in meant if visitor.user_id == user_id}
            assert set(registry.meant(Audience(hub, audience_group, user_id))) == meant
        assert [registry.serves(hub) for hub in HUBS] == [any(each.hub == hub for each in present) for hub in HUBS]
    for visitor in present:
        registry.detach(visitor)
    assert [registry.connections, registry.hubs, registry.users, registry.groups] == [{}] * 4


def test_an_older_life_of_a_connection_takes_nothing_from_a_newer_one() -> None:
    """A connection may leave this process and come back while the old one's work goes on."""
    registry = Registry()
    old: Any = Visitor("chat", "ann", "g")
    new: Any = Visitor("chat", "ann", "g")
    new.id = old.id
    registry.attach(old)
    registry.detach(old)
    registry.attach(new)
    assert old not in registry
    assert not registry.detach(old)
    registry.leave(old, "g")
    for audience in (Audience("chat"), Audience("chat", "g"), Audience("chat", user_id="ann")):
        assert list(registry.meant(audience)) == [new]
