"""Hubs, keys and role grants as JSON."""

from __future__ import annotations

import re

import msgspec
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

from hubs import models, resources
from hubs.rules import roles


def test_settings_of_a_hub_have_a_place_in_every_shape() -> None:
    for shape in (resources.HubProperties, resources.NewHubProperties, resources.HubPropertyChanges):
        assert set(shape.__struct_fields__) == {*resources.POLICIES, "event_handlers", "event_listeners"}
    assert set(resources.POLICIES.values()) == {
        field.name
        for field in models.Hub._meta.get_fields()
        if getattr(field, "get_internal_type", str)() == "BooleanField"
    }


def test_a_new_hub_has_the_defaults_of_the_model() -> None:
    row = models.Hub()
    fields = resources.hub_fields(resources.NewHubProperties())
    policies = {field: getattr(row, field) for field in resources.POLICIES.values()}
    assert fields == {**policies, "event_handlers": [], "event_listeners": []}


def test_changes_leave_out_what_they_leave_out() -> None:
    assert resources.hub_fields(resources.HubPropertyChanges()) == {}
    changes = resources.HubPropertyChanges(anonymous_connect_policy="allow")
    assert resources.hub_fields(changes) == {"anonymous_connect": True}
    assert resources.role_grant_fields(resources.RoleGrantPropertyChanges(hub=None, role="sendToGroup")) == (
        {"hub": None},
        {"role": "sendToGroup"},
    )


def test_what_is_shown_of_handlers_can_be_written_back() -> None:
    hub = models.Hub(name="chat")
    for row, shown, shape, fields in (
        (
            models.EventHandler(
                hub=hub,
                url_template="https://a.example/{event}",
                on_connect=True,
                auth_type="bearer",
                encrypted_token="x",
            ),
            resources.event_handler,
            resources.NewEventHandler,
            resources.event_handler_fields,
        ),
        (
            models.EventListener(hub=hub, kind="redis_stream", url="redis://a.example", stream="s", on_connected=True),
            resources.event_listener,
            resources.NewEventListener,
            resources.event_listener_fields,
        ),
        (
            models.EventListener(
                hub=hub, kind="webhook", url="https://a.example", user_event_pattern="*", enabled=False
            ),
            resources.event_listener,
            resources.NewEventListener,
            resources.event_listener_fields,
        ),
    ):
        written = msgspec.json.encode(shown(row))  # type: ignore[operator]
        given = fields(msgspec.json.decode(written, type=shape))  # type: ignore[operator]
        assert given.pop("token") is None
        assert given == {field: getattr(row, field) for field in given}


def test_shapes_of_a_grant_name_the_same_members() -> None:
    members = set(resources.RoleGrantProperties.__struct_fields__)
    assert members == set(resources.NewRoleGrantProperties.__struct_fields__)
    assert members == set(resources.RoleGrantPropertyChanges.__struct_fields__)


@pytest.mark.django_db
def test_keys_that_cannot_be_read() -> None:
    primary, secondary = models.AccessKey.objects.ensure_pair()
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[]):
        primary.regenerate()
        with pytest.raises(ImproperlyConfigured):
            resources.keys([primary, secondary])
        shown = resources.keys([primary, secondary], readable_only=True)
        assert (shown.primary_key, shown.secondary_key) == (primary.text, None)
        assert shown.secondary_connection_string is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "room",
        "room.*",
        "a\\*",
        "a\\?b\\\\",
        "*" * 5,
        "**.?.**",
        "\\",
        "a\\b",
        "*" * 6,
        "*a*b*c*d*e*",
        "\\*" * 9,
        "x" * 1025,
    ],
)
def test_the_pattern_of_group_patterns_is_the_rules(text: str) -> None:
    class Holder(resources.Shape):
        value: resources.GroupPattern

    try:
        msgspec.convert({"value": text}, Holder)
        taken = True
    except msgspec.ValidationError:
        taken = False
    assert taken is (text == "" or roles.is_group_text(text))


def test_a_group_pattern_is_read_in_linear_time() -> None:
    pattern = msgspec.json.schema(resources.GroupPattern)["pattern"]
    for text in ("*" * 6 + "a" * 1000, "\\" * 1023, "a*" * 500, "\\*" * 511 + "\\"):
        assert re.search(pattern, text) is None
