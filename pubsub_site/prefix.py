"""The path prefix of PUBLIC_ENDPOINT, put where ASGI applications look for it.

With `PUBLIC_ENDPOINT=https://host/rt` a proxy sends what is below /rt here, with the prefix still there or without it.
ASGI has one form for both: a path that begins with its `root_path`. Everything behind this module sees that form, so
links, redirects, audiences and routes need not know which kind of proxy there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote, unquote

Application = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class BelowPrefix:
    """An ASGI application whose HTTP and WebSocket addresses are below `prefix`, percent-encoded as in a URL."""

    def __init__(self, application: Application, prefix: str) -> None:
        self._application = application
        self._prefix = unquote(prefix)
        self._raw_prefix = quote(self._prefix).encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Handle one request, one WebSocket, or the process's life."""
        path = scope.get("path")
        if path is not None:
            changed: dict[str, Any] = {"root_path": self._prefix}
            if path != self._prefix and not path.startswith(f"{self._prefix}/"):
                # A proxy took it away, or the caller came around the proxy.
                changed["path"] = self._prefix + path
                if scope.get("raw_path"):
                    changed["raw_path"] = self._raw_prefix + scope["raw_path"]
            elif scope.get("raw_path") and not scope["raw_path"].startswith(self._raw_prefix):
                # The prefix is spelled in another way (%72t), so the raw path cannot be told from it.
                changed["raw_path"] = None
            scope = {**scope, **changed}
        await self._application(scope, receive, send)
