"""What the rows of the table do: read the request, call the verb of `hubs.administration`, answer.

Everything that is the same for all of them (who may ask, errors, how answers are written) is in
`Management`. A request is judged in this order: account, staff, permission, rate, the name in the
path, whether it is there, and the body last. Whatever is refused has changed nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from hubs import administration, resources
from hubs.manage_api import bodies
from hubs.manage_api.staff import PerStaff, Staff, require_any
from hubs.models import Hub, RoleGrant
from hubs.rest import endpoints, exceptions, paging
from hubs.rest.authentication import ActiveSession, ApiTokens
from hubs.rest.exceptions import BadRequest, NotExisted, Problem
from hubs.rest.parameters import Parameters
from hubs.rest.rendering import JSONForEverybody, NoContent, Utf8JSON
from hubs.rules import names
from hubs.upstream import handlers

_PATH = ("manage", "api")

# The largest number a row can have.
_MAX_PK = 2**63 - 1
_GRANT_NAME = re.compile(resources.GRANT_NAME)


class Unreadable(Problem):
    """A key cannot be read with this SECRET_KEY; regenerating it helps."""

    status_code = HTTPStatus.CONFLICT
    code = "Error.Key.Unreadable"
    target = "SECRET_KEY"


class Management(ViewSet):
    """An operation that staff's programs call."""

    # Tokens first: their challenge is what a 401 answers with.
    authentication_classes = [ApiTokens, ActiveSession]
    permission_classes = [Staff]
    throttle_classes = [PerStaff]
    parser_classes = [bodies.JsonBytes]
    renderer_classes = [Utf8JSON]
    content_negotiation_class = JSONForEverybody
    http_method_names = ["get", "head", "put", "post", "patch", "delete"]

    # The rows of the table with this path, by method, and the one that led here.
    rows: Mapping[str, Any] = {}
    row: Any = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check who asks, and the name in the path."""
        method = str(request.method)
        self.row = self.rows.get("GET" if method == "HEAD" else method)
        super().initial(request, *args, **kwargs)
        self.parameters = Parameters(request.query_params)
        if "hub_name" in kwargs and not names.is_hub_name(kwargs["hub_name"]):
            raise BadRequest(
                "Invalid hub name. It is a letter, then at most 127 letters, digits or _ ` , . [ ] characters.",
                target="hubName",
            )
        if "grant_name" in kwargs and not _GRANT_NAME.fullmatch(kwargs["grant_name"]):
            raise BadRequest("The name of a role grant is a number, as listings show it.", target="roleGrantName")

    def get_exception_handler(self) -> Any:
        """Errors look as on the data plane."""
        return exceptions.handler

    def finalize_response(self, request: Request, response: Response, *args: Any, **kwargs: Any) -> Response:
        """Nobody on the way may keep an answer: some are keys."""
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response

    def done(self, resource: msgspec.Struct | None = None, *, status: HTTPStatus | None = None) -> Response:
        """The answer of an operation that was done, with the status its row promises."""
        status = status or self.row.ok
        if status == HTTPStatus.NO_CONTENT:
            return NoContent()
        return Response(None if resource is None else msgspec.to_builtins(resource), status=status)

    def next_link(self, page: paging.Page, found: list[Any], last_id: str) -> Any:
        """Where a listing goes on; UNSET when it does not."""
        link = page.next_link(self.request._request, found, last_id, version=None)
        return msgspec.UNSET if link is None else link


def _existing(hub_name: str) -> Hub:
    hub = administration.find_hub(hub_name)
    if hub is None:
        raise _no_hub(hub_name)
    return hub


def _no_hub(hub_name: str) -> NotExisted:
    return NotExisted(
        f"Hub `{names.canonical_hub(hub_name)}` has no settings of its own. A PUT to this address without what follows "
        "the hub's name creates them.",
        target="hubName",
        code="Error.Hub.NotExisted",
    )


def _resource(hub: Hub) -> resources.Hub:
    return resources.hub(hub, handlers.in_code(hub.name))


class Hubs(Management):
    """The settings of hubs. A hub without settings works too, with the defaults."""

    def listing(self, request: Request) -> Response:
        """A page of hubs, in the order of their names."""
        page = paging.read(self.parameters, *_PATH, "hubs")
        rows = Hub.objects.order_by("name").prefetch_related("event_handlers", "event_listeners")
        found = list((rows if page.after is None else rows.filter(name__gt=page.after))[: page.limit])
        value = [_resource(row) for row in page.shown(found)]
        next_link = self.next_link(page, found, value[-1].name if value else "")
        return self.done(resources.HubPage(value=value, next_link=next_link))

    def show(self, request: Request, hub_name: str) -> Response:
        """One hub."""
        return self.done(_resource(_existing(hub_name)))

    def create_or_replace(self, request: Request, hub_name: str) -> Response:
        """Create a hub, or set everything about one: what the body leaves out gets its default."""
        present = administration.find_hub(hub_name)
        require_any(request.user, "change_hub" if present else "add_hub")
        fields = resources.hub_fields(bodies.read(request, resources.NewHub).properties)
        if present is None:
            try:
                hub = administration.create_hub(hub_name, fields, by=request.user)
                return self.done(_resource(hub), status=HTTPStatus.CREATED)
            except administration.AlreadyThere:
                # Somebody else created it a moment ago, so this is a change now.
                require_any(request.user, "change_hub")
            except ValidationError as problem:
                raise _refused(problem) from None
        return self.done(_resource(_change(request, hub_name, fields)))

    def change(self, request: Request, hub_name: str) -> Response:
        """Change what the body names and leave the rest."""
        _existing(hub_name)
        fields = resources.hub_fields(bodies.read(request, resources.HubChanges).properties)
        return self.done(_resource(_change(request, hub_name, fields)))

    def remove(self, request: Request, hub_name: str) -> Response:
        """Delete a hub's settings, keys and role grants. What is not there is deleted already."""
        hub = administration.find_hub(hub_name)
        if hub is not None:
            # As in the admin: who may not delete what goes with it may not delete it.
            if hub.access_keys.exists():
                require_any(request.user, "delete_accesskey")
            if hub.role_grants.exists():
                require_any(request.user, "delete_rolegrant")
            administration.delete_hub(hub, by=request.user)
        return self.done()


def _change(request: Request, hub_name: str, fields: Mapping[str, Any]) -> Hub:
    try:
        return administration.change_hub(hub_name, fields, by=request.user)
    except Hub.DoesNotExist:
        raise _no_hub(hub_name) from None
    except ValidationError as problem:
        raise _refused(problem) from None


class Keys(Management):
    """The access keys of one scope: the service, or a hub."""

    missing = ""

    def scope(self, hub_name: str | None) -> Hub | None:
        """The hub that the path names; None for the service."""
        return None if hub_name is None else _existing(hub_name)

    def show(self, request: Request, hub_name: str | None = None) -> Response:
        """Both keys with their connection strings. Each time leaves a line in the log of staff actions."""
        scope = self.scope(hub_name)
        try:
            # One transaction, so that nothing is logged as revealed that could not be read.
            with transaction.atomic():
                return self.done(resources.keys(administration.show_keys(scope, by=request.user)))
        except administration.NoKeys:
            raise self.no_keys() from None
        except ImproperlyConfigured as problem:
            raise Unreadable(str(problem)) from None

    def regenerate(self, request: Request, hub_name: str | None = None) -> Response:
        """Replace one key and answer with both. A hub without keys of its own gets a pair."""
        scope = self.scope(hub_name)
        slot = bodies.read(request, resources.KeyChoice).key_type.lower()
        if scope is not None and not administration.has_key(scope, slot):
            require_any(request.user, "add_accesskey")
        try:
            with transaction.atomic():
                administration.regenerate_key(scope, slot, by=request.user)
                pair = administration.show_keys(scope, by=request.user)
        except administration.NoKeys:
            raise self.no_keys() from None
        return self.done(resources.keys(pair, readable_only=True))

    def no_keys(self) -> NotExisted:
        """The answer where there are no keys."""
        return NotExisted(self.missing, target="keys", code="Error.Key.NotExisted")


class ServiceKeys(Keys):
    """The keys that open every hub."""

    missing = "The service has no access keys yet. Make them on the admin's Keys page, or run: manage.py bootstrap"


class HubKeys(Keys):
    """The keys that open one hub only. Azure has none such."""

    missing = "This hub has no keys of its own; those of the service open it. POST regenerateKey makes a pair."

    def remove(self, request: Request, hub_name: str) -> Response:
        """Take away both. What is not there is taken away already."""
        hub = administration.find_hub(hub_name)
        if hub is not None:
            administration.remove_keys(hub, by=request.user)
        return self.done()


# What the models call a field → what it is called here.
_MEMBERS = {
    "group_pattern": "groupPattern",
    "join_at_connect": "joinAtConnect",
    "event_handlers": "eventHandlers",
    "event_handlers.url_template": "urlTemplate",
    "event_handlers.user_event_pattern": "userEventPattern",
    "event_handlers.auth_type": "auth",
    "event_listeners": "eventListeners",
    "event_listeners.url": "endpoint.url",
    "event_listeners.stream": "endpoint.stream",
    "event_listeners.user_event_pattern": "filter.userEventPattern",
    "event_listeners.auth_type": "auth",
}
# "event_handlers[0].url_template": a field of the model, in a list of the hub or by itself.
_FIELD = re.compile(r"(?P<list>\w+)(?P<place>\[\d+\])\.(?P<field>\w+)")


class RoleGrants(Management):
    """Who gets which role in which hub, when they negotiate."""

    def listing(self, request: Request) -> Response:
        """A page of role grants, in the order they were made."""
        return self.page(RoleGrant.objects.all(), "roleGrants")

    def page(self, rows: QuerySet[RoleGrant], *path: str) -> Response:
        """A page of some role grants."""
        page = paging.read(self.parameters, *_PATH, *path)
        rows = rows.select_related("user", "group", "hub").order_by("pk")
        found = list((rows if page.after is None else rows.filter(pk__gt=int(page.after)))[: page.limit])
        value = [resources.role_grant(row) for row in page.shown(found)]
        next_link = self.next_link(page, found, value[-1].name if value else "")
        return self.done(resources.RoleGrantPage(value=value, next_link=next_link))

    def create(self, request: Request) -> Response:
        """Make a role grant. The service chooses its name."""
        properties = bodies.read(request, resources.NewRoleGrant).properties
        resource = resources.role_grant(_saved(request, RoleGrant(), properties))
        response = self.done(resource)
        response["Location"] = f"{endpoints.for_clients(request._request)}/manage/api/roleGrants/{resource.name}"
        return response

    def show(self, request: Request, grant_name: str) -> Response:
        """One role grant."""
        return self.done(resources.role_grant(_grant(grant_name)))

    def replace(self, request: Request, grant_name: str) -> Response:
        """Set everything about a role grant: what the body leaves out gets its default."""
        return self.save(request, grant_name, resources.NewRoleGrant)

    def change(self, request: Request, grant_name: str) -> Response:
        """Change what the body names and leave the rest."""
        return self.save(request, grant_name, resources.RoleGrantChanges)

    def save(self, request: Request, grant_name: str, shape: type[Any]) -> Response:
        """Bring what the body says into a role grant."""
        _grant(grant_name)
        properties = bodies.read(request, shape).properties
        with transaction.atomic():
            # Read again under a lock: two changes at once are one after the other.
            grant = _saved(request, _grant(grant_name, lock=True), properties)
        return self.done(resources.role_grant(grant))

    def remove(self, request: Request, grant_name: str) -> Response:
        """Delete a role grant. What is not there is deleted already."""
        grant = _find_grant(grant_name)
        if grant is not None:
            administration.delete_role_grant(grant, by=request.user)
        return self.done()


class RoleGrantsOfHub(RoleGrants):
    """The role grants that are for one hub; those for every hub are not among them."""

    def listing(self, request: Request, hub_name: str = "") -> Response:
        """A page of them."""
        hub = _existing(hub_name)
        return self.page(hub.role_grants.all(), "hubs", hub.name, "roleGrants")


def _find_grant(name: str, *, lock: bool = False) -> RoleGrant | None:
    if int(name) > _MAX_PK:
        return None
    rows = RoleGrant.objects.select_for_update() if lock else RoleGrant.objects.select_related("user", "group", "hub")
    return rows.filter(pk=int(name)).order_by().first()


def _grant(name: str, *, lock: bool = False) -> RoleGrant:
    grant = _find_grant(name, lock=lock)
    if grant is None:
        raise NotExisted(
            "There is no role grant of that name. A POST to /manage/api/roleGrants makes one, and chooses its name.",
            target="roleGrantName",
            code="Error.RoleGrant.NotExisted",
        )
    return grant


def _saved(
    request: Request,
    grant: RoleGrant,
    properties: resources.NewRoleGrantProperties | resources.RoleGrantPropertyChanges,
) -> RoleGrant:
    named, fields = resources.role_grant_fields(properties)
    try:
        return administration.save_role_grant(grant, named, fields, by=request.user)
    except ValidationError as problem:
        raise _refused(problem) from None


def _refused(problem: ValidationError) -> BadRequest:
    """Say all that the model complains of, member by member."""
    complaints = {f"properties.{_member(field)}": texts for field, texts in problem.message_dict.items()}
    message = " ".join(f"{member}: {' '.join(texts)}" for member, texts in complaints.items())
    return BadRequest(message, target=next(iter(complaints)))


def _member(field: str) -> str:
    in_list = _FIELD.fullmatch(field)
    if in_list is None:
        return _MEMBERS.get(field, field)
    inner = _MEMBERS.get(f"{in_list['list']}.{in_list['field']}", in_list["field"])
    return f"{_MEMBERS[in_list['list']]}{in_list['place']}.{inner}"


@csrf_exempt
def nothing_here(request: HttpRequest) -> HttpResponse:
    """Answer where the table has no path."""
    return exceptions.error(HTTPStatus.NOT_FOUND, "There is no such operation. Check the path.", target="Request")
