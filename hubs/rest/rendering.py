"""How answers are written: always JSON, always UTF-8, whatever the caller says it accepts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request


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
