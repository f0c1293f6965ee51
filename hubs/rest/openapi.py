"""OpenAPI 3.1 documents, written from a table of operations and their descriptions.

`Document` turns descriptions (hubs/rest/description.py says what they are made of) into paths and
components; the management API uses it too. `data_plane()` is the description of the data plane:
what can be known from a row of hubs/rest/table.py (path, parameters that are passed on, status when
done, error codes) is taken from the row, the words and the rest from its description. A row
without description is an error, so a new operation cannot stay undocumented.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec

from hubs.rest import description, exceptions, versions
from hubs.rest.description import Answer, Header, Operation, Parameter
from hubs.rest.table import ROWS, Row

_COMPONENT = "#/components/schemas/{name}"


class Undescribed(LookupError):
    """A row of the table has no description."""


class Document:
    """An OpenAPI document in the making. Types given as schemas become components."""

    def __init__(self, info: Mapping[str, str], *, security: Mapping[str, Mapping[str, str]]) -> None:
        self._info = dict(info)
        self._security = {name: dict(scheme) for name, scheme in security.items()}
        self._types: dict[str, type] = {}
        self._paths: dict[str, dict[str, Any]] = {}
        self._tags: dict[str, None] = {}
        # What many operations share: section of the components → name → what it is.
        self._shared: dict[str, dict[str, Any]] = {"headers": {}, "parameters": {}, "responses": {}}

    def add(
        self,
        method: str,
        path: str,
        operation: Operation,
        parameters: Iterable[Parameter],
        answers: Mapping[HTTPStatus, Answer],
    ) -> None:
        """Write one operation. `answers` are all that it gives, good and bad."""
        self._tags[operation.tag] = None
        written: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
        }
        if operation.details:
            written["description"] = operation.details
        said = [self._parameter(parameter) for parameter in parameters]
        if said:
            written["parameters"] = said
        if operation.body is not None:
            written["requestBody"] = {
                "required": operation.body.required,
                "content": {kind: {"schema": self._schema(of)} for kind, of in operation.body.content.items()},
            }
        if operation.body is not None and operation.body.description:
            written["requestBody"]["description"] = operation.body.description
        written["responses"] = {
            str(status.value): self._answer(status, answer, has_content=method != "HEAD")
            for status, answer in sorted(answers.items())
        }
        if not operation.authenticated:
            written["security"] = []
        self._paths.setdefault(path, {})[method.lower()] = written

    def as_dict(self) -> dict[str, Any]:
        """The whole document."""
        _, schemas = msgspec.json.schema_components(list(self._types.values()), ref_template=_COMPONENT)
        return {
            "openapi": "3.1.0",
            "info": self._info,
            "servers": [
                {
                    "url": "{endpoint}",
                    "variables": {
                        "endpoint": {
                            "default": "http://localhost:8080",
                            "description": "The address of the service, as in its connection string.",
                        }
                    },
                }
            ],
            "security": [{name: []} for name in self._security],
            "tags": [{"name": tag} for tag in self._tags],
            "paths": self._paths,
            "components": {
                "securitySchemes": self._security,
                **{section: dict(sorted(shared.items())) for section, shared in self._shared.items()},
                "schemas": {name: _tidied(schema) for name, schema in sorted(schemas.items())},
            },
        }

    def _parameter(self, parameter: Parameter) -> dict[str, Any]:
        written: dict[str, Any] = {"name": parameter.name, "in": parameter.where}
        if parameter.where == "path" or parameter.required:
            written["required"] = True
        written["description"] = parameter.description
        written["schema"] = dict(parameter.schema)
        if parameter.schema.get("type") == "array":
            # `name=a&name=b`: values are never split at commas.
            written |= {"style": "form", "explode": True}
        return self._share("parameters", parameter.name, written)

    def _share(self, section: str, name: str, written: dict[str, Any]) -> dict[str, Any]:
        """Keep what many operations say as a component and give the reference; what differs from it stays in place."""
        if self._shared[section].setdefault(name, written) != written:
            return written
        return {"$ref": f"#/components/{section}/{name}"}

    def _answer(self, status: HTTPStatus, answer: Answer, *, has_content: bool) -> dict[str, Any]:
        written: dict[str, Any] = {"description": answer.description}
        if answer.headers:
            written["headers"] = {header.name: self._header(header) for header in answer.headers}
        if answer.content is not None and has_content:
            written["content"] = {"application/json": {"schema": self._schema(answer.content)}}
            if answer.problem is not None:
                written["content"][exceptions.PROBLEM_DOCUMENT] = {"schema": self._schema(answer.problem)}
        if answer.content is description.Error:
            name = status.phrase.title().replace(" ", "") + (".filter" if answer.problem else "")
            return self._share("responses", name if has_content else f"{name}.head", written)
        return written

    def _header(self, header: Header) -> dict[str, Any]:
        written: dict[str, Any] = {"description": header.description, "schema": dict(header.schema)}
        if header.always:
            written["required"] = True
        return self._share("headers", header.name, written)

    def _schema(self, of: Mapping[str, Any] | type) -> dict[str, Any]:
        if isinstance(of, Mapping):
            return dict(of)
        self._types[of.__name__] = of
        return {"$ref": _COMPONENT.format(name=of.__name__)}


def _tidied(schema: Any) -> Any:
    """What msgspec writes, without titles that repeat the name, and with the type of enumerated texts."""
    if isinstance(schema, list):
        return [_tidied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    members: dict[str, Any] = {
        # Members of an object may be called anything, `title` and `enum` as well.
        name: {member: _tidied(of) for member, of in part.items()} if name == "properties" else _tidied(part)
        for name, part in schema.items()
        if not (name == "title" and isinstance(part, str)) and not (name == "required" and part == [])
    }
    if isinstance(members.get("description"), str):
        members["description"] = " ".join(members["description"].split())
    if "type" not in members and all(isinstance(value, str) for value in members.get("enum", [None])):
        members = {"type": "string", **members}
    return members


def text(document: Mapping[str, Any]) -> str:
    """A document as it is kept in a file."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def data_plane() -> dict[str, Any]:
    """The OpenAPI document of the data plane, and of the health checks beside it."""
    document = Document(description.INFO, security=description.SECURITY)
    for row in ROWS:
        operation = described(row)
        path = re.sub(r"\{(\w+)\}", lambda found: f"{{{description.IN_PATH[found[1]].name}}}", row.path)
        document.add(row.method, path, operation, _parameters(row, operation), _answers(row, operation))
    for path, (operation, refusals) in description.HEALTH_CHECKS.items():
        document.add("GET", path, operation, (), {HTTPStatus.OK: operation.answer, **refusals})
    return document.as_dict()


def described(row: Row) -> Operation:
    """The description of a row. Raises Undescribed."""
    try:
        return description.OPERATIONS[f"{row.method} {row.path}"]
    except KeyError:
        raise Undescribed(f"Describe {row.method} {row.path} in hubs/rest/description.py.") from None


def _parameters(row: Row, operation: Operation) -> list[Parameter]:
    return [
        *(description.IN_PATH[name] for name in re.findall(r"\{(\w+)\}", row.path)),
        description.API_VERSION,
        *(description.OPTIONS[name] for name in row.options),
        *operation.parameters,
        description.REQUEST_ID,
    ]


def _answers(row: Row, operation: Operation) -> dict[HTTPStatus, Answer]:
    answers = {row.ok: operation.answer, HTTPStatus.BAD_REQUEST: description.refusal(HTTPStatus.BAD_REQUEST)}
    statuses = set()
    if operation.authenticated:
        statuses |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.TOO_MANY_REQUESTS, row.too_many}
        statuses |= {HTTPStatus.SERVICE_UNAVAILABLE}
    if operation.body is not None:
        statuses |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    answers |= {status: description.refusal(status) for status in statuses}
    if operation.authenticated and row.missing:
        answers[HTTPStatus.NOT_FOUND] = description.refusal(
            HTTPStatus.NOT_FOUND, f"What the path names is not there (`{row.missing}`), or the hub was never created"
        )
    if "filter" in row.options or operation.body is description.GROUPS:
        bad = answers[HTTPStatus.BAD_REQUEST]
        answers[HTTPStatus.BAD_REQUEST] = bad._replace(problem=description.BadFilter)
    return {
        status: answer._replace(
            headers=(*answer.headers, _SUPPORTED._replace(always=not answer.problem), description.REQUEST_ID_ECHOED)
        )
        for status, answer in answers.items()
    }


_SUPPORTED = Header(
    versions.SUPPORTED_HEADER[0],
    "The api-versions that the service answers. Absent from problem documents.",
    {"type": "string", "const": versions.SUPPORTED_HEADER[1]},
)
