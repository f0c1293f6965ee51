"""Every row of the table × everything that can be right or wrong with a request.

Nothing is typed in per operation: what a request of a row looks like follows from the row, and so
does what is wrong with it and what has to be answered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from jsonschema import ValidationError as JsonSchemaError

from hubs import conf
from hubs.errors import TooMany, Unavailable
from hubs.rest import description
from hubs.rest.openapi import data_plane
from hubs.rest.table import ROWS, Row
from hubs.rest.versions import NEWEST
from tests.openapi import Contract

from .conftest import ENDPOINT
from .doors import DJANGO, FAST_PATH
from .doubles import GONE, Recorder

pytestmark = pytest.mark.django_db

CONTRACT = Contract(data_plane())

ERROR_MEMBERS = ["code", "message", "target", "details", "innererror"]


@dataclass(frozen=True)
class Asked:
    """A request as it will be made."""

    row: Row
    names: dict[str, str]
    query: tuple[tuple[str, str], ...] = (("api-version", NEWEST),)
    body: bytes = b""
    content_type: str = ""
    method: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    # How the token is made out: which key, and claims that differ.
    key: str = "service"
    claims: dict[str, Any] = field(default_factory=dict)
    token: bool = True

    @property
    def target(self) -> str:
        path = self.row.path.format(**{name: quote(value, safe="") for name, value in self.names.items()})
        query = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in self.query)
        return f"{path}?{query}" if query else path

    def named(self, **names: str) -> Asked:
        return replace(self, names=self.names | names)

    def with_query(self, *pairs: tuple[str, str]) -> Asked:
        changed = {name for name, _ in pairs}
        return replace(self, query=tuple(pair for pair in self.query if pair[0] not in changed) + pairs)


def good(row: Row) -> Asked:
    names = {
        "hub": "chat",
        "connection_id": "here ü",
        "group": "a group ü?",
        "user_id": "ann ü",
        "permission": "sendToGroup",
    }
    asked = Asked(row, {name: value for name, value in names.items() if f"{{{name}}}" in row.path})
    if "{permission}" in row.path:
        asked = asked.with_query(("api-version", NEWEST), ("targetName", "a group"))
    if row.verb == "send":
        return replace(asked, body=b'{"n": 1.50}', content_type="application/json")
    if row.path.endswith("Groups"):
        return replace(asked, body=b'{"groups":["a","b"],"filter":"userId eq null"}', content_type="application/json")
    return asked


@dataclass(frozen=True)
class Expected:
    """What is answered. `code` None: no error. `asked`: whether a verb was called."""

    status: int
    code: str | None = None
    target: str | None = None
    asked: bool = False
    # A problem document (RFC 9457) instead of an ordinary error.
    document: bool = False


BAD = "Error.BadRequest"
UNAUTHORIZED = Expected(401, "Error.Unauthorized", None)

Case = tuple[str, Asked, Expected]


def tokens(row: Row) -> Iterator[Case]:
    asked = good(row)
    yield "no token", replace(asked, token=False), UNAUTHORIZED
    yield "bad signature", replace(asked, key="stranger's"), UNAUTHORIZED
    yield "another hub's key", replace(asked, key="elsewhere's"), UNAUTHORIZED
    yield "wrong audience", replace(asked, claims={"aud": f"{ENDPOINT}/api/hubs/chat/users"}), UNAUTHORIZED
    yield "another host's audience", replace(asked, claims={"aud": "https://elsewhere.example/"}), UNAUTHORIZED
    yield "a client's token", replace(asked, claims={"aud": f"{ENDPOINT}/client/hubs/chat"}), UNAUTHORIZED
    yield "expired", replace(asked, claims={"exp": int(time.time()) - 1000}), UNAUTHORIZED
    yield "no expiry", replace(asked, claims={"exp": None}), UNAUTHORIZED
    yield "not yet", replace(asked, claims={"nbf": int(time.time()) + 86_400}), UNAUTHORIZED
    yield "scheme", replace(asked, token=False, headers={"authorization": "Basic YTpi"}), UNAUTHORIZED
    yield "no jwt", replace(asked, token=False, headers={"authorization": "Bearer abc.def.ghi"}), UNAUTHORIZED


def versions(row: Row) -> Iterator[Case]:
    asked = good(row)
    wrong = Expected(400, BAD, "api-version")
    yield "no version", replace(asked, query=asked.query[1:]), done(row)
    yield "oldest version", asked.with_query(("api-version", "2021-10-01")), done(row)
    yield "unknown version", asked.with_query(("api-version", "2019-01-01")), wrong
    yield "preview version", asked.with_query(("api-version", "2021-08-01-preview")), wrong
    yield "two versions", replace(asked, query=(*asked.query, ("api-version", NEWEST))), wrong
    # Before the token, which costs more to look at.
    yield "unknown version, no token", replace(asked.with_query(("api-version", "1")), token=False), wrong


def bad_names(row: Row) -> Iterator[Case]:
    asked = good(row)
    yield "bad hub", asked.named(hub="1st"), Expected(400, BAD, "hub")
    yield "long hub", asked.named(hub="h" * 129), Expected(400, BAD, "hub")
    if "{group}" in row.path:
        yield "blank group", asked.named(group=" \t"), Expected(400, BAD, "group")
        yield "long group", asked.named(group="g" * 1025), Expected(400, BAD, "group")
    if "{user_id}" in row.path:
        yield "blank user", asked.named(user_id="  "), Expected(400, BAD, "userId")
    if "{connection_id}" in row.path:
        yield "blank connection", asked.named(connection_id=" \t"), Expected(400, BAD, "connectionId")
    if "{permission}" in row.path:
        yield "no permission", asked.named(permission="everything"), Expected(400, BAD, "permission")
        for text in ("", " ", "g" * 1025):
            named = replace(asked, query=(*asked.query[:1], ("targetName", text)))
            yield f"group {text[:9]!r} named", named, Expected(400, BAD, "Request")
        yield "no group named", replace(asked, query=asked.query[:1]), Expected(400, BAD, "Request")


def bad_parameters(row: Row) -> Iterator[Case]:
    asked = good(row)
    if "filter" in row.options:
        for text in ("userId eq 1", "nobody eq 'x'", "userId eq", "'open", "userId", " "):
            yield f"filter {text!r}", asked.with_query(("filter", text)), Expected(400, BAD, "filter", document=True)
        twice = replace(asked, query=(*asked.query, ("filter", "true"), ("filter", "true")))
        yield "two filters", twice, Expected(400, BAD, "filter")
        yield "a filter", asked.with_query(("filter", "userId eq null")), done(row)
    if "messageTtlSeconds" in row.options:
        for text in ("301", "-1", " ", "1.5", "soon"):
            wrong = Expected(400, BAD, "messageTtlSeconds")
            yield f"ttl {text!r}", asked.with_query(("messageTtlSeconds", text)), wrong
        for text in ("300", ""):
            yield f"ttl {text!r}", asked.with_query(("messageTtlSeconds", text)), done(row)
    if "reason" in row.options:
        yield "two reasons", asked.with_query(("reason", "a"), ("reason", "b")), Expected(400, BAD, "reason")
    if row.method == "GET":
        for name, texts in {
            "maxpagesize": ("0", "201", "", "x"),
            "top": ("0", "-1", "", "2147483648"),
            "continuationToken": ("", " ", "x", "x" * 2049),
        }.items():
            for text in texts:
                yield f"{name} {text[:9]!r}", asked.with_query((name, text)), Expected(400, BAD, name)


def bad_bodies(row: Row) -> Iterator[Case]:
    asked = good(row)
    if not asked.body:
        return
    most = 1024 * 1024
    large = Expected(413, "Error.RequestEntityTooLarge", "body")
    unsupported = Expected(415, "Error.UnsupportedMediaType", "Content-Type")
    yield "too big", replace(asked, body=b'"' + b"x" * (most - 1) + b'"'), large
    if not row.sends:
        for text in ("userId eq 1", "nobody(1)", "invalid filter"):
            body = json.dumps({"groups": ["a"], "filter": text}).encode()
            yield f"filter {text!r}", replace(asked, body=body), Expected(400, BAD, "Filter", document=True)
        yield "no filter", replace(asked, body=b'{"groups": ["a"], "filter": 1}'), Expected(400, BAD, "Filter")
    yield "broken JSON", replace(asked, body=b'{"groups": ["a"'), Expected(400, BAD, "Request")
    yield "no JSON", replace(asked, body=b""), Expected(400, BAD, "Request")
    yield "no UTF-8", replace(asked, body=b'"\xff"'), Expected(400, BAD, "Request")
    for kind in ("application/xml", "json", "text/html; charset=utf-8", "application/json; charset=klingon"):
        yield f"type {kind}", replace(asked, content_type=kind), unsupported
    chunked = replace(asked, headers={"transfer-encoding": "chunked"})
    yield "chunked", chunked, done(row)
    # What is wrong earlier is told first.
    yield "too big, no token", replace(asked, body=b"x" * (most + 1), token=False), UNAUTHORIZED
    if "messageTtlSeconds" in row.options:
        both = replace(asked.with_query(("messageTtlSeconds", "x")), content_type="application/xml")
        yield "bad ttl and type", both, Expected(400, BAD, "messageTtlSeconds")


def unknown_targets(row: Row) -> Iterator[Case]:
    asked = good(row)
    for name in ("connection_id", "user_id", "group"):
        if f"{{{name}}}" in row.path:
            # The group of a membership needs not be there: it begins with its first member.
            is_target = name != "group" or ("{user_id}" not in row.path and "{connection_id}" not in row.path)
            expected = done(row)
            if row.missing and is_target:
                expected = Expected(404, row.missing, row.missing.split(".")[1], asked=True)
            yield f"unknown {name}", asked.named(**{name: GONE}) if is_target else asked.named(group="new"), expected
            break
    if row.method != "POST":
        return
    yield "GET", replace(asked, method="GET"), Expected(405, "Error.MethodNotAllowed", "Request")


def done(row: Row) -> Expected:
    return Expected(row.ok.value, asked=row.verb != "generate")


FAMILIES: tuple[Callable[[Row], Iterator[Case]], ...] = (
    tokens, versions, bad_names, bad_parameters, bad_bodies, unknown_targets,
)  # fmt: skip
HUB_ROWS = [row for row in ROWS if "{hub}" in row.path]


def doors(row: Row) -> tuple[str, ...]:
    """The ways to a row: what sends is answered by the fast path, too."""
    return (DJANGO, FAST_PATH) if row.sends else (DJANGO,)


HUB_ROWS_BY_DOOR = [
    pytest.param(door, row, id=f"{row.method} {row.path} ({door})") for row in HUB_ROWS for door in doors(row)
]
# Those that ask the service for something.
ROWS_BY_DOOR = [each for each in HUB_ROWS_BY_DOOR if each.values[1].verb != "generate"]


def cases(row: Row) -> list[Case]:
    """Everything that is tried with a row, by its name."""
    return [("good", good(row), done(row)), *(case for family in FAMILIES for case in family(row))]


def make(client, keys: dict[str, str], asked: Asked):
    headers = dict(asked.headers)
    if asked.token:
        claims = {"aud": f"{ENDPOINT}{asked.target}", "exp": int(time.time()) + 60} | asked.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        headers["authorization"] = "Bearer " + jwt.encode(claims, keys[asked.key], "HS256")
    return client.generic(
        asked.method or asked.row.method,
        asked.target,
        asked.body,
        content_type=asked.content_type,
        headers=headers | {"x-ms-client-request-id": "matrix"},
        **({"CONTENT_TYPE": asked.content_type} if asked.content_type else {}),
    )


def described_path(row: Row) -> str:
    """The path of a row as the document writes it."""
    return row.path.format_map({name: f"{{{of.name}}}" for name, of in description.IN_PATH.items()})


def check_document(body: dict[str, Any], target: str) -> None:
    """What the cloud service answers to a filter that it refuses; only `detail` is ours."""
    message, detail = body["message"], body["detail"]
    assert body == {
        "code": BAD,
        "message": message,
        "target": target,
        "errors": {target: [message]},
        "type": None,
        "title": "One or more validation errors occurred.",
        "status": 400,
        "detail": detail,
        "instance": None,
        "extensions": {},
    }
    assert message.startswith("Invalid syntax for '")
    assert message.endswith("(Parameter 'filter')")
    assert detail.startswith("At character ")


def check(response, expected: Expected, recorder: Recorder) -> None:
    assert response.status_code == expected.status, response.content
    assert response.get("api-supported-versions", "").endswith("" if expected.document else NEWEST)
    assert ("api-supported-versions" in response) == (not expected.document)
    assert response["x-ms-client-request-id"] == "matrix"
    assert bool(recorder.calls) == expected.asked
    if expected.code is None:
        assert "x-ms-error-code" not in response
        # What has no body by its status has no length of one.
        length = None if expected.status == 204 else str(len(response.content))
        assert response.get("Content-Length") == length
        return
    assert response["x-ms-error-code"] == expected.code
    if expected.document:
        assert response["Content-Type"] == "application/problem+json; charset=utf-8"
        check_document(response.json(), str(expected.target))
        return
    assert response["Content-Type"] == "application/json; charset=utf-8"
    if response.content:  # not of a HEAD
        body = response.json()
        assert list(body) == ERROR_MEMBERS
        assert (body["code"], body["target"]) == (expected.code, expected.target)
        assert body["message"].endswith(".")
    if expected.status == 401:
        assert response["WWW-Authenticate"] == "Bearer"


def test_the_matrix_is_as_large_as_it_should_be() -> None:
    assert len(HUB_ROWS) == 24
    named = [name for row in HUB_ROWS for name, *_ in cases(row)]
    assert len(named) >= 690
    assert all(len(cases(row)) == len({name for name, *_ in cases(row)}) for row in HUB_ROWS)


@pytest.mark.parametrize(("door", "row"), HUB_ROWS_BY_DOOR)
def test_matrix(client, keys, hub_keys, recorder, door, row) -> None:
    known = {"service": keys[0], "stranger's": "s" * 44, "elsewhere's": hub_keys("elsewhere")[0]}
    wrong = {}
    for name, asked, expected in cases(row):
        recorder.calls.clear()
        client.handler.reached_django = 0
        try:
            response = make(client, known, asked)
            check(response, expected, recorder)
            if asked.method:
                assert asked.method.lower() not in CONTRACT.document["paths"][described_path(row)]
            else:
                CONTRACT.check(row.method, described_path(row), response)
            if door == FAST_PATH:
                # Other methods are none of its business.
                assert client.handler.reached_django == (expected.status == 405)
        except (AssertionError, JsonSchemaError) as problem:
            wrong[name] = str(problem)
    assert wrong == {}


@pytest.mark.parametrize(("door", "row"), ROWS_BY_DOOR)
def test_what_the_service_cannot_do_now(client, keys, recorder, door, row) -> None:
    recorder.fail_with = Unavailable("The other servers of this service cannot be reached.")
    response = make(client, {"service": keys[0]}, good(row))
    check(response, Expected(503, "Error.ServiceUnavailable", None, asked=True), recorder)
    assert response["Retry-After"] == "1"


@pytest.mark.parametrize(("door", "row"), ROWS_BY_DOOR)
def test_what_would_be_too_many(client, keys, recorder, door, row) -> None:
    recorder.fail_with = TooMany("This is one more than there may be.")
    response = make(client, {"service": keys[0]}, good(row))
    code = {409: "Error.Connection.Conflict", 429: "Error.TooManyRequests"}[row.too_many]
    check(response, Expected(row.too_many.value, code, "Connection", asked=True), recorder)
    assert ("Retry-After" in response) == (row.too_many == 429)


@pytest.mark.parametrize("row", HUB_ROWS, ids=lambda row: f"{row.method} {row.path}")
def test_the_secondary_key_and_a_key_of_the_hub_open_too(client, keys, hub_keys, recorder, row) -> None:
    own = hub_keys("chat")
    for key in (keys[1], *own):
        assert make(client, {"service": key}, good(row)).status_code == row.ok


@pytest.mark.parametrize("door", [DJANGO, FAST_PATH])
def test_nothing_of_a_request_is_logged(client, keys, recorder, caplog) -> None:
    for row in HUB_ROWS:
        make(client, {"service": keys[0]}, good(row))
        make(client, {"service": "s" * 44}, replace(good(row), body=b"secret " * 5))
    said = [record for record in caplog.records if record.name.startswith(("hubs", "django"))]
    assert {record.msg for record in said} == {"A request was refused: %s, hub %s, from %s: %d, %s"}
    assert not [record for record in said if "secret" in record.getMessage() or "eyJ" in record.getMessage()]


@pytest.mark.parametrize("door", [DJANGO, FAST_PATH])
def test_the_bound_of_a_message_is_a_setting(client, keys, recorder, configure) -> None:
    configure(MAX_MESSAGE_BYTES=2048)
    assert conf.settings.MAX_MESSAGE_BYTES == 2048
    row = next(row for row in HUB_ROWS if row.verb == "send")
    exact = replace(good(row), content_type="", body=b"x" * 2048)
    assert make(client, {"service": keys[0]}, exact).status_code == 202
    assert make(client, {"service": keys[0]}, replace(exact, body=b"x" * 2049)).status_code == 413
