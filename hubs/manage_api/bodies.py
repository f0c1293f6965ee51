"""Bodies of requests: JSON objects of the shapes in hubs/resources.py, read strictly.

msgspec reads and checks in one step against the very classes the OpenAPI document is written from,
so what the document promises is what is enforced. Its complaints name the place; what may stand
there instead is looked up in the same schema and added.
"""

from __future__ import annotations

import re
from functools import cache
from typing import IO, Any, TypeVar

import msgspec
from django.core.exceptions import RequestDataTooBig
from rest_framework.parsers import BaseParser
from rest_framework.request import Request

from hubs.rest.exceptions import BadRequest

# A hub's event handlers are sent as a whole: fifty of them, with URLs, patterns and tokens of usual lengths.
MAX_BODY_BYTES = 128 * 1024

# "Expected `str`, got `int` - at `$.properties.hub`"
_COMPLAINT = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<where>[^`]*)`)?", re.DOTALL)
_MEMBER = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)

_STEP = re.compile(r"\[\d*\.*\]|[^.\[]+")

_MAX_QUOTED_CHARACTERS = 80

ShapeType = TypeVar("ShapeType", bound=msgspec.Struct)


class JsonBytes(BaseParser):
    """Takes the body in as it is, if it is called JSON and not too large; `read` makes sense of it."""

    media_type = "application/json"

    def parse(self, stream: IO[bytes], media_type: str | None = None, parser_context: Any = None) -> Any:
        """Give the body. Raises RequestDataTooBig."""
        # The limit holds however long the request says its body is.
        body = stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise RequestDataTooBig
        return body


def read(request: Request, shape: type[ShapeType]) -> ShapeType:
    """Give the request's body as `shape`. Raises BadRequest, and DRF's error for other media types."""
    # Without a body DRF asks no parser and gives an empty dictionary.
    body = request.data if isinstance(request.data, bytes) else b""
    if not body:
        raise BadRequest("Send a JSON object as the body.", target="body")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as problem:
        raise _explained(str(problem), shape) from None
    except (ValueError, RecursionError):
        # msgspec's own errors are ValueErrors, and so is Python's for bytes that are not UTF-8. RecursionError: nested
        # too deep.
        raise BadRequest("The request body is not a valid JSON.", target="body") from None


def _explained(complaint: str, shape: type[msgspec.Struct]) -> BadRequest:
    found = _COMPLAINT.fullmatch(complaint)
    what, where = (found["what"], found["where"] or "") if found else (complaint, "")
    schema = _at(shape, where)
    member = _MEMBER.fullmatch(what)
    if member is None:
        target = where or "body"
        # A regular expression says little to people; the description says the same in words.
        said = "" if " matching regex " in what else f" {what}."
        return BadRequest(f"{target}:{said}{_advice(schema)}", target=target)
    name = (
        member["name"]
        if len(member["name"]) <= _MAX_QUOTED_CHARACTERS
        else f"{member['name'][:_MAX_QUOTED_CHARACTERS]}…"
    )
    target = f"{where}.{name}" if where else name
    if "missing" in what:
        return BadRequest(f"{target} is missing.", target=target)
    known = ", ".join(schema.get("properties", ()))
    return BadRequest(f"{target} is not known here. {where or 'The body'} has: {known}.", target=target)


def _advice(schema: dict[str, Any]) -> str:
    """What may stand at a place, in words."""
    for choice in _alternatives(schema):
        if "enum" in choice:
            return f" Write one of: {', '.join(str(value) for value in choice['enum'])}."
        if "description" in choice and choice.get("type") != "object":
            return f" {choice['description']}"
    return ""


def _at(shape: type[msgspec.Struct], where: str) -> dict[str, Any]:
    """The schema of the place that a path leads to, such as ``properties.eventHandlers[0].auth``."""
    root, components = _schema(shape)
    schema = _resolved(root, components)
    for name in _STEP.findall(where):
        found: list[dict[str, Any]] = []
        for choice in _alternatives(schema):
            choice = _resolved(choice, components)
            step = choice.get("items") if name.startswith("[") else choice.get("properties", {}).get(name)
            if step is not None:
                found.append(_resolved(step, components))
        # One of several objects is told by its type; what they are called, each of them says for itself.
        names = [word for step in found for word in step.get("enum", ())]
        schema = {"enum": names} if len(found) > 1 and names else found[0] if found else {}
    return schema


def _alternatives(schema: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    return (schema, *schema.get("anyOf", ()))


def _resolved(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = components[schema["$ref"]] if "$ref" in schema else schema
    return found


@cache
def _schema(shape: type[msgspec.Struct]) -> tuple[dict[str, Any], dict[str, Any]]:
    (root,), components = msgspec.json.schema_components([shape], ref_template="{name}")
    return root, components
