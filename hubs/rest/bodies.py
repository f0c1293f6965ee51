"""What a request's body says: a message to pass on, or the JSON object of an operation.

A message is passed on as it came. JSON is checked to be JSON but not turned into values and printed
again, so numbers of any length and the caller's own spelling reach the clients; text is brought to
UTF-8 from the encoding its content type names.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.http import HttpRequest
from django.utils.http import parse_header_parameters

from hubs import conf
from hubs.protocols.frames import BINARY, JSON, TEXT, Payload
from hubs.rest.exceptions import BadRequest, TooLarge, Unavailable, Unsupported

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain"
BINARY_TYPE = "application/octet-stream"

# By Python's names. Others either are rare or, like punycode, take their time with long texts.
_CHARSETS = frozenset(
    ["utf-8", "ascii", "iso8859-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be", "cp1252"]
)
# In the scope of a request whose body hubs/rest/body_limit.py has left unread, because its token was no good.
LEFT_UNREAD = "hubs.body_left_unread"

_BYTE_ORDER_MARK = "\ufeff"

_check_json = msgspec.json.Decoder(msgspec.Raw).decode
_read_object = msgspec.json.Decoder(dict[str, Any]).decode


def message(request: HttpRequest) -> Payload:
    """Read the message in a request's body. Raises BadRequest, TooLarge, Unsupported."""
    media_type, parameters = _content_type(request)
    read = _READERS.get(media_type)
    if read is None:
        raise Unsupported(f"The Content-Type of a message is {JSON_TYPE}, {TEXT_TYPE} or {BINARY_TYPE}.")
    payload = read(parameters, _bytes(request))
    if len(payload.data) > conf.settings.MAX_MESSAGE_BYTES:
        # Text of another encoding may have grown.
        raise _too_large()
    return payload


def members(request: HttpRequest) -> Mapping[str, Any]:
    """Read a body that is a JSON object; its names in lower case. Raises BadRequest, TooLarge, Unsupported."""
    media_type, parameters = _content_type(request)
    if media_type != JSON_TYPE:
        raise Unsupported(f"The Content-Type of this request has to be {JSON_TYPE}.")
    text = _json_text(parameters, _bytes(request))
    try:
        given = _read_object(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("The request body has to be a JSON object.") from None
    return {name.lower(): value for name, value in given.items()}


def _binary(parameters: Mapping[str, str], body: bytes) -> Payload:
    return Payload(BINARY, body)


def _text(parameters: Mapping[str, str], body: bytes) -> Payload:
    return Payload(TEXT, _decoded(parameters, body).encode())


def _json(parameters: Mapping[str, str], body: bytes) -> Payload:
    text = _json_text(parameters, body)
    try:
        _check_json(text)
    # RecursionError: nested deeper than the parser follows. ValueError: lone surrogates among others.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise BadRequest("The request body is not a valid JSON.") from None
    return Payload(JSON, text)


# No content type at all is binary, as in Azure.
_READERS: Mapping[str, Callable[[Mapping[str, str], bytes], Payload]] = {
    "": _binary,
    BINARY_TYPE: _binary,
    TEXT_TYPE: _text,
    JSON_TYPE: _json,
}


def _json_text(parameters: Mapping[str, str], body: bytes) -> bytes:
    # A byte order mark is no part of JSON, but some editors and .NET's writers put one there.
    return _decoded(parameters, body).removeprefix(_BYTE_ORDER_MARK).encode()


def _decoded(parameters: Mapping[str, str], body: bytes) -> str:
    charset = parameters.get("charset", "utf-8")
    try:
        codec = codecs.lookup(charset)
    except LookupError:
        codec = None
    if codec is None or codec.name not in _CHARSETS:
        raise Unsupported("The charset of the Content-Type is not supported; use utf-8.")
    try:
        # Decoding is also the check: half a surrogate pair in UTF-16 or UTF-32 is refused here.
        return codec.decode(body)[0]
    except UnicodeError:
        raise BadRequest(f"The request body is not {codec.name} text.") from None


def _content_type(request: HttpRequest) -> tuple[str, Mapping[str, str]]:
    try:
        return parse_header_parameters(request.META.get("CONTENT_TYPE", ""))
    except ValueError:
        raise Unsupported("The Content-Type is malformed.") from None


def _bytes(request: HttpRequest) -> bytes:
    if getattr(request, "scope", {}).get(LEFT_UNREAD):
        # The token was no good when the request came, and now it is: its key has just been made, or the database has
        # come back. Callers try again by themselves.
        raise Unavailable("The token could not be verified in time. Try again.")
    most = conf.settings.MAX_MESSAGE_BYTES
    announced = request.META.get("CONTENT_LENGTH") or "0"
    if not announced.isdecimal() or int(announced) > most:
        # Not read at all: hubs/rest/body_limit.py has kept it off the disk, too.
        raise _too_large()
    # Not `request.body`, which is bounded by a setting of Django's for forms.
    body = request.read(most + 1)
    if len(body) > most:
        raise _too_large()
    return body


def _too_large() -> TooLarge:
    return TooLarge(f"The request body is larger than {conf.settings.MAX_MESSAGE_BYTES} bytes.")
