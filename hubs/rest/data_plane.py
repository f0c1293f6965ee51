"""What all operations of the data plane have in common.

The order in which a request is judged is a promise to its callers: version, token, rate, hub, the
names in the path, the parameters, and the body last. Whatever is refused has changed nothing.

Two doors keep that promise: DRF's way through the view below, and the fast path for the verbs that send
(hubs/rest/fast_path.py). Both call the functions here and those of the modules beside, on the same request
object; neither has a rule of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from asgiref.sync import async_to_sync
from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

from hubs import conf, hub_settings, operations
from hubs.protocols.json import MAX_TTL_SECS
from hubs.rest import bodies, exceptions, metadata
from hubs.rest.authentication import AccessKeyAuthentication
from hubs.rest.exceptions import BadFilter, BadRequest, NotExisted
from hubs.rest.parameters import Parameters
from hubs.rest.rendering import JSONForEverybody, NoContent, Utf8JSON
from hubs.rest.throttling import PerKey
from hubs.rest.versions import ApiVersion
from hubs.rules import names
from hubs.rules.filters import InvalidFilter, compile_filter


class DataPlane(ViewSet):
    """An operation that servers call. DRF checks the version first, then the token; nothing is read before."""

    versioning_class = ApiVersion
    authentication_classes = [AccessKeyAuthentication]
    permission_classes = []
    throttle_classes = [PerKey]
    renderer_classes = [Utf8JSON]
    content_negotiation_class = JSONForEverybody

    # The row of the table that led here.
    row: Any = None

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check what all operations have in common, and the parameters that the row lets pass on."""
        super().initial(request, *args, **kwargs)
        self.parameters = Parameters(request.query_params)
        check_names(kwargs, hub_settings.current)
        self.hub = names.canonical_hub(kwargs.get("hub", ""))
        self.arguments = passed_on(self.row.options, self.parameters)

    def get_exception_handler(self) -> Any:
        """Errors look as everywhere in this room."""
        return exceptions.handler

    @property
    def default_response_headers(self) -> dict[str, str]:
        """None: `Allow` is told with a 405 alone."""
        return {}

    def done(self, data: Any = None) -> Response:
        """The answer of an operation that was done, with the status its row promises."""
        if self.row.ok == HTTPStatus.NO_CONTENT:
            return NoContent()
        return Response(data, status=self.row.ok)

    def perform(self, verb: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        """Call a verb of `hubs.operations` on the hub and give its result."""
        return async_to_sync(verb)(self.hub, *arguments, **options)

    def close_all(self, verb: Callable[..., Awaitable[None]], *target: str) -> Response:
        """Close many connections with a verb that does."""
        self.perform(verb, *target, **self.arguments)
        return self.done()


class Receivers(DataPlane):
    """What messages can be sent to. A message to nobody is accepted."""

    def send(self, request: Request, **named: str) -> Response:
        """Send the body's message to what the path names."""
        async_to_sync(send)(self.row.sends, named, request._request, self.arguments)
        return self.done()


async def send(verb: str, named: Mapping[str, str], request: HttpRequest, arguments: Mapping[str, Any]) -> None:
    """Send the message in a request's body, with a verb of `hubs.operations`, to what its path names."""
    hub, *target = named.values()
    said = metadata.of_request(request)
    message = bodies.message(request)
    await getattr(operations, verb)(names.canonical_hub(hub), *target, message, metadata=said, **arguments)


def check_names(named: Mapping[str, str], snapshot: Callable[[], hub_settings.Snapshot]) -> None:
    """Check what a path names, its hub first. Raises BadRequest, NotExisted."""
    if "hub" in named:
        _check_hub(named["hub"], snapshot)
    if not names.is_group_name(named.get("group", "g")):
        raise BadRequest("Invalid group name.", target="group")
    if named.get("user_id", "u").isspace():
        raise BadRequest("Invalid user ID.", target="userId")
    if named.get("connection_id", "c").isspace():
        raise BadRequest("Invalid connection ID.", target="connectionId")


def _check_hub(name: str, snapshot: Callable[[], hub_settings.Snapshot]) -> None:
    if not names.is_hub_name(name):
        raise BadRequest("Invalid hub name.", target="hub")
    if conf.settings.REQUIRE_KNOWN_HUBS and not snapshot().hub(name).known:
        raise NotExisted(f"Hub `{name}` is not found.", target="hub", code="Error.Hub.NotExisted")


def passed_on(options: tuple[str, ...], parameters: Parameters) -> dict[str, Any]:
    """Read the parameters that go on to a row's verb, by the names that it gives them. Raises BadRequest."""
    return {option: read(parameters) for name, (option, read) in _OPTIONS.items() if name in options}


def checked_filter(text: str | None, *, target: str = "filter") -> str | None:
    """Give a filter that can be evaluated; None for none, which an empty text is as well. Raises BadFilter."""
    if not text:
        return None
    try:
        compile_filter(text)
    except InvalidFilter as problem:
        raise BadFilter(problem.message, problem.detail, target=target) from None
    return text


# Parameters that go on to a verb: name → what the verb calls it, and how it is read. In the order of the checks.
_OPTIONS: dict[str, tuple[str, Callable[[Parameters], Any]]] = {
    "filter": ("filter", lambda parameters: checked_filter(parameters.one("filter"))),
    "messageTtlSeconds": (
        "ttl_secs",
        lambda parameters: parameters.integer("messageTtlSeconds", default=0, least=0, most=MAX_TTL_SECS),
    ),
    "excluded": ("excluded", lambda parameters: tuple(dict.fromkeys(parameters.many("excluded")))),
    "reason": ("reason", lambda parameters: parameters.one("reason") or None),
}
