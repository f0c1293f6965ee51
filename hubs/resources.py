"""Hubs with their event handlers, keys and role grants as programs see them: JSON with the names of Azure's resources.

The management API answers with these shapes, the command line prints them, and the OpenAPI
document is written from them, so each is said here and nowhere else. A resource has a name and
`properties`; what a program sends has `properties` alone, because the name stands in the address.
Shapes of requests refuse members they do not know: a typing slip is an error, not a setting lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from django.core.exceptions import ImproperlyConfigured
from msgspec import UNSET, Meta, Struct, UnsetType

from hubs import conf, models
from hubs.rules import event_routing, names, roles, tokens

MAX_NAME_CHARACTERS = 150  # of Django's users and groups

# No database keeps a NUL in a text; PostgreSQL fails on one.
_NO_NUL = r"^[^\u0000]+$"
# Up to five stars, a backslash only before one of the three characters that it makes literal.
_PIECE = r"(?:[^\\*\u0000]|\\[?*\\])*"
_PATTERN = rf"^{_PIECE}(?:\*{_PIECE}){{0,{roles.MAX_PATTERN_STARS}}}$"

Policy = Literal["allow", "deny"]
Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
HubName = Annotated[
    str,
    Meta(
        pattern=f"^{names.HUB}$",
        max_length=128,
        description="A hub's name is a letter, then at most 127 letters, digits or _ ` , . [ ] characters.",
    ),
]
UserName = Annotated[
    str,
    Meta(
        pattern=_NO_NUL,
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        description=f"The name of a user has 1 to {MAX_NAME_CHARACTERS} characters.",
    ),
]
GroupName = Annotated[
    str,
    Meta(
        pattern=_NO_NUL,
        min_length=1,
        max_length=MAX_NAME_CHARACTERS,
        description=f"The name of a Django group has 1 to {MAX_NAME_CHARACTERS} characters.",
    ),
]
GroupPattern = Annotated[
    str,
    Meta(
        pattern=_PATTERN,
        max_length=roles.MAX_PATTERN_CHARACTERS,
        description=f"A group pattern has at most {roles.MAX_PATTERN_CHARACTERS} characters and "
        f"{roles.MAX_PATTERN_STARS} stars, and a backslash only before ? * or \\.",
    ),
]
Who = Literal["user", "group", "authenticated", "anonymous"]
Role = Literal["joinLeaveGroup", "sendToGroup"]
KeyType = Literal["Primary", "Secondary"]
Url = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=event_routing.MAX_URL_CHARACTERS,
        description=f"A URL has at most {event_routing.MAX_URL_CHARACTERS} characters.",
    ),
]
EventPattern = Annotated[
    str,
    Meta(
        max_length=event_routing.MAX_EVENT_PATTERN_CHARACTERS,
        description="`*`, or names and patterns of events between commas, with at most "
        f"{event_routing.MAX_EVENT_PATTERN_CHARACTERS} characters; empty: no user events.",
    ),
]
Secret = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=event_routing.MAX_TOKEN_CHARACTERS,
        description=f"A secret has 1 to {event_routing.MAX_TOKEN_CHARACTERS} characters.",
    ),
]
StreamName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=event_routing.MAX_STREAM_CHARACTERS,
        description=f"The name of a stream has 1 to {event_routing.MAX_STREAM_CHARACTERS} characters.",
    ),
]
HandlerEvent = Literal["connect", "connected", "disconnected"]
ListenerEvent = Literal["connected", "disconnected"]
HandlerAuthType = Literal["None", "Bearer"]
ListenerAuthType = Literal["None", "Bearer", "Password"]


class Shape(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """A JSON object."""


# Event handlers and listeners
#
# As in Azure, they are members of their hub and are set as a whole. Secrets go in and never come out: where one
# is left out, the one that was there for the same URL is kept, so that what was read can be written back.


class HandlerAuth(Shape):
    """What a handler is shown: nothing, or `Authorization: Bearer …`."""

    type: HandlerAuthType = "None"


class NewHandlerAuth(HandlerAuth):
    """What a handler is to be shown. Without `token` the one that the same URL had is kept."""

    token: Secret | UnsetType = UNSET


class ListenerAuth(Shape):
    """What a listener is shown: nothing, a bearer token (webhooks), or a password (Redis)."""

    type: ListenerAuthType = "None"


class NewListenerAuth(ListenerAuth):
    """What a listener is to be shown. Without `token` the one that the same address had is kept."""

    token: Secret | UnsetType = UNSET


class EventHandler(Shape):
    """A webhook that takes part in the conversation. The first of a hub's that takes an event gets it.

    `urlTemplate` may have `{hub}` and `{event}` in its path and query. `enabled` is not in Azure.
    """

    url_template: Url
    user_event_pattern: EventPattern
    system_events: list[HandlerEvent]
    auth: HandlerAuth
    enabled: bool


class NewEventHandler(Shape):
    """An event handler to be set; what is left out gets its default."""

    url_template: Url
    user_event_pattern: EventPattern | None = ""
    system_events: list[HandlerEvent] | None = []
    auth: NewHandlerAuth | None = None
    enabled: bool = True


class RedisStream(Shape, tag_field="type", tag="RedisStream"):
    """A stream of a Redis server. `url` is such as `redis://localhost:6379/0`."""

    url: Url
    stream: StreamName

    @classmethod
    def from_row(cls, row: models.EventListener) -> RedisStream:
        """The endpoint of a listener of this kind."""
        return cls(url=row.url, stream=row.stream)


class Webhook(Shape, tag_field="type", tag="Webhook"):
    """A URL that events are posted to."""

    url: Url

    @classmethod
    def from_row(cls, row: models.EventListener) -> Webhook:
        """The endpoint of a listener of this kind."""
        return cls(url=row.url)


# By the model's kind. Another kind is a row here, and one in the unions below.
LISTENER_ENDPOINTS: dict[str, type[RedisStream] | type[Webhook]] = {"redis_stream": RedisStream, "webhook": Webhook}


class EventNameFilter(Shape):
    """The events that a listener gets."""

    type: Literal["EventName"] = "EventName"
    system_events: list[ListenerEvent] | None = []
    user_event_pattern: EventPattern | None = ""


class EventListener(Shape):
    """Somewhere that copies of events go. `auth` and `enabled` are not in Azure, whose only endpoint is `EventHub`."""

    endpoint: RedisStream | Webhook
    filter: EventNameFilter
    auth: ListenerAuth
    enabled: bool


class NewEventListener(Shape):
    """An event listener to be set; what is left out gets its default."""

    endpoint: RedisStream | Webhook
    filter: EventNameFilter
    auth: NewListenerAuth | None = None
    enabled: bool = True


NewEventHandlers = Annotated[
    list[NewEventHandler],
    Meta(
        max_length=event_routing.MAX_HANDLERS_PER_HUB,
        description=f"A hub has at most {event_routing.MAX_HANDLERS_PER_HUB} event handlers.",
    ),
]
NewEventListeners = Annotated[
    list[NewEventListener],
    Meta(
        max_length=event_routing.MAX_LISTENERS,
        description=f"All hubs together have at most {event_routing.MAX_LISTENERS} event listeners.",
    ),
]


def event_handler(row: models.EventHandler) -> EventHandler:
    """An event handler's row as a resource; its secret is not in it."""
    words: Mapping[str, Any] = {"system_events": row.system_events}
    return EventHandler(
        url_template=row.url_template,
        user_event_pattern=row.user_event_pattern,
        auth=HandlerAuth(type="Bearer" if row.auth_type == row.AuthType.BEARER else "None"),
        enabled=row.enabled,
        **words,
    )


def event_listener(row: models.EventListener) -> EventListener:
    """An event listener's row as a resource; its secret is not in it."""
    auth: Any = str(row.auth_type).capitalize()
    system_events: Any = row.system_events
    return EventListener(
        endpoint=LISTENER_ENDPOINTS[row.kind].from_row(row),
        filter=EventNameFilter(system_events=system_events, user_event_pattern=row.user_event_pattern),
        auth=ListenerAuth(type=auth),
        enabled=row.enabled,
    )


def event_handler_fields(handler: NewEventHandler) -> dict[str, Any]:
    """What a handler is to be, in the model's words; `token` None keeps the present one."""
    return {
        "url_template": handler.url_template,
        "user_event_pattern": handler.user_event_pattern or "",
        "system_events": handler.system_events or [],
        **_auth_fields(handler.auth),
        "enabled": handler.enabled,
    }


def event_listener_fields(listener: NewEventListener) -> dict[str, Any]:
    """What a listener is to be, in the model's words; `token` None keeps the present one."""
    return {
        "kind": next(kind for kind, shape in LISTENER_ENDPOINTS.items() if isinstance(listener.endpoint, shape)),
        "url": listener.endpoint.url,
        "stream": getattr(listener.endpoint, "stream", ""),
        "user_event_pattern": listener.filter.user_event_pattern or "",
        "system_events": listener.filter.system_events or [],
        **_auth_fields(listener.auth),
        "enabled": listener.enabled,
    }


def _auth_fields(auth: NewHandlerAuth | NewListenerAuth | None) -> dict[str, Any]:
    if auth is None:
        return {"auth_type": "none", "token": None}
    return {"auth_type": auth.type.lower(), "token": None if auth.token is UNSET else auth.token}


# Hubs

# Member here → field of the model. `allow` is True there.
POLICIES = {"anonymous_connect_policy": "anonymous_connect", "anonymous_user_id_policy": "anonymous_user_ids"}


class HubProperties(Shape):
    """What a hub is set to.

    `anonymousConnectPolicy`: whether clients may connect without a token; they get no roles.
    `anonymousUserIdPolicy` (not in Azure): whether negotiate gives visitors who are not signed in
    the user id they ask for. Event handlers are tried in their order.
    """

    anonymous_connect_policy: Policy
    anonymous_user_id_policy: Policy
    event_handlers: list[EventHandler]
    event_listeners: list[EventListener]


class SystemData(Shape):
    """When a resource was made and last changed."""

    created_at: Time
    last_modified_at: Time


class HandlerInCode(Shape):
    """An event handler that is a Python function of the application.

    It can only be changed in the code. `function` is its module and its name there.
    """

    function: str
    system_events: list[HandlerEvent]
    user_event_pattern: str


class Hub(Shape):
    """A hub that has settings of its own. Hub names are the same in any letter case; this is the lower one.

    `handlersInCode` (not in Azure) is read only: functions that come before `eventHandlers` for the events they take.
    """

    name: HubName
    properties: HubProperties
    handlers_in_code: list[HandlerInCode]
    system_data: SystemData


class NewHubProperties(Shape):
    """What a hub is to be set to; what is left out gets its default."""

    anonymous_connect_policy: Policy = "deny"
    anonymous_user_id_policy: Policy = "deny"
    event_handlers: NewEventHandlers = []
    event_listeners: NewEventListeners = []


class NewHub(Shape):
    """A hub to create or replace."""

    properties: NewHubProperties


class HubPropertyChanges(Shape):
    """What of a hub's settings is to change; what is left out stays as it is. A list is set as a whole."""

    anonymous_connect_policy: Policy | UnsetType = UNSET
    anonymous_user_id_policy: Policy | UnsetType = UNSET
    event_handlers: NewEventHandlers | UnsetType = UNSET
    event_listeners: NewEventListeners | UnsetType = UNSET


class HubChanges(Shape):
    """A change of a hub."""

    properties: HubPropertyChanges


def hub(row: models.Hub, in_code: Iterable[event_routing.HandlerFunction]) -> Hub:
    """A hub's row as a resource, with the event handlers that it has in code."""
    policies: dict[str, Any] = {name: _policy(getattr(row, field)) for name, field in POLICIES.items()}
    return Hub(
        name=row.name,
        properties=HubProperties(
            event_handlers=[event_handler(handler) for handler in row.event_handlers.all()],
            event_listeners=[event_listener(listener) for listener in row.event_listeners.all()],
            **policies,
        ),
        handlers_in_code=[_handler_in_code(function) for function in in_code],
        system_data=SystemData(created_at=_time(row.created_at), last_modified_at=_time(row.updated_at)),
    )


def _handler_in_code(function: event_routing.HandlerFunction) -> HandlerInCode:
    words: Mapping[str, Any] = {"system_events": list(function.system_events)}
    return HandlerInCode(function=function.function, user_event_pattern=function.user_event_pattern, **words)


def hub_fields(properties: NewHubProperties | HubPropertyChanges) -> dict[str, Any]:
    """What the properties say, in the model's words. What was left out of changes is left out here."""
    said = {field: getattr(properties, name) for name, field in POLICIES.items()}
    fields: dict[str, Any] = {field: policy == "allow" for field, policy in said.items() if policy is not UNSET}
    if properties.event_handlers is not UNSET:
        fields["event_handlers"] = [event_handler_fields(handler) for handler in properties.event_handlers]
    if properties.event_listeners is not UNSET:
        fields["event_listeners"] = [event_listener_fields(listener) for listener in properties.event_listeners]
    return fields


def _policy(allowed: bool) -> Policy:
    return "allow" if allowed else "deny"


def _time(moment: datetime) -> str:
    return moment.isoformat()


# Access keys


class Keys(Shape):
    """The two access keys of a scope with their connection strings; `null` where there is none, or none readable."""

    primary_key: str | None
    primary_connection_string: str | None
    secondary_key: str | None
    secondary_connection_string: str | None


class KeyChoice(Shape):
    """Which of the two keys is meant."""

    key_type: KeyType


def keys(pair: Iterable[models.AccessKey], *, readable_only: bool = False) -> Keys:
    """The keys of a scope as a resource.

    Raises ImproperlyConfigured for one that cannot be read with this SECRET_KEY, but with `readable_only`, which
    answers who has just replaced one of two such keys.
    """
    texts: dict[str, str] = {}
    for key in pair:
        try:
            texts[key.slot] = key.text
        except ImproperlyConfigured:
            if not readable_only:
                raise
    members: dict[str, str | None] = {}
    for slot in models.AccessKey.Slot.values:
        text = texts.get(slot)
        members[f"{slot}_key"] = text
        members[f"{slot}_connection_string"] = None if text is None else connection_string(text)
    return Keys(**members)


def connection_string(key: str) -> str:
    """What programs are configured with: the first public endpoint, and a key (or a mask of one)."""
    endpoint: str = conf.settings.PUBLIC_ENDPOINTS[0]
    return tokens.connection_string(endpoint.rstrip("/"), key)


# Role grants


class RoleGrantProperties(Shape):
    """Who gets which role in which hub when they negotiate.

    `hub` null: every hub. `who` says whether `user` (a user name) or `group` (the name of a Django
    group) is set; both are null for everyone signed in and for anonymous visitors. `groupPattern` is
    empty for every group, or a group's name, or a pattern with `?`, `*` and `**`. `joinAtConnect`
    makes new connections members of the one group named.
    """

    hub: HubName | None
    who: Who
    user: UserName | None
    group: GroupName | None
    role: Role
    group_pattern: GroupPattern
    join_at_connect: bool


GRANT_NAME = "[1-9][0-9]{0,18}"
GrantName = Annotated[str, Meta(pattern=f"^{GRANT_NAME}$", description="Chosen by the service.")]


class RoleGrant(Shape):
    """One role grant."""

    name: GrantName
    properties: RoleGrantProperties


class NewRoleGrantProperties(Shape):
    """What a role grant is to say; what is left out gets its default."""

    who: Who
    role: Role
    hub: HubName | None = None
    user: UserName | None = None
    group: GroupName | None = None
    group_pattern: GroupPattern = ""
    join_at_connect: bool = False


# How members of a grant depend on each other, for programs that check before they send. The model enforces it.
_NULL = {"type": "null"}
_GRANT_RULES: dict[str, Any] = {
    "oneOf": [
        {"properties": {"who": {"const": "user"}, "user": {"type": "string"}, "group": _NULL}, "required": ["user"]},
        {"properties": {"who": {"const": "group"}, "group": {"type": "string"}, "user": _NULL}, "required": ["group"]},
        {"properties": {"who": {"enum": ["authenticated", "anonymous"]}, "user": _NULL, "group": _NULL}},
    ],
    "anyOf": [
        {"properties": {"joinAtConnect": {"const": False}}},
        {
            "properties": {
                "role": {"const": roles.JOIN_LEAVE},
                "groupPattern": {"pattern": r"^(?:[^\\?*]|\\[?*\\])+$"},
            },
            "required": ["groupPattern"],
        },
    ],
}


class NewRoleGrant(Shape):
    """A role grant to make, or to put in the place of another."""

    properties: Annotated[NewRoleGrantProperties, Meta(extra_json_schema=_GRANT_RULES)]


class RoleGrantPropertyChanges(Shape):
    """What of a role grant is to change; what is left out stays as it is."""

    who: Who | UnsetType = UNSET
    role: Role | UnsetType = UNSET
    hub: HubName | UnsetType | None = UNSET
    user: UserName | UnsetType | None = UNSET
    group: GroupName | UnsetType | None = UNSET
    group_pattern: GroupPattern | UnsetType = UNSET
    join_at_connect: bool | UnsetType = UNSET


class RoleGrantChanges(Shape):
    """A change of a role grant."""

    properties: RoleGrantPropertyChanges


def role_grant_fields(
    properties: NewRoleGrantProperties | RoleGrantPropertyChanges,
) -> tuple[dict[str, str | None], dict[str, Any]]:
    """What the properties say, in the model's words: rows that are named, and values. What was left out is left out."""
    said = {field: getattr(properties, field) for field in properties.__struct_fields__}
    given = {field: value for field, value in said.items() if value is not UNSET}
    named: dict[str, str | None] = {field: given.pop(field) for field in ("hub", "user", "group") if field in given}
    return named, given


def role_grant(row: models.RoleGrant) -> RoleGrant:
    """A role grant's row as a resource. Its user, group and hub have to be fetched with it."""
    # The model's choices are the words of the literals above.
    words: Mapping[str, Any] = {"who": str(row.who), "role": str(row.role)}
    return RoleGrant(
        name=str(row.pk),
        properties=RoleGrantProperties(
            hub=row.hub.name if row.hub else None,
            user=row.user.get_username() if row.user else None,
            group=row.group.name if row.group else None,
            group_pattern=row.group_pattern,
            join_at_connect=row.join_at_connect,
            **words,
        ),
    )


# Listings


class HubPage(Shape):
    """Hubs in the order of their names. `nextLink` leads to more; without it this was the last page."""

    value: list[Hub]
    next_link: str | UnsetType = UNSET


class RoleGrantPage(Shape):
    """Role grants in the order they were made. `nextLink` leads to more; without it this was the last page."""

    value: list[RoleGrant]
    next_link: str | UnsetType = UNSET
