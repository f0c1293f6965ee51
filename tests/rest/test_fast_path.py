"""The fast path and the way through Django answer alike: every byte of status, headers and body, and the verb called.

Each request is made twice, once to an application with the fast path and once to the same without it; what a
caller could tell apart is compared, and so is what the operations were asked.
"""

from __future__ import annotations

import copy
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote

import jwt
import pytest
from django.core.cache import cache

from hubs import conf, hub_settings, operations
from hubs.errors import Forbidden, NotFound, TooMany, Unavailable
from hubs.models import AccessKey
from hubs.protocols.frames import BINARY, JSON, Payload
from hubs.rest.table import ROWS, Row
from hubs.rest.versions import NEWEST

from .conftest import ENDPOINT, HOST
from .doors import UNCONCERNED, Answered, Door, Wire, scope
from .doubles import Recorder

SENDING = [row for row in ROWS if row.sends]
NAMES = {"hub": "Chat", "group": "a group ü/", "user_id": "ann ü?", "connection_id": "c%2F"}
STRANGER = "s" * 64


@pytest.fixture
def doors(monkeypatch: pytest.MonkeyPatch) -> tuple[Door, Door]:
    # Both ways count calls at the same moment, so they say the same number of seconds to wait.
    now = time.time()
    monkeypatch.setattr("hubs.rates.time", SimpleNamespace(time=lambda: now))
    # And give tokens of the same age.
    monkeypatch.setattr("hubs.client_urls.time", SimpleNamespace(time=lambda: now))
    return Door(fast=True), Door(fast=False)


class Both:
    """Asks both, compares, and gives what they answered."""

    def __init__(self, doors: tuple[Door, Door], keys: list[str], recorder: Recorder | None) -> None:
        self.fast, self.django = doors
        self.keys = keys
        self.recorder = recorder

    def ask(
        self,
        target: str | bytes,
        body: bytes = b'"x"',
        *,
        method: str = "POST",
        headers: dict[str, str] | list[tuple[bytes, bytes]] | None = None,
        chunks: list[bytes] | None = None,
        signed: str | None = ENDPOINT,
        key: str | None = None,
        claims: dict[str, Any] | None = None,
        gone: bool = False,
        **options: Any,
    ) -> Answered | None:
        raw = target.encode("latin-1") if isinstance(target, str) else target
        sent = list(headers) if isinstance(headers, list) else list(_written(headers or {}))
        given = {name.lower() for name, _ in sent}
        if b"host" not in given:
            sent.append((b"host", HOST.encode()))
        if b"content-length" not in given and b"transfer-encoding" not in given:
            sent.append((b"content-length", str(sum(map(len, chunks or [body]))).encode()))
        if b"authorization" not in given and signed is not None:
            audience = {"aud": f"{signed}{raw.decode('latin-1')}", "exp": int(time.time()) + 60}
            token = jwt.encode(audience | (claims or {}), key or self.keys[0], "HS256")
            sent.append((b"authorization", f"Bearer {token}".encode()))
        answers = []
        for door in (self.fast, self.django):
            # Counted calls are each way's own.
            cache.clear()
            wire = Wire(chunks or [body], gone=gone)
            answered = door.ask(copy.deepcopy(scope(method, raw, sent, **options)), wire)
            answers.append((answered, list(self.recorder.calls) if self.recorder else None))
            if self.recorder:
                self.recorder.calls.clear()
        assert answers[0] == answers[1]
        self.called = answers[0][1]
        return answers[0][0]

    def takes(self, *arguments: Any, **options: Any) -> Answered:
        """As `ask`, and it is the fast path that answers."""
        before = self.fast.reached_django
        answered = self.ask(*arguments, **options)
        assert self.fast.reached_django == before
        assert answered is not None
        return answered

    def passes(self, *arguments: Any, **options: Any) -> Answered | None:
        """As `ask`, and the fast path lets it pass to Django."""
        before = self.fast.reached_django
        answered = self.ask(*arguments, **options)
        assert self.fast.reached_django == before + 1
        return answered


def _written(headers: dict[str, str]) -> Any:
    return ((name.lower().encode(), value.encode("latin-1")) for name, value in headers.items())


@pytest.fixture
def both(doors: tuple[Door, Door], keys: list[str], recorder: Recorder) -> Both:
    return Both(doors, keys, recorder)


JSON_TYPE = {"content-type": "application/json"}
TO_GROUP = "/api/hubs/chat/groups/g/:send"


def path_of(row: Row, names: dict[str, str] = NAMES) -> str:
    return row.path.format(**{name: quote(value, safe="") for name, value in names.items()})


# What the fast path takes


@pytest.mark.parametrize("row", SENDING, ids=lambda row: row.path)
def test_every_row_that_sends(both: Both, row: Row) -> None:
    headers = JSON_TYPE | {"x-ms-client-request-id": "6f1c", "x-webpubsub-metadata-a": "1"}
    answered = both.takes(f"{path_of(row)}?api-version={NEWEST}&messageTtlSeconds=7", b'{"a": 1.0}', headers=headers)
    assert (answered.status, answered.body) == (202, b"")
    assert answered.header("x-ms-client-request-id") == "6f1c"
    assert answered.header("x-content-type-options") == "nosniff"
    target = {name: NAMES[name] for name in NAMES if f"{{{name}}}" in row.path}
    assert both.called is not None
    ((verb, arguments),) = both.called
    assert verb == row.sends
    assert arguments | target | {"hub": "chat", "ttl_secs": 7, "metadata": {"a": "1"}} == arguments
    assert arguments["payload"] == Payload(JSON, b'{"a": 1.0}')


def test_a_row_that_sends_names_a_verb() -> None:
    assert len(SENDING) == 4
    for row in SENDING:
        assert callable(getattr(operations, row.sends))


@pytest.mark.parametrize(
    "path",
    [
        f"{TO_GROUP}/",
        "/API/Hubs/Chat/GROUPS/g/:SEND",
        "/api/hubs/chat/groups/g/%3Asend",
        "/api/hubs/chat/groups/g/%3asend/",
        "/%61pi/hubs/chat/groups/g/:send",
        "/api/hubs/chat/groups/a%2Fb/:send",
        "/api/hubs/chat/groups/:send/:send",
        "/api/hubs/chat/connections/%3Asend/:send",
    ],
)
def test_spellings_of_a_path(both: Both, path: str) -> None:
    assert both.takes(path).status == 202
    # Servers need not give the raw path.
    assert both.ask(path, raw=False) is not None


def test_a_prefix_in_front(both: Both) -> None:
    assert both.takes(TO_GROUP, root_path="/messaging", signed=f"{ENDPOINT}/messaging").status == 202
    assert both.takes(TO_GROUP, root_path="/messaging").status == 202
    assert both.takes(TO_GROUP, root_path="/messaging", signed=f"{ENDPOINT}/other").status == 401


def test_https_has_headers_of_its_own(both: Both, settings: Any) -> None:
    settings.SECURE_HSTS_SECONDS = 60
    both.fast, both.django = Door(fast=True), Door(fast=False)
    for scheme, expected in (("http", None), ("https", "max-age=60"), ("http", None)):
        for status, key in ((202, None), (401, STRANGER)):
            answered = both.takes(TO_GROUP, scheme=scheme, key=key)
            assert (answered.status, answered.header("strict-transport-security")) == (status, expected)


def test_behind_a_proxy(both: Both, configure: Callable[..., None], settings: Any) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    settings.USE_X_FORWARDED_HOST = True
    configure(TRUST_FORWARDED_HEADERS=True)
    forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "localhost:9443"}
    assert both.takes(TO_GROUP, headers=forwarded, signed="https://localhost:9443").status == 202
    assert both.takes(TO_GROUP, headers=forwarded, signed="https://localhost:9444").status == 401
    both.passes(TO_GROUP, headers=forwarded | {"x-forwarded-host": "evil.example.com"})


def test_a_body_in_pieces(both: Both) -> None:
    chunks = [b'{"a":', b"", b' "', b"x" * 70_000, b'"}']
    assert both.takes(TO_GROUP, chunks=chunks, headers=JSON_TYPE).status == 202
    assert both.called
    assert both.called[0][1]["payload"].data == b"".join(chunks)


def test_a_client_that_goes_in_the_middle_of_a_body(both: Both) -> None:
    assert both.ask(TO_GROUP, chunks=[b'{"a":'], gone=True, headers=JSON_TYPE) is None
    assert not both.called


@pytest.mark.parametrize("bounded", [True, False])
def test_bodies_that_are_too_large(keys: list[str], recorder: Recorder, bounded: bool) -> None:
    both = Both((Door(fast=True, bounded=bounded), Door(fast=False, bounded=bounded)), keys, recorder)
    most = conf.settings.MAX_MESSAGE_BYTES
    for size in (most + 1, 2 * most):
        answered = both.ask(TO_GROUP, chunks=[b"x" * most, b"y" * (size - most)])
        assert answered is not None
        assert (answered.status, both.called) == (413, [])
        # Announced as less than it is: what servers do not let pass.
        answered = both.ask(TO_GROUP, chunks=[b"x" * most, b"y" * (size - most)], headers={"content-length": "5"})
        assert answered is not None
        assert answered.status == 413
    exact = both.takes(TO_GROUP, chunks=[b"x" * (most - 1), b"y"])
    assert exact.status == 202
    assert both.called
    assert both.called[0][1]["payload"] == Payload(BINARY, b"x" * (most - 1) + b"y")


def test_a_body_that_is_not_taken_in_is_not_asked_for(keys: list[str], recorder: Recorder) -> None:
    """`Expect: 100-continue`: the server says so when the body is asked for."""
    large = str(conf.settings.MAX_MESSAGE_BYTES + 1).encode()
    for fast_path in (True, False):
        wire = Wire([b"x"])
        answered = Door(fast=fast_path).ask(scope("POST", TO_GROUP.encode(), [(b"content-length", large)]), wire)
        assert answered is None or answered.status in (400, 401, 413)
        assert wire.received == 0


# What it lets pass


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "post", "XYZ"])
def test_other_methods(both: Both, method: str) -> None:
    answered = both.passes(TO_GROUP, method=method)
    assert answered is not None
    if method != "post":
        assert (answered.status, answered.header("allow")) == (405, "POST")


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/api/hubs/chat/:closeConnections",
        "/api/hubs/chat/groups/send",
        "/api/hubs/chat/:resend",
        "/api/hubs//groups/g/:send",
        "/api/hubs/chat/groups//:send",
        "/api/hubs/chat/groups/g/:send//",
        "/api/hubs/chat/groups/g/x/:send",
        "/api/hubs/chat/groups/g/:sen%64",
        "//api/hubs/chat/groups/g/:send",
        "/api%2Fhubs/chat/groups/g/:send",
        "/api/hubs/chat/groups/%FF/:send",
        "/x/api/hubs/chat/groups/g/:send",
        "/api/health/:send",
        "/negotiate/send",
    ],
)
def test_other_paths(both: Both, target: str) -> None:
    both.passes(target)


def test_a_query_that_is_no_utf_8(both: Both) -> None:
    both.passes(TO_GROUP.encode() + b"?filter=\xff")


def test_cookies_are_for_middleware(both: Both) -> None:
    """Django renews a CSRF cookie that cannot be read."""
    assert both.takes(TO_GROUP).status == 202
    answered = both.passes(TO_GROUP, headers={"cookie": "csrftoken=nonsense"})
    assert answered is not None
    assert (answered.status, answered.header("set-cookie")) == (202, "csrftoken")


@pytest.mark.parametrize("host", ["evil.example.com", "", "a b", "localhost:8080/x", "localhost:8080, localhost"])
def test_hosts_that_are_not_ours(both: Both, host: str) -> None:
    answered = both.passes(TO_GROUP, headers={"host": host})
    assert answered is not None
    assert answered.status == 400
    assert not both.called


def test_a_redirect_to_https(both: Both, settings: Any) -> None:
    settings.SECURE_SSL_REDIRECT = True
    both.fast, both.django = Door(fast=True), Door(fast=False)
    answered = both.passes(TO_GROUP)
    assert answered is not None
    assert answered.status == 301
    assert both.takes(TO_GROUP, scheme="https").status == 202
    settings.SECURE_REDIRECT_EXEMPT = ["groups/g/"]
    both.fast, both.django = Door(fast=True), Door(fast=False)
    for path, status in ((TO_GROUP, 202), ("/api/hubs/chat/:send", 301)):
        answered = both.passes(path)
        assert answered is not None
        assert answered.status == status


@pytest.mark.parametrize(
    "change",
    [
        {"MIDDLEWARE": ["django.middleware.gzip.GZipMiddleware"]},
        {"MIDDLEWARE": ["django.middleware.locale.LocaleMiddleware"]},
        {"DISALLOWED_USER_AGENTS": ["curl"]},
        {"PREPEND_WWW": True},
    ],
    ids=str,
)
def test_middleware_that_may_make_a_difference(
    keys: list[str], recorder: Recorder, settings: Any, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    for name, value in change.items():
        setattr(settings, name, [*settings.MIDDLEWARE, *value] if name == "MIDDLEWARE" else value)
    both = Both((Door(fast=True), Door(fast=False)), keys, recorder)
    both.passes(TO_GROUP)
    both.passes(TO_GROUP)
    # Said once, so that nobody wonders why it is slow.
    said = [record for record in caplog.records if record.name == "hubs.rest.middleware"]
    assert len(said) == 1
    assert "through Django" in said[0].getMessage()


def test_middleware_the_project_did_not_name(keys: list[str], recorder: Recorder) -> None:
    doors = Door(fast=True, unconcerned=()), Door(fast=False)
    assert UNCONCERNED
    Both(doors, keys, recorder).passes(TO_GROUP)


def test_without_any_middleware(keys: list[str], recorder: Recorder, settings: Any) -> None:
    settings.MIDDLEWARE = []
    both = Both((Door(fast=True), Door(fast=False)), keys, recorder)
    assert both.takes(TO_GROUP).header("content-length") is None
    assert both.takes(TO_GROUP, key=STRANGER).status == 401


# Tokens that were seen before


def test_a_token_is_judged_anew_each_time(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    token = jwt.encode({"aud": f"{ENDPOINT}{TO_GROUP}", "exp": now + 60, "nbf": now}, both.keys[0], "HS256")
    headers = {"authorization": f"Bearer {token}"}
    for _ in range(2):
        assert both.takes(TO_GROUP, headers=headers).status == 202
    # For another address, with other clocks, and after the keys changed, it is worth what it would be if it were new.
    assert both.takes("/api/hubs/chat/groups/h/:send", headers=headers).status == 401
    assert both.takes("/api/hubs/other/groups/g/:send", headers=headers).status == 401
    now -= 301
    assert both.takes(TO_GROUP, headers=headers).status == 401
    now += 301 + 59 + 300
    assert both.takes(TO_GROUP, headers=headers).status == 202
    now += 2
    answered = both.takes(TO_GROUP, headers=headers)
    assert answered.status == 401
    assert b"expired" in answered.body
    now -= 60
    assert both.takes(TO_GROUP, headers=headers).status == 202
    AccessKey.objects.of_service().get(slot="primary").regenerate()
    hub_settings.drop()
    assert both.takes(TO_GROUP, headers=headers).status == 401


def test_a_changed_endpoint_counts_at_once(both: Both, configure: Callable[..., None]) -> None:
    token = jwt.encode({"aud": f"https://a.example{TO_GROUP}", "exp": int(time.time()) + 60}, both.keys[0], "HS256")
    headers = {"authorization": f"Bearer {token}"}
    assert both.takes(TO_GROUP, headers=headers).status == 401
    configure(PUBLIC_ENDPOINTS=["https://a.example"])
    assert both.takes(TO_GROUP, headers=headers).status == 202
    configure(PUBLIC_ENDPOINTS=["https://b.example"])
    assert both.takes(TO_GROUP, headers=headers).status == 401


def test_a_long_token_and_a_long_address(both: Both) -> None:
    for _ in range(2):
        assert both.takes(TO_GROUP, claims={"note": "x" * 10_000}).status == 202
        excluded = "&".join(f"excluded={number:032x}" for number in range(200))
        assert both.takes(f"{TO_GROUP}?{excluded}").status == 202
        assert both.takes(TO_GROUP, claims={"note": "x" * 70_000}).status == 401


# Rates, hubs, faults


def test_rates(both: Both, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    monkeypatch.setattr("hubs.rates.time", time)
    configure(REST_RATE="0/min")
    answered = both.takes(TO_GROUP)
    assert (answered.status, answered.header("retry-after")) == (429, "60")
    now += 42.5
    assert both.takes(TO_GROUP).header("retry-after") == "18"
    assert both.takes(TO_GROUP, signed=None).status == 401
    assert both.takes(f"{TO_GROUP}?api-version=1").status == 400
    configure(REST_RATE="1/min")
    assert both.takes(TO_GROUP).status == 202


def test_both_ways_share_one_count(both: Both, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    configure(REST_RATE="2/h")
    token = jwt.encode({"aud": f"{ENDPOINT}{TO_GROUP}", "exp": 1_800_000_060}, both.keys[0], "HS256")
    headers = [(b"host", HOST.encode()), (b"content-length", b"1"), (b"authorization", f"Bearer {token}".encode())]

    def status(door: Door) -> int:
        answered = door.ask(scope("POST", TO_GROUP.encode(), headers), Wire([b"x"]))
        assert answered is not None
        return answered.status

    assert [status(door) for door in (both.fast, both.django, both.fast, both.django)] == [202, 202, 429, 429]


def test_hubs_that_have_to_be_known(both: Both, configure: Callable[..., None], make_hub: Callable[..., Any]) -> None:
    configure(REQUIRE_KNOWN_HUBS=True)
    make_hub("known")
    assert both.takes("/api/hubs/KNOWN/:send").status == 202
    assert both.takes("/api/hubs/unknown/:send").status == 404


@pytest.mark.parametrize(
    "fault",
    [Unavailable("Away."), TooMany("Too many."), NotFound("Gone."), Forbidden("No."), RuntimeError("the secret")],
    ids=repr,
)
@pytest.mark.parametrize("row", SENDING, ids=lambda row: row.path)
def test_what_could_not_be_done(both: Both, caplog: pytest.LogCaptureFixture, row: Row, fault: Exception) -> None:
    assert both.recorder is not None
    both.recorder.fail_with = fault
    answered = both.takes(path_of(row))
    assert answered.status >= 400
    assert b"secret" not in answered.body
    faults = [record.getMessage() for record in caplog.records if "failed" in record.getMessage()]
    assert len(faults) in (0, 2)
    assert len(set(faults)) <= 1


def test_a_database_that_is_away(both: Both, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from django.db import OperationalError

    def away() -> int:
        raise OperationalError("gone\nLINE 1: SELECT")

    both.takes(TO_GROUP)
    with monkeypatch.context() as patch:
        patch.setattr("hubs.models.SettingsVersion.read", away)
        patch.setattr(hub_settings._Held, "checked_at", float("-inf"))
        # By what was read last.
        assert both.takes(TO_GROUP).status == 202
        hub_settings.drop()
        refused = both.takes(TO_GROUP)
    assert (refused.status, dict(refused.headers)[b"Retry-After"]) == (503, b"5")
    assert json.loads(refused.body)["code"] == "Error.ServiceUnavailable"
    assert "Traceback" not in caplog.text
    assert "LINE 1" not in caplog.text
    assert both.takes(TO_GROUP).status == 202


def test_without_the_double_a_message_to_nobody_is_accepted(doors: tuple[Door, Door], keys: list[str]) -> None:
    both = Both(doors, keys, None)
    for row in SENDING:
        assert both.takes(path_of(row)).status == 202


# In the order of the promise. What is wrong later is not told while something is wrong earlier.
WRONG: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "version": ({"query": "api-version=1"}, 400, "api-version"),
    "token": ({"key": STRANGER}, 401, None),
    "rate": ({"rate": "0/h"}, 429, None),
    "hub": ({"hub": "1st"}, 400, "hub"),
    "group": ({"group": "%20"}, 400, "group"),
    "filter": ({"query": "filter=userId"}, 400, "filter"),
    "ttl": ({"query": "messageTtlSeconds=x"}, 400, "messageTtlSeconds"),
    "metadata": ({"headers": {"x-webpubsub-metadata-a": "\u00fc"}}, 400, "Request"),
    "type": ({"headers": {"content-type": "application/xml"}}, 415, "Content-Type"),
    "size": ({"body": b"x" * 2000}, 413, "body"),
    "body": ({"body": b"{", "headers": JSON_TYPE}, 400, "Request"),
}


@pytest.mark.parametrize("first", WRONG)
def test_the_order_in_which_a_request_is_judged(both: Both, configure: Callable[..., None], first: str) -> None:
    order = [*WRONG]
    for second in order[order.index(first) :]:
        # The first one last: where both set the same, its choice stands.
        changes = [WRONG[name][0] for name in dict.fromkeys([second, first])]
        joined = {name: value for change in changes for name, value in change.items()}
        query = "&".join(change["query"] for change in changes if "query" in change)
        headers = {name: value for change in changes for name, value in change.get("headers", {}).items()}
        configure(MAX_MESSAGE_BYTES=1024, REST_RATE=joined.get("rate"))
        path = f"/api/hubs/{joined.get('hub', 'chat')}/groups/{joined.get('group', 'g')}/:send"
        answered = both.takes(f"{path}?{query}", joined.get("body", b""), headers=headers, key=joined.get("key"))
        _, status, target = WRONG[first]
        assert (answered.status, json.loads(answered.body)["target"]) == (status, target)
        assert not both.called


# Requests that nobody thought of: right ones, of which up to four things are changed


@dataclass
class Made:
    """A request in the making."""

    path: str
    query: str = f"api-version={NEWEST}"
    method: str = "POST"
    host: str = HOST
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    content_type: bytes | None = b"application/json"
    body: bytes = b'{"n": 1.0}'
    cut: int = 0
    length: str = "right"
    token: str = "right"
    key: str = ""
    claims: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    configured: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


_NAMES = [
    "g",
    "1st",
    "",
    " ",
    "%",
    "a/b",
    "..",
    ":send",
    "ü",
    "g" * 1025,
    "h" * 129,
    "+",
    "\t",
    "\x00",
    "\U0001f600",
    "ÿ",
]
_PARAMETERS = {
    "api-version": [NEWEST, "2021-10-01", "1", "", "2024-12-01,1"],
    "API-Version": [NEWEST, "x"],
    "filter": ["", " ", "true", "userId eq 'a'", "userId eq", "userId eq 1", "ü"],
    "Filter": ["userId eq null"],
    "messageTtlSeconds": ["0", "300", "301", "-1", "1.5", "", "٥"],
    "MESSAGETTLSECONDS": ["7"],
    "excluded": ["", "a", "a,b", "ü "],
    "reason": ["late"],
    "format": ["xml"],
    "": ["x"],
}
_HEADERS = [
    (b"x-ms-client-request-id", b"abc"),
    (b"x-ms-client-request-id", b"a" * 257),
    (b"x-ms-client-request-id", b"\xe9"),
    (b"x-ms-client-request-id", b"x,y"),
    (b"x_ms_client_request_id", b"u"),
    (b"x-webpubsub-metadata-a", b"1"),
    (b"X-WebPubSub-Metadata-A", b"2"),
    (b"x-webpubsub-metadata-", b"1"),
    (b"x-webpubsub-metadata-b_c", b"1, 2"),
    (b"x-webpubsub-metadata-\xc9", b"1"),
    (b"x-webpubsub-metadata-d", b"\xff"),
    (b"x-webpubsub-metadata-e", b"v" * 1025),
    (b"accept", b"text/html"),
    (b"accept-encoding", b"gzip"),
    (b"accept-language", b"de"),
    (b"origin", b"http://elsewhere.example"),
    (b"cookie", b"sessionid=x; csrftoken=y"),
    (b"cookie", b""),
    (b"expect", b"100-continue"),
    (b"if-none-match", b"*"),
    (b"x-forwarded-proto", b"https"),
    (b"x-forwarded-host", b"evil.example.com"),
    (b"x-forwarded-host", b"localhost:8080, inner"),
    (b"x-http-method-override", b"PUT"),
    (b"content-encoding", b"gzip"),
    (b"content-type", b"text/plain"),
    (b"authorization", b"Basic YTpi"),
    (b"referer", b"\xff"),
    (b"range", b"bytes=0-1"),
]
_TYPES = [
    None,
    b"",
    b"application/json",
    b"text/plain",
    b"application/octet-stream",
    b"Application/JSON; Charset=UTF-8",
    b"text/plain; charset=latin1",
    b"text/plain; charset=klingon",
    b"application/json; charset=utf-16",
    b"application/xml",
    b"multipart/form-data; boundary=x",
    b"application/x-www-form-urlencoded",
    b";",
    b"\xff",
]
_BODIES = [b"", b"{}", b'{"a":', b"\xff\xfe", b"\xef\xbb\xbf1", b"[" * 3000, b'"\\ud800"', b"NaN", b"1 2", b"x" * 2000]
_HOSTS = ["localhost", "LOCALHOST:8080", "127.0.0.1:8080", "[::1]:8080", "evil.example", "", "a b", "localhost:8080#"]
_CONFIGURED = [
    {"REQUIRE_KNOWN_HUBS": True},
    {"TRUST_FORWARDED_HEADERS": True},
    {"MAX_MESSAGE_BYTES": 1024},
    {"REST_RATE": "9/h"},
    {"REST_RATE": "0/h"},
    {"PUBLIC_ENDPOINTS": ["https://pubsub.example"]},
]


def _spelt(chance: Random, path: str) -> str:
    return chance.choice(
        [
            path.upper(),
            path.lower(),
            path.replace(":", "%3A"),
            path.replace("s", "%73", 1),
            path.replace("/", "//", 1),
            path.replace("/", "%2F", 2),
            f"{path}/",
            f"{path}//",
            path[:-1],
            f"/x{path}",
            path.replace("groups", "%FF"),
        ]
    )


def _query(chance: Random) -> str:
    pairs = []
    for _ in range(chance.randint(0, 4)):
        name = chance.choice([*_PARAMETERS])
        value = chance.choice(_PARAMETERS[name])
        pairs.append(chance.choice([f"{name}={quote(value, safe='')}"] * 8 + [name, f"{name}={value}", f"&{name}=%zz"]))
    return "&".join(pairs)


# Each takes the request and chance, and changes one thing.
CHANGES: dict[str, Callable[[Made, Random], Any]] = {
    "method": lambda made, chance: setattr(made, "method", chance.choice(["GET", "HEAD", "OPTIONS", "PUT", "post"])),
    "spelling": lambda made, chance: setattr(made, "path", _spelt(chance, made.path)),
    "query": lambda made, chance: setattr(made, "query", _query(chance)),
    "host": lambda made, chance: setattr(made, "host", chance.choice(_HOSTS)),
    "header": lambda made, chance: made.headers.append(chance.choice(_HEADERS)),
    "another header": lambda made, chance: made.headers.append(chance.choice(_HEADERS)),
    "content type": lambda made, chance: setattr(made, "content_type", chance.choice(_TYPES)),
    "body": lambda made, chance: setattr(made, "body", chance.choice(_BODIES)),
    "bytes": lambda made, chance: setattr(made, "body", chance.randbytes(chance.randint(1, 9))),
    "pieces": lambda made, chance: setattr(made, "cut", chance.randint(1, 20)),
    "length": lambda made, chance: setattr(
        made, "length", chance.choice(["none", "chunked", "less", "huge", "text", "twice"])
    ),
    "token": lambda made, chance: setattr(made, "token", chance.choice(["none", "basic", "junk", "bearer", "twice"])),
    "key": lambda made, chance: setattr(made, "key", STRANGER),
    "times": lambda made, chance: made.claims.update(chance.choice([{"exp": 1}, {"nbf": 1 << 40}, {"exp": "soon"}])),
    "audience": lambda made, chance: made.claims.update(
        aud=chance.choice([f"{ENDPOINT}{made.path}", f"{ENDPOINT}{unquote(made.target)}", ENDPOINT, 7])
    ),
    "scheme": lambda made, chance: made.options.update(scheme="https"),
    "raw path": lambda made, chance: made.options.update(raw=False),
    "prefix": lambda made, chance: made.options.update(root_path=chance.choice(["/messaging", "/api"])),
    "setting": lambda made, chance: made.configured.update(chance.choice(_CONFIGURED)),
}


def _made(chance: Random) -> tuple[list[str], Made]:
    row = chance.choice([*SENDING] * 9 + [chance.choice(ROWS)])
    names = {name: quote(value, safe="") for name, value in NAMES.items()}
    changes = chance.sample([*CHANGES, "name"], chance.choice([0, 1, 1, 2, 2, 3, 4]))
    if "name" in changes:
        odd = quote(chance.choice(_NAMES), safe=chance.choice(["", "/:", "%", ":@!$&'()*+,;="]))
        names[chance.choice([*names])] = odd
    made = Made(row.path.format(**names, permission="sendToGroup"))
    for change in changes:
        if change != "name":
            CHANGES[change](made, chance)
    return changes, made


def _authorization(made: Made, keys: list[str]) -> list[tuple[bytes, bytes]]:
    claims = {"aud": f"{ENDPOINT}{made.target}", "exp": int(time.time()) + 60} | made.claims
    token = jwt.encode(claims, made.key or keys[0], "HS256").encode()
    bearer = (b"authorization", b"Bearer " + token)
    return {
        "right": [bearer],
        "none": [],
        "basic": [(b"authorization", b"Basic YTpi")],
        "junk": [(b"authorization", b"Bearer a.b.c")],
        "bearer": [(b"authorization", b" bearer   " + token + b"  ")],
        "twice": [bearer, bearer],
    }[made.token]


def _announced(made: Made) -> list[tuple[bytes, bytes]]:
    right = (b"content-length", str(len(made.body)).encode())
    return {
        "right": [right],
        "none": [],
        "chunked": [(b"transfer-encoding", b"chunked")],
        "less": [(b"content-length", str(max(0, len(made.body) - 1)).encode())],
        "huge": [(b"content-length", b"99999999999")],
        "text": [(b"content-length", b"many")],
        "twice": [right, right],
    }[made.length]


def test_whatever_is_asked(
    doors: tuple[Door, Door], keys: list[str], recorder: Recorder, configure: Callable[..., None], make_hub: Any
) -> None:
    make_hub("chat")
    both = Both(doors, keys, recorder)
    start = {name: getattr(conf.settings, name) for name in sorted({name for one in _CONFIGURED for name in one})}
    in_force: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    # Seeded by pytest-randomly, whose `-p` makes the same requests again.
    seed = random.getrandbits(32)
    for number in range(800):
        changes, made = _made(Random(f"{seed} {number}"))
        if made.configured != in_force:
            in_force = made.configured
            configure(**(start | in_force))
        headers = [(b"host", made.host.encode()), *_announced(made), *made.headers, *_authorization(made, keys)]
        if made.content_type is not None:
            headers.append((b"content-type", made.content_type))
        before = doors[0].reached_django
        try:
            answered = both.ask(
                made.target.encode("latin-1", "replace"),
                method=made.method,
                headers=headers,
                chunks=[made.body[: made.cut], made.body[made.cut :]],
                signed=None,
                **made.options,
            )
        except AssertionError:
            raise AssertionError(f"Answered differently, changed in {changes}: {made}") from None
        way = "django" if doors[0].reached_django > before else "fast path"
        seen[f"{way} {answered.status if answered else None}"] += 1
        seen[way] += 1
    # The comparison says something only if the fast path had its share, and of refusals too.
    assert seen["fast path"] > 300, seen
    assert seen["django"] > 100, seen
    assert min(seen[f"fast path {status}"] for status in (202, 400, 401, 413, 415)) > 0, seen


def test_a_refusal_is_told_in_the_log_once_by_either_way(both: Both, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hubs")
    answered = both.ask("/api/hubs/chat%0A/:send", key=STRANGER)
    assert answered is not None
    lines = [record.getMessage() for record in caplog.records if record.name == "hubs.rest.exceptions"]
    assert len(lines) == 2
    assert len(set(lines)) == 1
    assert lines[0].startswith("A request was refused: POST /api/hubs/{hub}/:send, hub chat\ufffd, from ")
    assert lines[0].endswith(": 401, The token is not signed with a key of this service.")
