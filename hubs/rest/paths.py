"""The path of a request as it was sent, before anybody decoded it.

Names of groups, users and connections may contain slashes. SDKs send such a slash as ``%2F``, and
Django's URL patterns, which see the decoded path, could no longer tell it from one that separates
segments. So the data plane splits the raw path first and then decodes each segment, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from django.http import HttpRequest

# Everything that may stand in a path unescaped (RFC 3986, pchar) and the slash.
_UNESCAPED = "/:@!$&'()*+,;=~"


def raw_path(request: HttpRequest) -> str:
    """Give the path below the script name, percent-encoded as it came."""
    scope: Any = getattr(request, "scope", None) or {}
    raw: bytes = scope.get("raw_path") or b""
    if not raw:
        # Servers need not give the raw path (ASGI), and then an encoded slash is lost.
        return quote(request.path_info, safe=_UNESCAPED)
    path = raw.decode("latin-1").partition("?")[0]
    return path.removeprefix(quote(script_name(request), safe=_UNESCAPED))


def script_name(request: HttpRequest) -> str:
    """The prefix under which this installation is mounted, usually none."""
    return str(request.META.get("SCRIPT_NAME", "")).rstrip("/")


def below_root(scope: Mapping[str, Any]) -> str:
    """The decoded path of an ASGI scope below the prefix under which this installation is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    return path[len(root) :] if root and path.lower().startswith(root.lower()) else path


def segments(path: str) -> tuple[str, ...]:
    """Split a raw path and decode each segment once. One slash at the end does not count.

    Raises UnicodeDecodeError for bytes that are not UTF-8.
    """
    parts = path.removeprefix("/").removesuffix("/").split("/")
    return tuple(unquote(part, errors="strict") for part in parts) if "%" in path else tuple(parts)
