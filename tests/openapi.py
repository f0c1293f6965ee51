"""Answers held against an OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


class Contract:
    """One document, and what it says an operation may answer."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        resource = Resource(contents=document, specification=DRAFT202012)
        self._registry: Registry[Any] = Registry().with_resource("urn:document", resource)

    def at(self, reference: str) -> Any:
        """What a `$ref` leads to."""
        found: Any = self.document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        return found

    def resolved(self, part: Any) -> Any:
        """A part of the document, or what it refers to."""
        return self.at(part["$ref"]) if "$ref" in part else part

    def operation(self, method: str, path: str) -> Any:
        """What is written about an operation."""
        return self.document["paths"][path][method.lower()]

    def validator(self, schema: Any) -> Draft202012Validator:
        """Checks values against a schema of the document."""
        return Draft202012Validator(self._absolute(schema), registry=self._registry)

    def _absolute(self, schema: Any) -> Any:
        if isinstance(schema, dict):
            return {
                name: f"urn:document{value}" if name == "$ref" else self._absolute(value)
                for name, value in schema.items()
            }
        return [self._absolute(part) for part in schema] if isinstance(schema, list) else schema

    def check(self, method: str, path: str, response: Any) -> None:
        """Raise AssertionError when a response is not one that the document promises."""
        answers = self.operation(method, path)["responses"]
        status = str(response.status_code)
        assert status in answers, f"{method} {path} is not said to answer {status}: {response.content!r}"
        answer = self.resolved(answers[status])
        for name, header in answer.get("headers", {}).items():
            header = self.resolved(header)
            assert name in response.headers or not header.get("required"), f"{status} without {name}"
            if name in response.headers:
                self.validator(header["schema"]).validate(response.headers[name])
        content = answer.get("content")
        if content is None:
            assert response.content == b"", f"{status} is said to have no content"
            return
        media_type = response.headers["Content-Type"].partition(";")[0]
        assert media_type in content
        self.validator(content[media_type]["schema"]).validate(response.json())
