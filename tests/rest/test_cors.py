"""Pages of other origins. A real browser tries it in tests/browser/test_below_prefix.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hubs import conf
from hubs.rest.cors import allow_other_origins

from .doors import Answered, Wire, scope

APP, OTHER = "https://app.example.com", "https://other.example.com"
SEND = "/api/hubs/chat/:send"


async def nothing(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers every request with nothing."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"retry-after", b"1")]})
    await send({"type": "http.response.body", "body": b""})


async def ask(path: str, method: str, origin: str | None, *, root_path: str = "", **headers: str) -> Answered:
    given = headers | ({} if origin is None else {"origin": origin})
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
    wire = Wire()
    await allow_other_origins(nothing)(
        scope(method, path.encode(), pairs, root_path=root_path), wire.receive, wire.send
    )
    assert wire.answered is not None
    return wire.answered


def preflight(path: str, method: str, origin: str, **more: Any) -> Any:
    return ask(path, "OPTIONS", origin, access_control_request_method=method, **more)


def allowed(answered: Answered) -> tuple[str | None, str | None]:
    return answered.header("access-control-allow-origin"), answered.header("access-control-allow-credentials")


def test_nothing_stands_there_by_default() -> None:
    assert allow_other_origins(nothing) is nothing


@pytest.mark.parametrize("path", ["/negotiate", "/negotiate/", "/api/negotiate/chat", "/api/negotiate"])
async def test_negotiate(configure: Callable[..., None], path: str) -> None:
    configure(NEGOTIATE_ORIGINS=[APP])
    answered = await preflight(path, "POST", APP, access_control_request_headers="authorization, x-any")
    assert (answered.status, allowed(answered)) == (200, (APP, "true"))
    assert answered.header("access-control-allow-headers") == "authorization, x-any"
    answered = await ask(path, "GET", APP)
    assert allowed(answered) == (APP, "true")
    assert answered.header("access-control-expose-headers") == "Retry-After"
    assert answered.header("vary") == "Origin"
    assert (await preflight(path, "DELETE", APP)).status == 400
    for stranger in (OTHER, "null", "https://app.example.com:8443", "http://app.example.com", f"{APP}.evil.example"):
        assert (await preflight(path, "GET", stranger)).status == 400
        assert allowed(await ask(path, "GET", stranger))[0] is None
    # Caches must not give one origin's answer to another.
    assert (await ask(path, "GET", None)).header("vary") == "Origin"


async def test_rest(configure: Callable[..., None]) -> None:
    configure(REST_ORIGINS=[APP])
    for path in (SEND, "/API/Hubs/chat/groups/g", "/api/health"):
        answered = await preflight(path, "PUT", APP, access_control_request_headers="x-webpubsub-metadata-any")
        assert (answered.status, allowed(answered)) == (200, (APP, None))
        assert answered.header("access-control-allow-headers") == "x-webpubsub-metadata-any"
        assert (await preflight(path, "PUT", OTHER)).status == 400
    assert "x-ms-error-code" in str((await ask(SEND, "POST", APP)).header("access-control-expose-headers"))
    configure(REST_ORIGINS=["*"])
    assert allowed(await ask(SEND, "POST", OTHER)) == ("*", None)


async def test_each_setting_is_for_its_own_addresses(configure: Callable[..., None]) -> None:
    configure(NEGOTIATE_ORIGINS=[APP], REST_ORIGINS=[OTHER])
    assert allowed(await ask("/negotiate", "GET", OTHER))[0] is None
    assert allowed(await ask(SEND, "POST", APP))[0] is None
    for path in ("/", "/admin/", "/manage/api/hubs", "/client/hubs/chat", "/api/negotiated", "/api/hubsters"):
        for origin in (APP, OTHER):
            assert allowed(await ask(path, "GET", origin)) == (None, None)


async def test_below_a_prefix(configure: Callable[..., None]) -> None:
    configure(NEGOTIATE_ORIGINS=[APP])
    assert allowed(await ask("/negotiate", "GET", APP, root_path="/rt"))[0] == APP
    assert allowed(await ask("/negotiate", "GET", APP, root_path="/negotiate"))[0] == APP
    assert allowed(await ask("/admin", "GET", APP, root_path="/negotiate"))[0] is None


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("https://app.example.com/", "write https://app.example.com"),
        ("https://app.example.com/page", "write https://app.example.com"),
        ("https://app.example.com?a", "is more than an origin"),
        ("https://App.example.com", "write that"),
        ("https://app.example.com:443", "as https://app.example.com; write that"),
        ("http://localhost:80", "as http://localhost; write that"),
        ("https://bücher.example", "as https://xn--bcher-kva.example; write that"),
        ("http://[0:0::1]:3000", "as http://[::1]:3000; write that"),
        ("https://an app.example", "is not an origin"),
        ("app.example.com", "is not an origin"),
        ("null", "is not an origin"),
        ("https://", "is not an origin"),
        ("https://a:99999", "is not an origin"),
        ("https://user@a", "is not an origin"),
        ("https://*.example.com", "has a wildcard"),
        (None, "is not an origin"),
    ],
)
def test_what_is_no_origin(origin: Any, words: str) -> None:
    for name in ("NEGOTIATE_ORIGINS", "REST_ORIGINS"):
        complaint = conf.OPTIONS[name].complaint([APP, origin])
        assert complaint is not None
        assert words in complaint


def test_all_origins_are_for_rest_alone() -> None:
    assert conf.OPTIONS["REST_ORIGINS"].complaint(["*"]) is None
    assert "is not an origin" in str(conf.OPTIONS["REST_ORIGINS"].complaint(["*", APP]))
    assert "name the origins" in str(conf.OPTIONS["NEGOTIATE_ORIGINS"].complaint(["*"]))
    for name in ("NEGOTIATE_ORIGINS", "REST_ORIGINS"):
        assert conf.OPTIONS[name].complaint([]) is None
        assert conf.OPTIONS[name].complaint([APP, "http://localhost:3000", "capacitor://localhost"]) is None
        assert "write a list" in str(conf.OPTIONS[name].complaint(APP))
