"""What the rows of the table do: read the request, call the verb, answer.

Everything that is the same for all of them (token, version, hub name, errors) is in `DataPlane`.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import Any

from asgiref.sync import async_to_sync
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from hubs import client_urls, conf, errors, hub_settings, operations
from hubs.rest import endpoints, exceptions
from hubs.rest.authentication import AccessKeyAuthentication
from hubs.rest.exceptions import BadRequest, NotExisted
from hubs.rest.parameters import Parameters
from hubs.rest.rendering import JSONForEverybody, Utf8JSON
from hubs.rest.versions import ApiVersion
from hubs.rules import names, roles, tokens


class DataPlane(ViewSet):
    """An operation that servers call. DRF checks the version first, then the token; nothing is read before."""

    versioning_class = ApiVersion
    authentication_classes = [AccessKeyAuthentication]
    permission_classes = []
    throttle_classes = []
    renderer_classes = [Utf8JSON]
    content_negotiation_class = JSONForEverybody

    # The row of the table that led here, for the error codes it names.
    row: Any = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check what all operations have in common."""
        super().initial(request, *args, **kwargs)
        self.parameters = Parameters(request.query_params)
        if "hub" in kwargs:
            self.hub = _hub(kwargs["hub"])

    def get_exception_handler(self) -> Any:
        """Errors look as everywhere in this room."""
        return exceptions.handler

    @property
    def default_response_headers(self) -> dict[str, str]:
        """None: `Allow` is told with a 405 alone."""
        return {}


def _hub(name: str) -> str:
    if not names.is_hub_name(name):
        raise BadRequest("Invalid hub name.", target="hub")
    if conf.settings.REQUIRE_KNOWN_HUBS and not hub_settings.current().hub(name).known:
        raise NotExisted(f"Hub `{name}` is not found.", target="hub", code="Error.Hub.NotExisted")
    return names.canonical_hub(name)


class Health(DataPlane):
    """Whether the service answers. Load balancers ask often, so nothing is looked up."""

    authentication_classes = []

    def check(self, request: Request) -> Response:
        """Say yes."""
        return Response()


class ClientTokens(DataPlane):
    """Tokens for clients, made by the service for callers that do not sign their own."""

    def generate(self, request: Request, hub: str) -> Response:
        """Sign a token with the user id, roles and groups asked for."""
        _check_client_type(self.parameters.one("clientType"))
        user_id = self.parameters.one("userId")
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
        return Response({"token": client_url.token})


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


class Connections(DataPlane):
    """One connection."""

    def exists(self, request: Request, hub: str, connection_id: str) -> Response:
        """Tell whether it is open, or could still come back."""
        if not async_to_sync(operations.connection_exists)(self.hub, connection_id):
            raise errors.NotFound(f"Connection `{connection_id}` is not found.")
        return Response()

    def close(self, request: Request, hub: str, connection_id: str) -> Response:
        """Close it, and tell its client why. Closing what is not there succeeds."""
        reason = self.parameters.one("reason") or None
        with contextlib.suppress(errors.NotFound):
            async_to_sync(operations.close_connection)(self.hub, connection_id, reason)
        return Response(status=HTTPStatus.NO_CONTENT)


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
                f"targetName has to name a group: 1 to {names.MAX_GROUP_CHARACTERS} characters, not only white space.",
                target="targetName",
            )
        self.permission, self.group = permission, group

    def grant(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Give it."""
        async_to_sync(operations.grant)(self.hub, connection_id, self.permission, self.group)
        return Response()

    def revoke(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Take it, whatever roles the connection has. A connection that is not there has none already."""
        with contextlib.suppress(errors.NotFound):
            async_to_sync(operations.revoke)(self.hub, connection_id, self.permission, self.group)
        return Response(status=HTTPStatus.NO_CONTENT)

    def check(self, request: Request, hub: str, permission: str, connection_id: str) -> Response:
        """Tell whether the connection has it, from a grant or from its roles."""
        if not async_to_sync(operations.check)(self.hub, connection_id, self.permission, self.group):
            raise errors.NotFound(f"Connection `{connection_id}` does not have this permission.")
        return Response()


@csrf_exempt
def speaks_websocket(request: HttpRequest, hub: str = "") -> HttpResponse:
    """Answer plain HTTP where WebSocket clients connect."""
    address = tokens.client_base_url(endpoints.for_clients(request), hub if names.is_hub_name(hub) else "{hub}")
    return HttpResponse(
        f"This endpoint speaks WebSocket. Open it with a WebSocket client: {address}?access_token=<token>\n",
        status=HTTPStatus.BAD_REQUEST,
        content_type="text/plain; charset=utf-8",
    )
