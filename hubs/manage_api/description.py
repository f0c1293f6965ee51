"""What the operations of the management API are called, take and answer, for people and for OpenAPI.

It is made of the same pieces as hubs/rest/description.py, which explains them. An entry stands under
a row's method and path; `refuses` lists the statuses besides those that every operation of its
kind has.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from hubs import resources
from hubs.manage_api.table import ROOT
from hubs.rest.description import HUB, PAGING, Answer, Body, Header, Operation, Parameter

IN_PATH: Mapping[str, Parameter] = {
    "hubName": Parameter("hubName", "The hub; the same in any letter case.", HUB, "path"),
    "roleGrantName": Parameter(
        "roleGrantName", "The grant's name.", {"type": "string", "pattern": f"^{resources.GRANT_NAME}$"}, "path"
    ),
}

INFO = {
    "title": "Hubwire management API",
    "version": "1",
    "description": "Hubs with their event handlers, access keys and role grants, for staff; named after Azure's "
    "management of Web PubSub.",
}
SECURITY = {
    "apiToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "`Token <token>`, an API token of a staff account.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "sessionid",
        "description": "A browser's session; what changes something also needs Django's `X-CSRFToken` header.",
    },
}


class Described(NamedTuple):
    """An operation, with what else it may refuse."""

    operation: Operation
    refuses: Mapping[HTTPStatus, str] = {}
    # A second good status, for what creates or replaces.
    also: Mapping[HTTPStatus, Answer] = {}


def _json(shape: type) -> Body:
    return Body({"application/json": shape})


_NO_HUB = {HTTPStatus.NOT_FOUND: "There is no such hub (`Error.Hub.NotExisted`)"}
_NO_GRANT = {HTTPStatus.NOT_FOUND: "There is no such role grant (`Error.RoleGrant.NotExisted`)"}
_NO_KEYS = {HTTPStatus.NOT_FOUND: "There is no such hub, or it has no keys (`Error.Key.NotExisted`)"}
_NO_SERVICE_KEYS = {HTTPStatus.NOT_FOUND: "The service has no keys yet (`Error.Key.NotExisted`)"}
_UNREADABLE = {HTTPStatus.CONFLICT: "A key cannot be read with this SECRET_KEY (`Error.Key.Unreadable`)"}

_LOCATION = Header("Location", "The address of what was made.", {"type": "string", "format": "uri"}, always=True)

_LOGGED = "Each call leaves a line in the log of staff actions."
_WHOLE = "What is left out gets its default."
_PART = "What is left out stays as it is."
_LISTS = (
    "Event handlers and event listeners are set as a whole. Their tokens are never shown; where `token` is left out, "
    "the one that was there for the same `urlTemplate` or `endpoint` is kept."
)
_GONE = Answer("It is deleted, or was not there.")

_HUBS = f"{ROOT}/hubs"
_HUB = f"{_HUBS}/{{hubName}}"
_GRANTS = f"{ROOT}/roleGrants"
_GRANT = f"{_GRANTS}/{{roleGrantName}}"

OPERATIONS: Mapping[str, Described] = {
    # Hubs
    f"GET {_HUBS}": Described(
        Operation(
            "WebPubSubHubs_List",
            "Hubs",
            "List the hubs that have settings",
            Answer("A page of them, in the order of their names.", resources.HubPage),
            parameters=PAGING,
        )
    ),
    f"GET {_HUB}": Described(
        Operation("WebPubSubHubs_Get", "Hubs", "Get a hub's settings", Answer("The hub.", resources.Hub)), _NO_HUB
    ),
    f"PUT {_HUB}": Described(
        Operation(
            "WebPubSubHubs_CreateOrUpdate",
            "Hubs",
            "Create a hub, or replace its settings",
            Answer("The hub, which was there before.", resources.Hub),
            f"{_WHOLE} {_LISTS}",
            body=_json(resources.NewHub),
        ),
        {HTTPStatus.NOT_FOUND: "Somebody else deleted the hub at the same moment"},
        {HTTPStatus.CREATED: Answer("The hub, which is new.", resources.Hub)},
    ),
    f"PATCH {_HUB}": Described(
        Operation(
            "WebPubSubHubs_Update",
            "Hubs",
            "Change some of a hub's settings",
            Answer("The hub as it is now.", resources.Hub),
            f"{_PART} {_LISTS}",
            body=_json(resources.HubChanges),
        ),
        _NO_HUB,
    ),
    f"DELETE {_HUB}": Described(
        Operation(
            "WebPubSubHubs_Delete",
            "Hubs",
            "Delete a hub's settings",
            _GONE,
            "Its event handlers, own keys and role grants go with it. Open connections live on, and the hub goes on "
            "with the defaults.",
        )
    ),
    # Keys
    f"POST {_HUB}/listKeys": Described(
        Operation(
            "WebPubSubHubs_ListKeys",
            "Keys",
            "Show the keys that open one hub only",
            Answer("Both keys.", resources.Keys),
            _LOGGED,
        ),
        _NO_KEYS | _UNREADABLE,
    ),
    f"POST {_HUB}/regenerateKey": Described(
        Operation(
            "WebPubSubHubs_RegenerateKey",
            "Keys",
            "Replace one of the keys that open one hub only",
            Answer("Both keys as they are now.", resources.Keys),
            f"A hub without keys of its own gets a pair. {_LOGGED}",
            body=_json(resources.KeyChoice),
        ),
        _NO_HUB,
    ),
    f"DELETE {_HUB}/keys": Described(
        Operation(
            "WebPubSubHubs_DeleteKeys",
            "Keys",
            "Take away the keys that open one hub only",
            _GONE,
            "The service's keys open the hub as before.",
        )
    ),
    f"POST {ROOT}/listKeys": Described(
        Operation(
            "WebPubSub_ListKeys",
            "Keys",
            "Show the service's keys",
            Answer("Both keys.", resources.Keys),
            _LOGGED,
        ),
        _NO_SERVICE_KEYS | _UNREADABLE,
    ),
    f"POST {ROOT}/regenerateKey": Described(
        Operation(
            "WebPubSub_RegenerateKey",
            "Keys",
            "Replace one of the service's keys",
            Answer("Both keys as they are now.", resources.Keys),
            "Tokens signed with the old key open no new connections; open ones and the other key live on. " + _LOGGED,
            body=_json(resources.KeyChoice),
        ),
        _NO_SERVICE_KEYS,
    ),
    # Role grants
    f"GET {_HUB}/roleGrants": Described(
        Operation(
            "WebPubSubHubs_ListRoleGrants",
            "Role grants",
            "List the role grants of one hub",
            Answer("A page of them; grants for every hub are not among them.", resources.RoleGrantPage),
            parameters=PAGING,
        ),
        _NO_HUB,
    ),
    f"GET {_GRANTS}": Described(
        Operation(
            "RoleGrants_List",
            "Role grants",
            "List the role grants",
            Answer("A page of them, in the order they were made.", resources.RoleGrantPage),
            parameters=PAGING,
        )
    ),
    f"POST {_GRANTS}": Described(
        Operation(
            "RoleGrants_Create",
            "Role grants",
            "Make a role grant",
            Answer("The role grant, with the name the service chose.", resources.RoleGrant, (_LOCATION,)),
            _WHOLE,
            body=_json(resources.NewRoleGrant),
        )
    ),
    f"GET {_GRANT}": Described(
        Operation("RoleGrants_Get", "Role grants", "Get a role grant", Answer("The role grant.", resources.RoleGrant)),
        _NO_GRANT,
    ),
    f"PUT {_GRANT}": Described(
        Operation(
            "RoleGrants_Replace",
            "Role grants",
            "Replace a role grant",
            Answer("The role grant as it is now.", resources.RoleGrant),
            _WHOLE,
            body=_json(resources.NewRoleGrant),
        ),
        _NO_GRANT,
    ),
    f"PATCH {_GRANT}": Described(
        Operation(
            "RoleGrants_Update",
            "Role grants",
            "Change some of a role grant",
            Answer("The role grant as it is now.", resources.RoleGrant),
            _PART,
            body=_json(resources.RoleGrantChanges),
        ),
        _NO_GRANT,
    ),
    f"DELETE {_GRANT}": Described(
        Operation("RoleGrants_Delete", "Role grants", "Delete a role grant", _GONE),
    ),
}
