"""What the rows of the table do: read the request, call the verb, answer.

Everything that is the same for all of them (token, version, names, parameters, errors) is in
hubs/rest/data_plane.py.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request
from rest_framework.response import Response

from hubs import client_urls, errors, operations
from hubs.rest import bodies, endpoints, paging
from hubs.rest.data_plane import DataPlane, Receivers, checked_filter
from hubs.rest.exceptions import BadRequest
from hubs.rules import names, roles, tokens


class Health(DataPlane):
    """Whether the service answers. Load balancers ask often, so nothing is looked up."""

    authentication_classes = []

    def check(self, request: Request) -> Response:
        """Say yes."""
        return self.done()


class ClientTokens(DataPlane):
    """Tokens for clients, made by the service for callers that do not sign their own."""

    def generate(self, request: Request, hub: str) -> Response:
        """Sign a token with the user id, roles and groups asked for."""
        _check_client_type(self.parameters.one("clientType"))
        user_id = self.parameters.one("userId") or None
        if user_id is not None and not user_id.strip():
            raise BadRequest("Invalid user ID.", target="userId")
        minutes = self.parameters.integer(
            "minutesToExpire",
            default=client_urls.DEFAULT_MINUTES,
            least=client_urls.MIN_MINUTES,
            most=client_urls.MAX_MINUTES,
        )
        try:
            client_url = client_urls.issue(
                self.hub,
                user_id=user_id,
                roles=self.parameters.many("role"),
                groups=self.parameters.many("group"),
                minutes=minutes,
                endpoint=endpoints.for_clients(request._request),
            )
        except client_urls.CannotIssue as problem:
            raise BadRequest(problem.message, target=_PARAMETER_OF.get(problem.field)) from None
        return self.done({"token": client_url.token})


# What `client_urls` calls a thing → what the parameter is called here.
_PARAMETER_OF = {"user_id": "userId", "groups": "group", "roles": "role", "minutes": "minutesToExpire"}

_CLIENT_TYPES = {"default": True, "mqtt": False, "socketio": False}


def _check_client_type(name: str | None) -> None:
    served = _CLIENT_TYPES.get((name or "Default").lower())
    if served is None:
        raise BadRequest("clientType is Default, MQTT or SocketIO, in any letter case.", target="clientType")
    if not served:
        # A token for an endpoint that is not there would only fail later, and further from its cause.
        raise BadRequest(f"This service has no endpoint for {name} clients; use Default.", target="clientType")


class Everybody(Receivers):
    """All connections of a hub, or those of them that a filter chooses."""

    def close(self, request: Request, hub: str) -> Response:
        """Close all."""
        return self.close_all(operations.close_all)

    def add_to_groups(self, request: Request, hub: str) -> Response:
        """Make those that the filter chooses members of groups."""
        self.perform(operations.add_to_groups, *_groups_and_filter(request))
        return self.done()

    def remove_from_groups(self, request: Request, hub: str) -> Response:
        """End the memberships of those that the filter chooses."""
        self.perform(operations.remove_from_groups, *_groups_and_filter(request))
        return self.done()


def _groups_and_filter(request: Request) -> tuple[tuple[str, ...], str | None]:
    members = bodies.members(request._request)
    groups = members.get("groups")
    if not isinstance(groups, list) or not groups:
        raise BadRequest("groups has to be a list of at least one group name.", target="groups")
    if not all(isinstance(group, str) and names.is_group_name(group) for group in groups):
        raise BadRequest("Invalid group name.", target="groups")
    text = members.get("filter")
    if text is not None and not isinstance(text, str):
        raise BadRequest("filter has to be a text.", target="Filter")
    return tuple(dict.fromkeys(groups)), checked_filter(text, target="Filter")


class Connections(Receivers):
    """One connection."""

    def exists(self, request: Request, hub: str, connection_id: str) -> Response:
        """Tell whether it is open, or could still come back."""
        if not self.perform(operations.connection_exists, connection_id):
            raise errors.NotFound(f"Connection `{connection_id}` is not found.")
        return self.done()

    def close(self, request: Request, hub: str, connection_id: str) -> Response:
        """Close it, and tell its client why. Closing what is not there succeeds."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.close_connection, connection_id, self.arguments["reason"])
        return self.done()

    def leave_all(self, request: Request, hub: str, connection_id: str) -> Response:
        """Take it out of every group."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.remove_connection_from_all_groups, connection_id)
        return self.done()


class Groups(Receivers):
    """The members of one group."""

    def exists(self, request: Request, hub: str, group: str) -> Response:
        """Tell whether it has a member; a group is nothing besides."""
        if not self.perform(operations.group_exists, group):
            raise errors.NotFound(f"Group `{group}` is not found.")
        return self.done()

    def close(self, request: Request, hub: str, group: str) -> Response:
        """Close its members."""
        return self.close_all(operations.close_group, group)

    def connections(self, request: Request, hub: str, group: str) -> Response:
        """List its members, in the order of their ids, a page at a time."""
        page = paging.read(self.parameters, "api", "hubs", self.hub, "groups", group, "connections")
        found = self.perform(operations.list_group, group, after=page.after, limit=page.limit)
        shown = page.shown(found)
        listing: dict[str, Any] = {"value": [_member(*member) for member in shown]}
        next_link = page.next_link(request._request, found, shown[-1][0] if shown else "")
        if next_link is not None:
            listing["nextLink"] = next_link
        return self.done(listing)

    def add(self, request: Request, hub: str, group: str, connection_id: str) -> Response:
        """Make a connection a member; being one already is success."""
        self.perform(operations.add_connection_to_group, connection_id, group)
        return self.done()

    def remove(self, request: Request, hub: str, group: str, connection_id: str) -> Response:
        """End a connection's membership; not being a member is success."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.remove_connection_from_group, connection_id, group)
        return self.done()


def _member(connection_id: str, user_id: str | None) -> dict[str, str]:
    return {"connectionId": connection_id} | ({} if user_id is None else {"userId": user_id})


class Users(Receivers):
    """All present connections of one user."""

    def exists(self, request: Request, hub: str, user_id: str) -> Response:
        """Tell whether the user has a connection."""
        if not self.perform(operations.user_exists, user_id):
            raise errors.NotFound(f"User `{user_id}` is not found.")
        return self.done()

    def close(self, request: Request, hub: str, user_id: str) -> Response:
        """Close all of them."""
        return self.close_all(operations.close_user, user_id)

    def join(self, request: Request, hub: str, user_id: str, group: str) -> Response:
        """Make all of them members of a group. Later connections of the user are not."""
        self.perform(operations.add_user_to_group, user_id, group)
        return self.done()

    def leave(self, request: Request, hub: str, user_id: str, group: str) -> Response:
        """End their membership of a group."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.remove_user_from_group, user_id, group)
        return self.done()

    def leave_all(self, request: Request, hub: str, user_id: str) -> Response:
        """Take them out of every group."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.remove_user_from_all_groups, user_id)
        return self.done()


# In lower case. The numbers are the ones .NET's enumeration has; there they parse, so they do here.
PERMISSIONS = {
    "sendtogroup": roles.SEND,
    "1": roles.SEND,
    "joinleavegroup": roles.JOIN_LEAVE,
    "2": roles.JOIN_LEAVE,
}


class Permissions(DataPlane):
    """What one connection may do with one group (`targetName`), in force on its open socket at once."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Read which permission on which group is meant."""
        super().initial(request, *args, **kwargs)
        permission = PERMISSIONS.get(kwargs["permission"].lower())
        if permission is None:
            raise BadRequest("A permission is sendToGroup or joinLeaveGroup.", target="permission")
        group = self.parameters.one("targetName")
        if group is None or not names.is_group_name(group):
            raise BadRequest(
                "Invalid group name. Valid group name should be in between 1 and "
                f"{names.MAX_GROUP_CHARACTERS} characters long."
            )
        self.permission, self.group = permission, group

    def grant(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Give it."""
        self.perform(operations.grant, connection_id, self.permission, self.group)
        return self.done()

    def revoke(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Take it, whatever roles the connection has. A connection that is not there has none already."""
        with contextlib.suppress(errors.NotFound):
            self.perform(operations.revoke, connection_id, self.permission, self.group)
        return self.done()

    def check(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Tell whether the connection has it, from a grant or from its roles."""
        if not self.perform(operations.check, connection_id, self.permission, self.group):
            raise errors.NotFound(f"Connection `{connection_id}` does not have this permission.")
        return self.done()


@csrf_exempt
def speaks_websocket(request: HttpRequest, hub: str = "") -> HttpResponse:
    """Answer plain HTTP where WebSocket clients connect."""
    address = tokens.client_base_url(endpoints.for_clients(request), hub if names.is_hub_name(hub) else "{hub}")
    return HttpResponse(
        f"This endpoint speaks WebSocket. Open it with a WebSocket client: {address}?access_token=<token>\n",
        status=HTTPStatus.BAD_REQUEST,
        content_type="text/plain; charset=utf-8",
    )
