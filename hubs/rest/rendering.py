"""How answers are written: always JSON, always UTF-8, whatever the caller says it accepts."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from django.http.response import ResponseHeaders
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response


class Utf8JSON(JSONRenderer):
    """JSON that names its encoding, as the cloud service does."""

    charset: Any = "utf-8"


class JSONForEverybody(DefaultContentNegotiation):
    """Ignores `Accept` and `?format=`: an SDK that asks for text/json, or a browser, is served rather than refused."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Take the first renderer there is."""
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)


class NoContent(Response):
    """204. It has no body, so it must not have a Content-Length either (RFC 9110, 8.6)."""

    def __init__(self) -> None:
        super().__init__(status=HTTPStatus.NO_CONTENT)
        self.headers = _WithoutLength(self.headers)


class _WithoutLength(ResponseHeaders):
    """Headers that do not take a Content-Length: Django's CommonMiddleware gives one to every answer."""

    def __setitem__(self, key: str, value: Any) -> None:
        if key.lower() != "content-length":
            super().__setitem__(key, value)
