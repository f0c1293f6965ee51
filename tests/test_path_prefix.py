"""The path prefix of PUBLIC_ENDPOINT, whether a proxy keeps it or takes it away.

tests/browser/test_below_prefix.py runs the service below one.
"""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync

from pubsub_site.prefix import BelowPrefix


def seen(prefix: str, scope: dict[str, Any]) -> dict[str, Any]:
    """The scope that the application behind the prefix sees."""
    scopes: list[dict[str, Any]] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        scopes.append(scope)

    async_to_sync(BelowPrefix(application, prefix))(scope, None, None)
    return scopes[0]


@pytest.mark.parametrize(
    ("path", "raw", "expected", "expected_raw"),
    [
        ("/rt/api/hubs", b"/rt/api/hubs", "/rt/api/hubs", b"/rt/api/hubs"),
        ("/api/hubs", b"/api/hubs", "/rt/api/hubs", b"/rt/api/hubs"),
        ("/rt/a/b", b"/rt/a%2Fb", "/rt/a/b", b"/rt/a%2Fb"),
        ("/a/b", b"/a%2Fb", "/rt/a/b", b"/rt/a%2Fb"),
        ("/rt", b"/rt", "/rt", b"/rt"),
        ("/rt/", b"/rt/", "/rt/", b"/rt/"),
        ("/", b"/", "/rt/", b"/rt/"),
        # Something else that begins alike.
        ("/rtx/a", b"/rtx/a", "/rt/rtx/a", b"/rt/rtx/a"),
        # Spelled so that the raw path cannot be told from the prefix: the decoded one is used.
        ("/rt/a", b"/%72t/a", "/rt/a", None),
        # Servers need not give the raw path.
        ("/a", None, "/rt/a", None),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_paths(kind: str, path: str, raw: bytes | None, expected: str, expected_raw: bytes | None) -> None:
    scope = seen("/rt", {"type": kind, "path": path, "raw_path": raw})
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/rt", expected, expected_raw)


def test_a_prefix_that_is_not_ascii() -> None:
    scope = seen("/%C3%BC/b", {"type": "http", "path": "/api", "raw_path": b"/api"})
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/ü/b", "/ü/b/api", b"/%C3%BC/b/api")


def test_the_process_has_no_path() -> None:
    assert seen("/rt", {"type": "lifespan"}) == {"type": "lifespan"}
