"""A hub's functions as a webhook: a view that Azure Web PubSub and Hubwire call over HTTP.

    # urls.py of any Django project; the functions are registered as handlers.py says
    from hubs.upstream.mount import webhook

    urlpatterns = [
        path("events/chat", webhook("chat", connection_string=settings.WEB_PUBSUB_CONNECTION_STRING)),
    ]

So the same functions serve in three places: in the service's own process, in a project of their own
beside it, and behind Azure. The project needs nothing else of Hubwire: no app in INSTALLED_APPS, no
channel layer, no database.

A request is judged in this order: may its sender send here at all (abuse protection), is it signed
with one of the keys, is it an event of this hub, is it small enough, can it be read. What does not
pass is answered in JSON, for operators to read; only what a function says itself is plain text, which
the service passes on to clients.

`connected` and `disconnected` are answered before their function runs. Under WSGI nothing can run on
after the answer, so there the service waits for the function; its clients never do.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from http import HTTPStatus
from typing import Any

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views.decorators.csrf import csrf_exempt

from hubs import conf
from hubs.rules.event_routing import CONNECT
from hubs.upstream import cloudevents_in, handlers
from hubs.upstream.cloudevents import Answer, BadAnswer
from hubs.upstream.cloudevents_in import BadEvent, Headers, host_of
from hubs.upstream.concurrency import HandlerProblem, Progress, TooManyCalls
from hubs.upstream.events import Event, Rejected
from hubs.upstream.functions import FunctionHandler
from hubs.upstream.handlers import HubHandlers
from hubs.upstream.session import Session

logger = logging.getLogger(__name__)

# Messages have at most a megabyte in Azure and by default here; what a client says at connect has less.
MAX_BODY_BYTES = 2 << 20

_METHODS = "OPTIONS, GET, POST"

_notifications: set[asyncio.Task[None]] = set()

View = Callable[[HttpRequest], Awaitable[HttpResponse]]


def webhook(
    hub: str,
    *,
    connection_string: str | Sequence[str] = (),
    access_keys: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    max_body_bytes: int = MAX_BODY_BYTES,
) -> View:
    """Make the view that serves the functions of `hub` as a webhook.

    `connection_string` (one, or several) names the service and its key; `access_keys` are keys alone.
    Without either, signatures are not looked at. `allowed_origins` are the hosts whose events are taken,
    ["*"] for all; left out, those of the connection strings.
    """
    strings = [connection_string] if isinstance(connection_string, str) else list(connection_string)
    read = [_read_connection_string(text) for text in strings]
    keys = [key for _, key in read] + _texts("access_keys", access_keys)
    origins = [host_of(origin) for origin in _texts("allowed_origins", allowed_origins) or [name for name, _ in read]]
    if not all(keys):
        raise ValueError("access_keys must not contain empty strings")
    if not all(origins):
        raise ValueError('a connection string and allowed_origins name hosts, such as "pubsub.example.com"; "*" is all')
    if not origins:
        raise ValueError('say whose events are taken: a connection_string, or allowed_origins=["*"] for everybody\'s')
    mounted = _Mounted(handlers.hub(hub), keys, frozenset(origins), max_body_bytes)

    async def view(request: HttpRequest) -> HttpResponse:
        return await mounted.answer(request)

    # Signatures, not sessions, say who calls: there is no form to forge and nobody to sign in.
    view.login_required = False  # type: ignore[attr-defined]
    # Where Hubwire itself serves the view: what it takes of those who are not signed in (hubs/rest/body_limit.py).
    view.max_body_bytes = max_body_bytes  # type: ignore[attr-defined]
    exempt: View = csrf_exempt(view)
    return exempt


def _texts(name: str, values: Sequence[str]) -> list[str]:
    # A text is a sequence too, of its characters.
    if isinstance(values, str) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{name} takes a list of texts")
    return list(values)


def _read_connection_string(text: str) -> tuple[str, str]:
    """Give the endpoint and the key of a connection string; what is wrong with one is said without quoting it."""
    parts = {name.strip().lower(): value for name, _, value in (part.partition("=") for part in text.split(";"))}
    endpoint, key = parts.get("endpoint", ""), parts.get("accesskey", "")
    if not endpoint or not key:
        raise ValueError("a connection string reads Endpoint=https://…;AccessKey=…;Version=1.0;")
    return endpoint, key


class _Mounted:
    """The functions of one hub, and who may call them."""

    def __init__(self, own: HubHandlers, keys: Sequence[str], origins: frozenset[str], max_body_bytes: int) -> None:
        self._own = own
        self._keys = keys
        self._origins = origins
        self._max_body_bytes = max_body_bytes

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one request, whatever it is."""
        try:
            headers = Headers(_headers(request))
            if request.method in ("OPTIONS", "GET"):
                return self._permission(headers)
            if request.method != "POST":
                return _trouble(HTTPStatus.METHOD_NOT_ALLOWED, f"Possible here: {_METHODS}.", Allow=_METHODS)
            return await self._handle(request, self._event(request, headers))
        except BadEvent as problem:
            return _trouble(problem.status, str(problem))

    # Who may send

    def _permission(self, headers: Headers) -> HttpResponse:
        """Answer the question whether events may be sent here: OPTIONS, or GET where that does not get through."""
        origin = self._admitted(headers)
        return HttpResponse(headers={"WebHook-Allowed-Origin": origin, "Allow": _METHODS, "Content-Type": "text/plain"})

    def _admitted(self, headers: Headers) -> str:
        origin = headers.one("WebHook-Request-Origin")
        if not origin:
            raise BadEvent(
                HTTPStatus.BAD_REQUEST,
                "This address takes events of Web PubSub; the header WebHook-Request-Origin is missing.",
            )
        if not self._origins & {"*", host_of(origin)}:
            raise BadEvent(HTTPStatus.FORBIDDEN, f"Events from {origin[:255]!r} are not taken here.")
        # As it was asked, which is what it will be compared with.
        return origin

    # Events

    def _event(self, request: HttpRequest, headers: Headers) -> Event:
        """Read the event that a POST carries. Raises BadEvent."""
        self._admitted(headers)
        connection_id = headers.needed("ce-connectionId")
        if self._keys and not cloudevents_in.is_signed(headers.all("ce-signature"), self._keys, connection_id):
            raise BadEvent(HTTPStatus.UNAUTHORIZED, "ce-signature was not made with an access key that is known here.")
        attributes = cloudevents_in.read_attributes(headers, self._own.hub)
        return cloudevents_in.read_event(attributes, headers, self._body(request))

    def _body(self, request: HttpRequest) -> bytes:
        # Not `request.body`: its limit is the one for forms, and it has none where no length is told.
        try:
            body: bytes = request.read(self._max_body_bytes + 1)
        except UnreadablePostError:
            raise BadEvent(HTTPStatus.BAD_REQUEST, "The body did not arrive whole.") from None
        if len(body) > self._max_body_bytes:
            raise BadEvent(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body has more than {self._max_body_bytes} bytes.")
        return body

    async def _handle(self, request: HttpRequest, event: Event) -> HttpResponse:
        own = self._own
        if not own.system and not own.user:
            # Clients would be let in by a module that nobody imported.
            logger.error("Hub %s has no functions: import the module that registers them, in AppConfig.ready", own.hub)
            return _trouble(HTTPStatus.INTERNAL_SERVER_ERROR, "No functions are registered for this hub.")
        function = own.for_event(event.name) if event.is_user_event else own.system.get(event.name)
        if function is None:
            if event.is_user_event:
                return _trouble(HTTPStatus.NOT_FOUND, "No function takes this event.")
            return _response(_NOTHING)
        handler, session = FunctionHandler(function), Session.of(event.context)
        try:
            if event.is_user_event:
                reply = await handler.user_event(event, session, Progress())
                return _response(cloudevents_in.reply_answer(reply))
            if event.name == CONNECT:
                answer = await handler.connect(event, session, Progress())
                return _response(cloudevents_in.connect_answer(answer, _offered(event)))
            return await self._notify(request, handler, event, session)
        except Rejected as rejected:
            return _response(cloudevents_in.rejection(rejected))
        except TooManyCalls:
            return _trouble(HTTPStatus.SERVICE_UNAVAILABLE, "Too many events wait for their functions.")
        except HandlerProblem:
            # Logged where it was met.
            return _trouble(HTTPStatus.INTERNAL_SERVER_ERROR, "The function failed.")
        except BadAnswer as problem:
            logger.error("The answer of %s to %s cannot be sent: %s", handler.label, event.name, problem)
            return _trouble(HTTPStatus.INTERNAL_SERVER_ERROR, "The function failed.")

    async def _notify(
        self, request: HttpRequest, handler: FunctionHandler, event: Event, session: Session
    ) -> HttpResponse:
        if not isinstance(request, ASGIRequest):
            await _told(handler, event, session)
            return _response(_NOTHING)
        if len(_notifications) >= conf.settings.MAX_WAITING_NOTIFICATIONS:
            raise TooManyCalls("too many notifications wait")
        # In a context of its own: the request's has a thread for the database that ends with the request.
        task = asyncio.get_running_loop().create_task(
            _told(handler, event, session), name=f"{event.name} function", context=Context()
        )
        _notifications.add(task)
        task.add_done_callback(_notifications.discard)
        return _response(_NOTHING)


async def _told(handler: FunctionHandler, event: Event, session: Session) -> None:
    try:
        await handler.notify(event, session, Progress())
    except TooManyCalls as problem:
        logger.error("The event %s of hub %s is lost: %s", event.name, event.context.hub, problem)
    except HandlerProblem:
        # Logged where it was met; the answer is out, and nobody would send it again.
        pass


def _offered(event: Event) -> Sequence[str]:
    return getattr(event.request, "subprotocols", ())


def _headers(request: HttpRequest) -> Iterable[tuple[bytes, bytes]]:
    """The headers as they came: Django's own mapping joins those that repeat, and takes `_` for `-`."""
    if isinstance(request, ASGIRequest):
        return ((name.lower(), value) for name, value in request.scope["headers"])
    # WSGI gives bytes in the guise of latin-1.
    return (
        (name.lower().encode("latin-1"), value.encode("latin-1", "replace")) for name, value in request.headers.items()
    )


_NOTHING = Answer(HTTPStatus.NO_CONTENT.value, (), b"")


def _response(answer: Answer) -> HttpResponse:
    response = HttpResponse(answer.body, status=answer.status)
    del response.headers["Content-Type"]
    for name, value in answer.headers:
        # Bytes in the guise of latin-1, which is how Django writes them.
        response.headers[name.decode("latin-1")] = value.decode("latin-1")
    return response


def _trouble(status: HTTPStatus, text: str, **headers: Any) -> HttpResponse:
    return JsonResponse({"message": text}, status=status, headers=headers)
