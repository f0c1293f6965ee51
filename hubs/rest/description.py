"""What the operations of the data plane are called, take and answer, for people and for OpenAPI.

How to describe a new operation: add its row to hubs/rest/table.py first. Its path, the parameters
in the row's `options`, its status when done and its error statuses are read from there. Then add
an entry to OPERATIONS under the row's method and path. The entry has

    id, summary, tag      the name SDK generators make a method of, one line, and the heading it stands under
    details               what a line cannot say, or nothing
    parameters            query parameters that the view reads itself, not through the row's `options`
    body                  media types and schemas of the request's body, or None
    answer                what a good answer carries: words, and the schema of its JSON if it has any
    authenticated         False for what anybody may call

A new name in a path needs an entry in IN_PATH, a new option one in OPTIONS. Schemas are JSON Schema
as dictionaries, or msgspec classes, which become components. `manage.py openapi` writes the document
anew; a test fails while a row has no description or the document in docs/openapi is an older one.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

import msgspec

from hubs import client_urls
from hubs.protocols.json import MAX_TTL_SECS
from hubs.rest import bodies, healthz, paging, versions
from hubs.rest.parameters import MAX_INTEGER
from hubs.rules import names, roles
from hubs.rules.filters.parser import MAX_CHARACTERS as MAX_FILTER_CHARACTERS

Schema = Mapping[str, Any]


class Parameter(NamedTuple):
    """One parameter: in the `query`, the `path` or a `header`. Arrays are given by repeating it."""

    name: str
    description: str
    schema: Schema
    where: str = "query"
    required: bool = False


class Header(NamedTuple):
    """One header of an answer; `always` there, or at times."""

    name: str
    description: str
    schema: Schema
    always: bool = False


class Answer(NamedTuple):
    """What is answered: words, and the schema of the JSON if there is any; of a problem document where one may come."""

    description: str
    content: Schema | type | None = None
    headers: tuple[Header, ...] = ()
    problem: type | None = None


class Body(NamedTuple):
    """What may be sent: media type → schema."""

    content: Mapping[str, Schema | type]
    required: bool = True
    description: str = ""


class Operation(NamedTuple):
    """One operation, as this module's opening lines explain."""

    id: str
    tag: str
    summary: str
    answer: Answer
    details: str = ""
    parameters: tuple[Parameter, ...] = ()
    body: Body | None = None
    authenticated: bool = True


# Errors


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """Bad news. `target` names the part of the request that is at fault."""

    code: str
    message: str
    target: str | None
    details: None
    innererror: None


class BadFilter(msgspec.Struct, forbid_unknown_fields=True):
    """A filter that cannot be used. `message` is Azure's, `detail` says where the mistake is and what to write."""

    code: str
    message: str
    target: Literal["filter", "Filter"]
    errors: dict[str, list[str]]
    type: None
    title: Literal["One or more validation errors occurred."]
    status: Literal[400]
    detail: str
    instance: None
    extensions: dict[str, Any]


ERROR_CODE = Header("x-ms-error-code", "The `code` of the body.", {"type": "string"}, always=True)
CHALLENGE = Header("WWW-Authenticate", "How to say who asks.", {"type": "string"}, always=True)
RETRY_AFTER = Header("Retry-After", "Seconds to wait.", {"type": "string", "pattern": "^[0-9]+$"}, always=True)

_REFUSALS: Mapping[HTTPStatus, tuple[str, tuple[Header, ...]]] = {
    HTTPStatus.BAD_REQUEST: ("The request cannot be understood, or asks for what cannot be", ()),
    HTTPStatus.UNAUTHORIZED: ("Nobody known asks", (CHALLENGE,)),
    HTTPStatus.FORBIDDEN: ("The account may not do this", ()),
    HTTPStatus.NOT_FOUND: ("The service serves only hubs that were created, and this one was not", ()),
    HTTPStatus.CONFLICT: ("A bound was reached, such as the permissions or groups that one connection may have", ()),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: ("The body is too large", ()),
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: ("The body is of a type that is not read here", ()),
    HTTPStatus.TOO_MANY_REQUESTS: ("Too many calls", (RETRY_AFTER,)),
    HTTPStatus.SERVICE_UNAVAILABLE: (
        "Other processes of the service, or the database, cannot be reached",
        (RETRY_AFTER,),
    ),
}


def refusal(status: HTTPStatus, words: str = "") -> Answer:
    """What an operation answers when it says no with `status`."""
    usual, headers = _REFUSALS[status]
    return Answer(f"{words or usual}.", Error, (ERROR_CODE, *headers))


# What parameters are like

_TEXT: Schema = {"type": "string"}
_GROUP: Schema = {"type": "string", "minLength": 1, "maxLength": names.MAX_GROUP_CHARACTERS, "pattern": r"\S"}
_USER: Schema = {"type": "string", "minLength": 1, "pattern": r"\S"}
HUB: Schema = {"type": "string", "pattern": f"^{names.HUB}$", "maxLength": 128}
# `format` is a hint: the language is described in the service's documents.
_FILTER: Schema = {"type": "string", "maxLength": MAX_FILTER_CHARACTERS, "format": "odata-filter"}


def _many(of: Schema) -> Schema:
    return {"type": "array", "items": dict(of)}


def _number(least: int, most: int, **more: Any) -> Schema:
    return {"type": "integer", "minimum": least, "maximum": most, **more}


IN_PATH: Mapping[str, Parameter] = {
    "hub": Parameter("hub", "The hub; the same in any letter case.", HUB, "path"),
    "group": Parameter("group", "The group; letter case counts.", _GROUP, "path"),
    "user_id": Parameter("userId", "The user; letter case counts.", _USER, "path"),
    "connection_id": Parameter("connectionId", "The connection's id.", {"type": "string", "minLength": 1}, "path"),
    "permission": Parameter(
        "permission",
        "The permission, in any letter case.",
        {"type": "string", "enum": [roles.SEND, roles.JOIN_LEAVE]},
        "path",
    ),
}

OPTIONS: Mapping[str, Parameter] = {
    "excluded": Parameter("excluded", "Ids of connections that are left out.", _many(_TEXT)),
    "filter": Parameter(
        "filter",
        "Only connections for which this is true. The language is a part of OData's: `userId`, `connectionId`, "
        "`groups` and `protocol`, compared by `eq ne gt ge lt le in`, joined by `and or not`.",
        _FILTER,
    ),
    "messageTtlSeconds": Parameter(
        "messageTtlSeconds",
        "How many seconds the message may wait for a reliable client that is away. With 0, the default, it does not "
        "expire.",
        _number(0, MAX_TTL_SECS),
    ),
    "reason": Parameter("reason", "Why, told to the client.", _TEXT),
}

API_VERSION = Parameter(
    versions.PARAMETER,
    "The version the caller knows. The service behaves the same in all; none means the newest.",
    {"type": "string", "enum": list(versions.SUPPORTED), "default": versions.NEWEST},
)
REQUEST_ID = Parameter("x-ms-client-request-id", "Anything; it comes back with the answer.", _TEXT, "header")
REQUEST_ID_ECHOED = Header("x-ms-client-request-id", "What the request said, if it is readable.", _TEXT)

PAGING = (
    Parameter("maxpagesize", "Most items on a page.", _number(1, paging.MAX_PAGE, default=paging.MAX_PAGE)),
    Parameter("top", "Most items over all pages.", _number(1, MAX_INTEGER)),
    Parameter(
        "continuationToken",
        "Where to go on. Follow `nextLink` rather than making one up.",
        {
            "type": "string",
            "minLength": 1,
            "maxLength": paging.MAX_CURSOR_CHARACTERS,
            # A hint for who makes up requests: no text but one from a nextLink is good.
            "format": "continuation-token",
        },
    ),
)

# Bodies

_MESSAGE = Body(
    {bodies.JSON_TYPE: {}, bodies.TEXT_TYPE: _TEXT, bodies.BINARY_TYPE: {"type": "string", "format": "binary"}},
    required=False,
    description="The message, passed on as it is. Without a media type it is taken for binary.",
)

GROUPS = Body(
    {
        bodies.JSON_TYPE: {
            "type": "object",
            "properties": {
                "groups": {"type": "array", "items": dict(_GROUP), "minItems": 1},
                "filter": {
                    "type": ["string", "null"],
                    "maxLength": MAX_FILTER_CHARACTERS,
                    "format": "odata-filter",
                    "description": "Only connections for which this is true; all of the hub without it.",
                },
            },
            "required": ["groups"],
        }
    }
)

_METADATA = (
    "Headers `X-WebPubSub-Metadata-<key>: <value>` become the message's metadata. "
    "What is sent to nobody is accepted too."
)

# Answers


class ClientToken(msgspec.Struct, forbid_unknown_fields=True):
    """A token that opens a WebSocket."""

    token: str


class GroupMember(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """A connection in a group. Anonymous ones have no user."""

    connection_id: str
    user_id: str | msgspec.UnsetType = msgspec.UNSET


class GroupMemberPage(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Connections in the order of their ids. `nextLink` leads to more; without it this was the last page."""

    value: list[GroupMember]
    next_link: str | msgspec.UnsetType = msgspec.UNSET


_SENT = Answer("The message is on its way.")
_CLOSED = Answer("They are being closed.")
_THERE = Answer("It is there.")
_JOINED = Answer("Membership is effective.")
_LEFT = Answer("There is no membership any more.")

INFO = {
    "title": "Hubwire data plane",
    "version": versions.NEWEST,
    "description": "What servers call to send messages and to manage connections, as in Azure Web PubSub.",
}
SECURITY = {
    "accessKey": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "HS256 with an access key. `aud` is the requested URL, perhaps without its query.",
    }
}

_HUB = "/api/hubs/{hub}"
_CONNECTION = f"{_HUB}/connections/{{connection_id}}"
_GROUP_PATH = f"{_HUB}/groups/{{group}}"
_MEMBER = f"{_GROUP_PATH}/connections/{{connection_id}}"
_PERMISSION = f"{_HUB}/permissions/{{permission}}/connections/{{connection_id}}"
_USER_PATH = f"{_HUB}/users/{{user_id}}"
_USER_GROUP = f"{_USER_PATH}/groups/{{group}}"

_TARGET_NAME = Parameter("targetName", "The group that the permission is for.", _GROUP, required=True)

# Addresses of this service's own, beside the data plane (hubs/rest/healthz.py): they take no parameters and no version.
HEALTH_CHECKS: Mapping[str, tuple[Operation, Mapping[HTTPStatus, Answer]]] = {
    "/healthz/live": (
        Operation(
            "HealthChecks_Live",
            "Health checks",
            "Whether the process lives",
            Answer("Its event loop turns.", healthz.Live),
            authenticated=False,
        ),
        {},
    ),
    "/healthz/ready": (
        Operation(
            "HealthChecks_Ready",
            "Health checks",
            "Whether new clients can be served",
            Answer("They can.", healthz.Ready),
            details="With several workers on one port, one of them answers for itself.",
            authenticated=False,
        ),
        {HTTPStatus.SERVICE_UNAVAILABLE: Answer("They cannot, for these reasons.", healthz.Ready)},
    ),
}

OPERATIONS: Mapping[str, Operation] = {
    "HEAD /api/health": Operation(
        "HealthApi_GetServiceStatus", "Health", "Whether the service answers", Answer("It does."), authenticated=False
    ),
    "GET /api/health": Operation(
        "HealthApi_GetServiceStatusByGet",
        "Health",
        "Whether the service answers",
        Answer("It does."),
        authenticated=False,
    ),
    # The hub
    f"POST {_HUB}/:generateToken": Operation(
        "WebPubSub_GenerateClientToken",
        "Hub",
        "Make a token that opens a WebSocket",
        Answer("The token.", ClientToken),
        parameters=(
            Parameter(
                "userId",
                "Who the client is; nobody without it.",
                {**_USER, "maxLength": client_urls.MAX_USER_ID_CHARACTERS},
            ),
            Parameter("role", "What the client may do, such as `webpubsub.sendToGroup`.", _many(_TEXT)),
            Parameter("group", "Groups that the connection is in from the start.", _many(_GROUP)),
            Parameter(
                "minutesToExpire",
                "How long the token opens new connections.",
                _number(client_urls.MIN_MINUTES, client_urls.MAX_MINUTES, default=client_urls.DEFAULT_MINUTES),
            ),
            Parameter(
                "clientType",
                "The kind of client, in any letter case. There are endpoints for `Default` alone.",
                {"type": "string", "enum": ["Default", "default"], "default": "Default"},
            ),
        ),
    ),
    f"POST {_HUB}/:send": Operation(
        "WebPubSub_SendToAll", "Hub", "Send to all connections", _SENT, _METADATA, body=_MESSAGE
    ),
    f"POST {_HUB}/:closeConnections": Operation(
        "WebPubSub_CloseAllConnections", "Hub", "Close all connections", _CLOSED
    ),
    f"POST {_HUB}/:addToGroups": Operation(
        "WebPubSub_AddConnectionsToGroups", "Hub", "Make connections members of groups", _JOINED, body=GROUPS
    ),
    f"POST {_HUB}/:removeFromGroups": Operation(
        "WebPubSub_RemoveConnectionsFromGroups", "Hub", "End memberships of connections", _LEFT, body=GROUPS
    ),
    # One connection
    f"HEAD {_CONNECTION}": Operation(
        "WebPubSub_ConnectionExists", "Connections", "Whether a connection is open", _THERE
    ),
    f"DELETE {_CONNECTION}": Operation(
        "WebPubSub_CloseConnection", "Connections", "Close a connection", Answer("It is closed, or was not there.")
    ),
    f"POST {_CONNECTION}/:send": Operation(
        "WebPubSub_SendToConnection", "Connections", "Send to a connection", _SENT, _METADATA, body=_MESSAGE
    ),
    f"DELETE {_CONNECTION}/groups": Operation(
        "WebPubSub_RemoveConnectionFromAllGroups", "Connections", "Take a connection out of every group", _LEFT
    ),
    # Groups
    f"HEAD {_GROUP_PATH}": Operation(
        "WebPubSub_GroupExists", "Groups", "Whether a group has a member", Answer("It has.")
    ),
    f"POST {_GROUP_PATH}/:send": Operation(
        "WebPubSub_SendToGroup", "Groups", "Send to the members of a group", _SENT, _METADATA, body=_MESSAGE
    ),
    f"POST {_GROUP_PATH}/:closeConnections": Operation(
        "WebPubSub_CloseGroupConnections", "Groups", "Close the members of a group", _CLOSED
    ),
    f"GET {_GROUP_PATH}/connections": Operation(
        "WebPubSub_ListConnectionsInGroup",
        "Groups",
        "List the members of a group",
        Answer("A page of them; an empty one for a group without members.", GroupMemberPage),
        parameters=PAGING,
    ),
    f"PUT {_MEMBER}": Operation(
        "WebPubSub_AddConnectionToGroup", "Groups", "Make a connection a member of a group", _JOINED
    ),
    f"DELETE {_MEMBER}": Operation(
        "WebPubSub_RemoveConnectionFromGroup", "Groups", "End a connection's membership of a group", _LEFT
    ),
    # Permissions
    f"PUT {_PERMISSION}": Operation(
        "WebPubSub_GrantPermission",
        "Permissions",
        "Give a connection a permission on a group",
        Answer("It has the permission, on its open socket too."),
        parameters=(_TARGET_NAME,),
    ),
    f"DELETE {_PERMISSION}": Operation(
        "WebPubSub_RevokePermission",
        "Permissions",
        "Take a connection's permission on a group",
        Answer("It does not have the permission."),
        parameters=(_TARGET_NAME,),
    ),
    f"HEAD {_PERMISSION}": Operation(
        "WebPubSub_CheckPermission",
        "Permissions",
        "Whether a connection has a permission on a group",
        Answer("It has, from a grant or from its roles."),
        parameters=(_TARGET_NAME,),
    ),
    # Users
    f"HEAD {_USER_PATH}": Operation(
        "WebPubSub_UserExists", "Users", "Whether a user has a connection", Answer("The user has.")
    ),
    f"POST {_USER_PATH}/:send": Operation(
        "WebPubSub_SendToUser", "Users", "Send to all connections of a user", _SENT, _METADATA, body=_MESSAGE
    ),
    f"POST {_USER_PATH}/:closeConnections": Operation(
        "WebPubSub_CloseUserConnections", "Users", "Close all connections of a user", _CLOSED
    ),
    f"PUT {_USER_GROUP}": Operation(
        "WebPubSub_AddUserToGroup", "Users", "Make a user's present connections members of a group", _JOINED
    ),
    f"DELETE {_USER_GROUP}": Operation(
        "WebPubSub_RemoveUserFromGroup", "Users", "End the membership of a user's connections", _LEFT
    ),
    f"DELETE {_USER_PATH}/groups": Operation(
        "WebPubSub_RemoveUserFromAllGroups", "Users", "Take a user's connections out of every group", _LEFT
    ),
}
