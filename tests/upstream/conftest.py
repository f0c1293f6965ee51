"""Event handlers of hubs that only one test has."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest

from hubs.upstream import EventContext, handlers, hub
from hubs.upstream.handlers import HubHandlers


@pytest.fixture
def application() -> Iterator[HubHandlers]:
    """The event handlers of a hub that only this test has."""
    own = hub(f"hub_{secrets.token_hex(6)}")
    yield own
    del handlers._HUBS[own.hub]


@pytest.fixture
def context(application: HubHandlers) -> EventContext:
    """A connection to that hub."""
    return EventContext(application.hub, "0" * 32, "u", "json.webpubsub.azure.v1")
