"""From a WebSocket request to a connection, or to the HTTP status that refuses it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hubs import hub_settings
from hubs.connections import handshake as room
from hubs.connections.handshake import Admission, Handshake, admit, asks_for_recovery, hub_of
from hubs.errors import HandshakeRefused
from hubs.hub_settings import HubSettings, Snapshot
from hubs.models import AccessKey, Hub
from hubs.protocols.plain import PlainCodec
from hubs.upstream import ConnectAnswer, ConnectRequest, Rejected
from hubs.upstream.handlers import HubHandlers
from tests.connections.conftest import WebPubSub

PRIMARY = "primary-" + "p" * 40
SECONDARY = "secondary-" + "s" * 40
ROOM_KEY = "of-the-room-" + "r" * 40
ENDPOINT = "https://pubsub.example.com"
JSON_NAME = "json.webpubsub.azure.v1"
CONNECTION_ID = "0123456789abcdef" * 2

KNOWN = Snapshot(
    1,
    {
        "chat": HubSettings("chat", known=True),
        "open": HubSettings("open", known=True, anonymous_connect=True),
        "room": HubSettings("room", known=True, keys=(ROOM_KEY,)),
    },
    (PRIMARY, SECONDARY),
)


@pytest.fixture(autouse=True)
def settings_of_hubs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hubs and keys without a database, but for tests that ask for one."""
    if "django_db" in request.keywords:
        return

    async def known() -> Snapshot:
        return KNOWN

    monkeypatch.setattr(room.hub_settings, "acurrent", known)


def _token(hub: str = "chat", *, key: str = PRIMARY, **claims: Any) -> str:
    claims = {"aud": f"{ENDPOINT}/client/hubs/{hub}", "exp": int(time.time()) + 86_400} | claims
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm="HS256")


def _handshake(
    query: str | Mapping[str, str] | list[tuple[str, str]] = "",
    *,
    hub: str | None = "chat",
    headers: list[tuple[str, str]] | None = None,
    offers: list[str] | None = None,
) -> Handshake:
    text = query if isinstance(query, str) else urlencode(query)
    return Handshake(hub, text, headers or [], offers or [], [ENDPOINT], "app.example.test")


async def _admit(
    query: Mapping[str, str] | None = None,
    *,
    hub: str = "chat",
    token: str | None = None,
    offers: list[str] | None = None,
    headers: list[tuple[str, str]] | None = None,
    **claims: Any,
) -> Admission:
    """Ask for a connection with a good token."""
    query = {"access_token": token or _token(hub, **claims)} | dict(query or {})
    return await admit(_handshake(query, hub=hub, offers=offers, headers=headers), CONNECTION_ID)


async def _refused(handshake: Handshake) -> tuple[int, str]:
    with pytest.raises(HandshakeRefused) as refused:
        await admit(handshake, CONNECTION_ID)
    assert "eyJ" not in refused.value.message
    return int(refused.value.status), refused.value.message


# The hub


@pytest.mark.parametrize(
    ("path_hub", "query", "hub"),
    [
        ("chat", "", "chat"),
        ("Chat", "", "chat"),
        ("a`b,c.[d]_1", "", "a`b,c.[d]_1"),
        ("chat", "hub=other", "chat"),
        (None, "hub=Chat", "chat"),
        (None, "hub=a%60b", "a`b"),
        (None, "hub=one&hub=two", "two"),
    ],
)
def test_which_hub(path_hub: str | None, query: str, hub: str) -> None:
    assert hub_of(_handshake(query, hub=path_hub)) == hub


@pytest.mark.parametrize(
    ("path_hub", "query"),
    [
        (None, ""),
        (None, "hub="),
        (None, "Hub=chat"),
        (None, "hub=1chat"),
        ("", ""),
        ("1", ""),
        ("a b", ""),
        ("é", ""),
        ("a" * 129, ""),
        ("chat\n", ""),
        (None, "hub=a&" + "x=1&" * 1000),
    ],
)
async def test_no_hub(path_hub: str | None, query: str) -> None:
    status, _ = await _refused(_handshake(query, hub=path_hub))
    assert status == 400


async def test_the_hub_is_looked_at_before_the_token() -> None:
    assert (await _refused(_handshake("access_token=forged", hub="1")))[0] == 400


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("awps_connection_id=x", ("x", "")),
        ("awps_connection_id=", None),
        ("awps_connection_id=&awps_reconnection_token=", None),
        ("awps_connection_id=&awps_reconnection_token=y", None),
        ("awps_connection_id=x&awps_reconnection_token=", ("x", "")),
        ("awps_connection_id=x&awps_reconnection_token=y", ("x", "y")),
        ("awps_connection_id=w&awps_connection_id=x&awps_reconnection_token=z&awps_reconnection_token=y", ("x", "y")),
        ("awps_reconnection_token=y", None),
        ("", None),
    ],
)
def test_recovery(query: str, wanted: tuple[str, str] | None) -> None:
    assert asks_for_recovery(_handshake(query)) == wanted


async def test_only_known_hubs_where_the_settings_say_so(webpubsub: WebPubSub) -> None:
    assert (await _admit(hub="unknown")).hub == "unknown"
    webpubsub(REQUIRE_KNOWN_HUBS=True)
    status, message = await _refused(_handshake({"access_token": _token("unknown")}, hub="unknown"))
    assert status == 404
    assert "manage.py webpubsub hub create unknown" in message
    assert (await _admit(hub="CHAT")).hub == "chat"


# The token


@pytest.mark.parametrize("key", [PRIMARY, SECONDARY])
async def test_either_key_opens(key: str) -> None:
    admission = await _admit(key=key, sub="u")
    assert (admission.hub, admission.user_id, admission.subprotocol) == ("chat", "u", None)
    assert admission.session.origin == "app.example.test"


async def test_a_hubs_own_key_opens_that_hub_alone() -> None:
    assert (await _admit(hub="room", key=ROOM_KEY)).hub == "room"
    assert (await _refused(_handshake({"access_token": _token(key=ROOM_KEY)})))[0] == 401


async def test_the_token_may_stand_in_a_header() -> None:
    for name, scheme in (("authorization", "Bearer"), ("Authorization", "bearer")):
        headers = [(name, f"{scheme} {_token(sub='h')}")]
        assert (await admit(_handshake(headers=headers), CONNECTION_ID)).user_id == "h"


async def test_the_query_wins_over_the_header() -> None:
    headers = [("authorization", f"Bearer {_token(sub='header')}")]
    assert (await _admit(headers=headers, sub="query")).user_id == "query"
    assert (await _refused(_handshake({"access_token": "forged"}, headers=headers)))[0] == 401
    # An empty one is none.
    empty = _handshake({"access_token": "", "webpubsub_mode": "", "group": "", "noEcho": ""}, headers=headers)
    assert (await admit(empty, CONNECTION_ID)).user_id == "header"


async def test_the_parameters_case_does_not_matter_and_the_last_one_counts() -> None:
    assert (await admit(_handshake({"ACCESS_TOKEN": _token(sub="u")}), CONNECTION_ID)).user_id == "u"
    query = [("access_token", _token(sub="one")), ("access_token", _token(sub="two"))]
    assert (await admit(_handshake(query), CONNECTION_ID)).user_id == "two"


@pytest.mark.parametrize(
    "handshake",
    [
        _handshake(),
        _handshake({"access_token": ""}),
        _handshake({"access_token": "forged"}),
        _handshake({"access_token": _token(key="unknown-" + "k" * 40)}),
        _handshake({"access_token": _token(exp=int(time.time()) - 301)}),
        _handshake({"access_token": _token(exp=None)}),
        _handshake({"access_token": _token(nbf=int(time.time()) + 86_400)}),
        _handshake({"access_token": _token("other")}),
        _handshake({"access_token": _token(aud="https://elsewhere/client/hubs/chat")}),
        _handshake({"access_token": _token(sub=None) + "x"}),
        _handshake(headers=[("authorization", "Bearer")]),
        _handshake(headers=[("authorization", "Bearer forged")]),
        _handshake(headers=[("authorization", f"Basic {_token()}")]),
        _handshake(headers=[("x-authorization", f"Bearer {_token()}")]),
    ],
)
async def test_refused_with_401(handshake: Handshake) -> None:
    status, message = await _refused(handshake)
    assert status == 401
    assert message


async def test_a_welcome_stranger_has_no_roles() -> None:
    admission = await admit(_handshake(hub="open"), CONNECTION_ID)
    assert (admission.user_id, admission.groups) == (None, ())
    assert not admission.permissions.may_send("g")
    assert not admission.permissions.may_join_or_leave("g")


async def test_a_bad_token_is_refused_even_where_strangers_are_welcome() -> None:
    assert (await _refused(_handshake({"access_token": "forged"}, hub="open")))[0] == 401
    assert (await _refused(_handshake(headers=[("authorization", "Bearer forged")], hub="open")))[0] == 401
    assert (await _admit(hub="open", sub="u")).user_id == "u"


@pytest.mark.parametrize("subject", [None, ""])
async def test_without_subject_the_user_is_anonymous(subject: str | None) -> None:
    assert (await _admit(sub=subject)).user_id is None


async def test_roles_and_groups_of_the_token() -> None:
    for roles, groups in (
        ("webpubsub.sendToGroup.g", "g"),
        (["webpubsub.sendToGroup.g", 5], ["g", "h", "g"]),
    ):
        admission = await _admit(**{"role": roles, "webpubsub.group": groups})
        assert admission.permissions.may_send("g")
        assert not admission.permissions.may_send("h")
        assert admission.groups == tuple(dict.fromkeys(groups))


@pytest.mark.parametrize("groups", ["", " ", ["g", ""], "g" * 1025])
async def test_invalid_groups_in_the_token(groups: str | list[str]) -> None:
    status, message = await _refused(_handshake({"access_token": _token(**{"webpubsub.group": groups})}))
    assert status == 400
    assert "group" in message


async def test_too_many_groups_in_the_token(webpubsub: WebPubSub) -> None:
    webpubsub(MAX_GROUPS_PER_CONNECTION=2)
    assert len((await _admit(**{"webpubsub.group": ["a", "b", "a"]})).groups) == 2
    assert (await _refused(_handshake({"access_token": _token(**{"webpubsub.group": ["a", "b", "c"]})})))[0] == 400


# Subprotocols and modes


@pytest.mark.parametrize(
    ("offers", "chosen", "named"),
    [
        ([], None, False),
        ([JSON_NAME], JSON_NAME, True),
        ([JSON_NAME.upper()], JSON_NAME.upper(), True),
        (["x", JSON_NAME], JSON_NAME, True),
        (["x"], None, False),
    ],
)
async def test_subprotocols(offers: list[str], chosen: str | None, named: bool) -> None:
    admission = await _admit(offers=offers)
    assert (admission.subprotocol, admission.codec.named) == (chosen, named)


@pytest.mark.parametrize(
    ("query", "codec"),
    [
        ({}, PlainCodec()),
        ({"webpubsub_mode": ""}, PlainCodec()),
        ({"webpubsub_mode": "sendEvent"}, PlainCodec()),
        ({"webpubsub_mode": "SENDEVENT", "group": "", "noEcho": "perhaps"}, PlainCodec()),
        ({"webpubsub_mode": "sendToGroup", "group": "g"}, PlainCodec("g")),
        ({"webpubsub_mode": "sendtogroup", "group": "g é", "noEcho": "TRUE"}, PlainCodec("g é", True)),
        ({"webpubsub_mode": "sendToGroup", "group": "g", "noEcho": "false"}, PlainCodec("g", False)),
    ],
)
async def test_modes_of_simple_clients(query: dict[str, str], codec: PlainCodec) -> None:
    assert (await _admit(query)).codec == codec
    # A subprotocol has frames of its own for that.
    assert (await _admit(query, offers=[JSON_NAME])).codec.named


async def test_the_last_of_repeated_parameters_counts() -> None:
    query = [("webpubsub_mode", "x"), ("webpubsub_mode", "sendToGroup"), ("group", "a"), ("group", "b")]
    admission = await admit(_handshake([*query, ("access_token", _token())]), CONNECTION_ID)
    assert admission.codec == PlainCodec("b")


@pytest.mark.parametrize("offers", [[], [JSON_NAME]])
@pytest.mark.parametrize(
    "query",
    [
        {"webpubsub_mode": "x"},
        {"webpubsub_mode": "sendToGroup"},
        {"webpubsub_mode": "sendToGroup", "group": ""},
        {"webpubsub_mode": "sendToGroup", "group": " "},
        {"webpubsub_mode": "sendToGroup", "group": "g" * 1025},
        {"webpubsub_mode": "sendToGroup", "group": "g", "noEcho": "1"},
        {"webpubsub_mode": "sendToGroup", "group": "g", "noEcho": "yes"},
    ],
)
async def test_invalid_modes(query: dict[str, str], offers: list[str]) -> None:
    assert (await _refused(_handshake(query | {"access_token": _token()}, offers=offers)))[0] == 400
    # But who is not let in is not told.
    assert (await _refused(_handshake(query, offers=offers)))[0] == 401


# The connect handler


async def test_what_the_connect_handler_is_told(application: HubHandlers) -> None:
    told: list[ConnectRequest] = []
    application.on_connect(told.append)
    token = _token(
        application.hub,
        sub="u",
        role=["a", "b"],
        exp=4102444800,
        x={"y": [1, True, None]},
        flag=True,
        many=[1, "two", 2.5],
    )
    query = [("ACCESS_TOKEN", token), ("a", "1"), ("a", "2"), ("webpubsub_mode", ""), ("é", "")]
    headers = [
        ("Host", "h"),
        ("Authorization", "Bearer secret"),
        ("X-ASRS-Internal-Secret", "secret"),
        ("Cookie", "c=1"),
        ("x-a", "1"),
        ("x-a", "2"),
    ]
    await admit(_handshake(query, hub=application.hub.upper(), headers=headers, offers=["x", JSON_NAME]), CONNECTION_ID)
    [request] = told
    context = request.context
    assert (context.hub, context.connection_id, context.user_id) == (application.hub, CONNECTION_ID, "u")
    assert request.claims == {
        "aud": [f"{ENDPOINT}/client/hubs/{application.hub}"],
        "exp": ["4102444800"],
        "sub": ["u"],
        "role": ["a", "b"],
        "x": ['{"y":[1,true,null]}'],
        "flag": ["true"],
        "many": ["1", "two", "2.5"],
    }
    assert request.query == {"a": ["1", "2"], "webpubsub_mode": [""], "é": [""]}
    assert request.headers == {"Host": ["h"], "Cookie": ["c=1"], "x-a": ["1", "2"]}
    assert request.subprotocols == ["x", JSON_NAME]
    assert "secret" not in str(request)


ODD_COOKIES = " SessionID=1;; sessionid2=2 ;Messages=3; =4;sessionid;é=\xff; a=sessionid=5 ; "


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (["sessionid=secret"], None),
        (["sessionid=secret; csrftoken=secret; messages=secret"], None),
        (["theirs=kept; sessionid=secret"], ["theirs=kept"]),
        (["sessionid=secret;theirs=kept"], ["theirs=kept"]),
        (["a=1; sessionid=secret; b=2;  csrftoken=secret ; c=3"], ["a=1; b=2; c=3"]),
        (["a=1", "sessionid=secret", "b=2; messages=secret"], ["a=1", "b=2"]),
        (["sessionid =secret; \tsessionid=secret; b"], ["b"]),
        # As Django reads it, a session that it would take; as browsers do, one text.
        (['a="x; sessionid=secret; y"'], ['a="x; y"']),
        (['sessionid="secret"; a="x y"'], ['a="x y"']),
        # Those of others stay byte for byte; letter case makes another name.
        ([ODD_COOKIES], [ODD_COOKIES]),
        ([""], None),
    ],
)
async def test_the_services_own_cookies_stay_here(
    application: HubHandlers, sent: list[str], seen: list[str] | None
) -> None:
    told: list[ConnectRequest] = []
    application.on_connect(told.append)
    await _admit(hub=application.hub, headers=[("cookie", value) for value in sent])
    assert told[0].headers.get("cookie") == seen
    assert "secret" not in str(told[0].headers)


async def test_own_cookies_are_known_by_the_names_in_the_settings(application: HubHandlers, settings: Any) -> None:
    settings.SESSION_COOKIE_NAME, settings.CSRF_COOKIE_NAME = "__Host-session", "__Host-csrf"
    told: list[ConnectRequest] = []
    application.on_connect(told.append)
    cookies = "__Host-session=secret; sessionid=of another; __Host-csrf=secret"
    await _admit(hub=application.hub, headers=[("cookie", cookies), ("Proxy-Authorization", "secret")])
    assert told[0].headers == {"cookie": ["sessionid=of another"]}


TOKEN_VALUES = {"sub": "u", "role": ["webpubsub.sendToGroup.a"], "webpubsub.group": ["a"]}


@pytest.mark.parametrize(
    ("answer", "user_id", "groups", "may_send", "state"),
    [
        (None, "u", ("a",), "a", None),
        (ConnectAnswer(), "u", ("a",), "a", None),
        (ConnectAnswer(user_id="v"), "v", ("a",), "a", None),
        (ConnectAnswer(user_id=""), None, ("a",), "a", None),
        (ConnectAnswer(groups=["b", "c", "b"]), "u", ("b", "c"), "a", None),
        (ConnectAnswer(groups=[]), "u", ("a",), "a", None),
        (ConnectAnswer(roles=["webpubsub.sendToGroup.b"]), "u", ("a",), "b", None),
        (ConnectAnswer(roles=[]), "u", ("a",), "", None),
        (ConnectAnswer(state="s"), "u", ("a",), "a", "s"),
    ],
)
async def test_what_the_connect_handler_answers(
    application: HubHandlers,
    answer: ConnectAnswer | None,
    user_id: str | None,
    groups: tuple[str, ...],
    may_send: str,
    state: str | None,
) -> None:
    application.on_connect(lambda request: answer)
    admission = await _admit(hub=application.hub, **TOKEN_VALUES)
    assert (admission.user_id, admission.groups, admission.session.state) == (user_id, groups, state)
    assert "".join(group for group in "abc" if admission.permissions.may_send(group)) == may_send


@pytest.mark.parametrize(
    ("offers", "answer", "chosen", "named"),
    [
        (["x", JSON_NAME], "x", "x", False),
        (["x", JSON_NAME], JSON_NAME, JSON_NAME, True),
        (["X", JSON_NAME.upper()], JSON_NAME, JSON_NAME.upper(), True),
        (["X", JSON_NAME], "x", "X", False),
        ([JSON_NAME], "", JSON_NAME, True),
        ([JSON_NAME], None, JSON_NAME, True),
    ],
)
async def test_the_connect_handler_chooses_the_subprotocol(
    application: HubHandlers, offers: list[str], answer: str | None, chosen: str, named: bool
) -> None:
    application.on_connect(lambda request: ConnectAnswer(subprotocol=answer))
    admission = await _admit(hub=application.hub, offers=offers)
    assert (admission.subprotocol, admission.codec.named) == (chosen, named)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda request: ConnectAnswer(subprotocol="y"), 500),
        (lambda request: ConnectAnswer(groups=[" "]), 500),
        (lambda request: ConnectAnswer(groups=["g"] * 3 + ["h", "i"]), 500),
        (lambda request: ConnectAnswer(groups="room"), 500),
        (lambda request: "welcome", 500),
        (lambda request: 1 / 0, 500),
    ],
)
async def test_answers_that_cannot_be_used(
    application: HubHandlers, webpubsub: WebPubSub, answer: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    webpubsub(MAX_GROUPS_PER_CONNECTION=2)
    application.on_connect(answer)
    handshake = _handshake({"access_token": _token(application.hub)}, hub=application.hub, offers=[JSON_NAME])
    assert (await _refused(handshake))[0] == status


async def test_the_connect_handler_says_no(application: HubHandlers) -> None:
    @application.on_connect
    def refuse(request: ConnectRequest) -> None:
        raise Rejected(403, "not today")

    handshake = _handshake({"access_token": _token(application.hub)}, hub=application.hub)
    assert await _refused(handshake) == (403, "not today")


async def test_the_connect_handler_is_not_asked_about_bad_tokens(application: HubHandlers) -> None:
    told: list[Any] = []
    application.on_connect(told.append)
    await _refused(_handshake({"access_token": "forged"}, hub=application.hub))
    await _refused(_handshake({"access_token": _token(application.hub), "webpubsub_mode": "x"}, hub=application.hub))
    assert told == []


# Whatever comes


@given(st.text(max_size=80), st.text(max_size=20), st.lists(st.text(max_size=10), max_size=3))
@hypothesis_settings(max_examples=200, deadline=None)
def test_any_request_is_admitted_or_refused(query: str, hub: str, offers: list[str]) -> None:
    statuses: set[int] = set()

    async def ask() -> None:
        for name in (hub, "open", None):
            try:
                await admit(
                    _handshake(query, hub=name, offers=offers, headers=[("authorization", query)]), CONNECTION_ID
                )
            except HandshakeRefused as refused:
                statuses.add(int(refused.status))

    asyncio.run(ask())
    assert statuses <= {400, 401}


# With a database


@pytest.fixture
def fresh_settings() -> Iterator[None]:
    hub_settings.drop()
    yield
    hub_settings.drop()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("fresh_settings")
async def test_keys_of_the_database() -> None:
    hub = await Hub.objects.acreate(name="Mine", anonymous_connect=True)
    service_key, hub_key = AccessKey(slot="secondary"), AccessKey(hub=hub, slot="primary")
    service_key.text, hub_key.text = SECONDARY, ROOM_KEY
    await service_key.asave()
    await hub_key.asave()
    assert (await _admit(hub="mine", key=SECONDARY, sub="s")).user_id == "s"
    assert (await _admit(hub="mine", key=ROOM_KEY, sub="r")).user_id == "r"
    assert (await _admit(hub="chat", key=SECONDARY)).hub == "chat"
    assert (await admit(_handshake(hub="mine"), CONNECTION_ID)).user_id is None
    assert (await _refused(_handshake({"access_token": _token(key=ROOM_KEY)})))[0] == 401
    assert (await _refused(_handshake({"access_token": _token("mine", key=PRIMARY)}, hub="mine")))[0] == 401
    # A regenerated key opens nothing from then on.
    hub_key.text = PRIMARY
    await hub_key.asave()
    assert (await _refused(_handshake({"access_token": _token("mine", key=ROOM_KEY)}, hub="mine")))[0] == 401
    assert (await _admit(hub="mine", key=PRIMARY)).hub == "mine"
