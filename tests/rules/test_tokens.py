"""Which tokens are believed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import suppress
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from hubs.rules import tokens
from hubs.rules.tokens import InvalidToken

NOW = 1_700_000_000
PRIMARY = "primary-" + "k" * 40
SECONDARY = "c2Vjb25kYXJ5" * 4 + "=="
ENDPOINT = "https://pubsub.example.com"
AUDIENCE = f"{ENDPOINT}/client/hubs/chat"
HS256 = {"alg": "HS256", "typ": "JWT"}


def _part(value: Any) -> bytes:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=")


def _token(claims: Any, header: Any = HS256, key: str = PRIMARY, digest: str = "sha256") -> str:
    """A JWT made by hand, with whatever in it."""
    signed = _part(header) + b"." + _part(claims)
    return (signed + b"." + _part(hmac.digest(key.encode(), signed, digest))).decode()


def _claims(**changes: Any) -> dict[str, Any]:
    claims = {"aud": AUDIENCE, "exp": NOW + 60} | changes
    return {name: value for name, value in claims.items() if value is not None}


def _verify(token: str, *, endpoint: str = ENDPOINT, hub: str = "chat", skew: float = 300) -> tokens.Claims:
    audiences = tokens.client_audiences([endpoint], hub)
    return tokens.verify(token, [PRIMARY, SECONDARY], audiences, now=NOW, skew=skew)


# Signatures


@pytest.mark.parametrize("key", [PRIMARY, SECONDARY])
def test_either_key_is_accepted(key: str) -> None:
    assert _verify(_token(_claims(sub="u"), key=key))["sub"] == "u"


def test_keys_are_texts_and_not_base64() -> None:
    decoded = base64.b64decode(SECONDARY).decode()
    with pytest.raises(InvalidToken, match="not signed with a key of this service"):
        _verify(_token(_claims(), key=decoded))


def test_our_own_signature_is_the_usual_one() -> None:
    token = tokens.sign(_claims(), PRIMARY)
    header, payload, signature = token.split(".")
    expected = hmac.digest(PRIMARY.encode(), f"{header}.{payload}".encode(), hashlib.sha256)
    assert base64.urlsafe_b64decode(signature + "=") == expected
    assert jwt.get_unverified_header(token) == HS256
    assert _verify(token) == _claims()


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(InvalidToken, match="key of this service"):
        _verify(_token(_claims(), key="another-" + "k" * 40))


def test_without_keys_nothing_is_accepted() -> None:
    with pytest.raises(InvalidToken):
        tokens.verify(_token(_claims()), [], [AUDIENCE], now=NOW, skew=0)


def test_an_empty_key_is_no_key() -> None:
    with pytest.raises(InvalidToken):
        _verify(_token(_claims(), key=""))


@pytest.mark.parametrize(("algorithm", "digest"), [("HS384", "sha384"), ("HS512", "sha512")])
def test_other_digests_are_refused(algorithm: str, digest: str) -> None:
    with pytest.raises(InvalidToken, match="HS256"):
        _verify(_token(_claims(), {"alg": algorithm, "typ": "JWT"}, digest=digest))
    # Nor does it help to claim the right one.
    with pytest.raises(InvalidToken):
        _verify(_token(_claims(), digest=digest))


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "", "hs256", "RS256", "ES256", "HS256 ", None, 5, ["HS256"], {"HS256": 1}]
)
def test_other_algorithms_are_refused(algorithm: Any) -> None:
    signed = _token(_claims(), {"alg": algorithm, "typ": "JWT"})
    for token in (signed, signed.rpartition(".")[0] + "."):
        with pytest.raises(InvalidToken):
            _verify(token)


def test_a_true_rsa_signature_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with pytest.raises(InvalidToken, match="HS256"):
        _verify(jwt.encode(_claims(), key, algorithm="RS256"))


def test_kid_and_unknown_header_members_are_ignored() -> None:
    assert _verify(_token(_claims(), HS256 | {"kid": "-123", "x": 1}))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "é.é.é",
        "\ud800.a.b",
        "\0",
        " ",
        "a" * 1000,
        "a.b.c.d.e",
        "Bearer " + _token(_claims()),
        _token(_claims())[:-1],
        _token(_claims()) + ".",
        _token(_claims()).replace(".", "..", 1),
        _token([]),
        _token("text"),
        _token(1),
        _token(None),
        _token(b"{"),
        _token(b"\xff"),
        _token(b'{"aud":' * 50_000),
        _token(b'{"aud":"' + AUDIENCE.encode() + b'","exp":' + b"1" * 5000 + b"}"),
        _token(_claims(x=[])).replace(".", "", 1),
        _token(_claims(), []),
        _token(_claims(), "HS256"),
        _token(_claims(), b"{"),
        _token(_claims(), b"[" * 40_000),
        _token(_claims(), HS256 | {"crit": ["x"], "x": 1}),
        _token(_claims(), HS256 | {"b64": False}),
    ],
)
def test_odd_tokens_are_refused(token: str) -> None:
    with pytest.raises(InvalidToken) as refused:
        _verify(token)
    assert len(str(refused.value)) < 100


def test_a_changed_payload_is_refused() -> None:
    header, _, signature = _token(_claims()).split(".")
    with pytest.raises(InvalidToken):
        _verify(f"{header}.{_part(_claims(sub='admin')).decode()}.{signature}")


def test_huge_tokens_are_refused_before_they_are_read() -> None:
    with pytest.raises(InvalidToken, match="too long"):
        _verify(_token(_claims(x="y" * 64 * 1024)))


def test_half_surrogate_pairs_are_refused() -> None:
    """They can be signed, but no frame and no header could carry them."""
    for claims in ({"sub": "\ud800"}, {"webpubsub.group": ["\udfff"]}, {"x": {"y": "\ud800"}}, {"\ud800": 1}):
        with pytest.raises(InvalidToken):
            _verify(_token(_claims(**claims)))


@given(st.text(max_size=100))
@settings(max_examples=300, deadline=None)
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        _verify(text)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4), st.data()
)
@settings(max_examples=300, deadline=None)
def test_any_claim_is_believed_or_refused(value: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["aud", "exp", "nbf", "iat", "sub", "iss", "jti", "role"]))
    token = _token(json.dumps(_claims() | {name: value}).encode())
    try:
        claims = _verify(token)
    except InvalidToken:
        return
    assert AUDIENCE in tokens.strings(claims["aud"])
    assert claims["exp"] > NOW - 300
    assert not claims.get("nbf") or claims["nbf"] <= NOW + 300


# Times


@pytest.mark.parametrize("expires", [NOW + 1, NOW - 299, NOW + 0.5, NOW + 10**9, 2**63 - 1, 253402300799])
def test_accepted_expiry(expires: float) -> None:
    assert _verify(_token(_claims(exp=expires)))["exp"] == expires


@pytest.mark.parametrize("expires", [NOW - 300, NOW - 301, 0, -1, -(10**9)])
def test_expired(expires: float) -> None:
    with pytest.raises(InvalidToken, match="expired"):
        _verify(_token(_claims(exp=expires)))


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 400])
@pytest.mark.parametrize("skew", [300, 300.0])
@pytest.mark.parametrize("name", ["exp", "nbf"])
def test_times_beyond_all_clocks_are_refused(name: str, text: bytes, skew: float) -> None:
    claims = json.dumps(_claims(**{name: 0})).encode().replace(b": 0", b": " + text)
    with pytest.raises(InvalidToken, match="not a time"):
        _verify(_token(claims), skew=skew)


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", ["1", str(NOW + 60), True, [], {}, [NOW + 60]])
def test_times_have_to_be_numbers(name: str, value: Any) -> None:
    with pytest.raises(InvalidToken, match=f"{name} is not a number"):
        _verify(_token(_claims(**{name: value})))


def test_expiry_is_required() -> None:
    with pytest.raises(InvalidToken, match="no expiry"):
        _verify(_token({"aud": AUDIENCE}))
    with pytest.raises(InvalidToken, match="no expiry"):
        _verify(_token({"aud": AUDIENCE, "exp": None}))


def test_without_skew_times_are_exact() -> None:
    assert _verify(_token(_claims(exp=NOW + 1, nbf=NOW)), skew=0)
    with pytest.raises(InvalidToken, match="expired"):
        _verify(_token(_claims(exp=NOW)), skew=0)
    with pytest.raises(InvalidToken, match="not valid yet"):
        _verify(_token(_claims(nbf=NOW + 1)), skew=0)


def test_not_before_is_honoured_with_skew() -> None:
    assert _verify(_token(_claims(nbf=NOW + 300)))
    with pytest.raises(InvalidToken, match="not valid yet"):
        _verify(_token(_claims(nbf=NOW + 301)))


@pytest.mark.parametrize("claims", [{"iat": NOW + 10**6}, {"iat": "soon"}, {"iss": "anybody"}, {"iss": 5}, {"jti": 5}])
def test_other_registered_claims_are_not_checked(claims: dict[str, Any]) -> None:
    assert _verify(_token(_claims(**claims)))


# Audiences


@pytest.mark.parametrize(
    ("endpoint", "audience"),
    [
        (ENDPOINT, AUDIENCE),
        (ENDPOINT, AUDIENCE.upper()),
        (ENDPOINT, AUDIENCE + "/"),
        (ENDPOINT, f" {AUDIENCE} "),
        (ENDPOINT, "https://pubsub.example.com:443/client/hubs/chat"),
        (ENDPOINT, "https://pubsub.example.com/client/hubs/Chat"),
        (ENDPOINT + "/", AUDIENCE),
        (ENDPOINT + ":443", AUDIENCE),
        ("HTTPS://PubSub.Example.com", AUDIENCE),
        ("http://localhost:80", "http://localhost/client/hubs/chat"),
        ("http://localhost", "http://localhost:80/client/hubs/chat"),
        ("http://localhost:8080", "http://localhost:8080/client/hubs/chat"),
        ("http://[::1]:8080", "http://[::1]:8080/client/hubs/chat"),
        ("http://[::1]", "http://[::1]:80/client/hubs/chat"),
        ("https://gw/prefix", "https://gw/prefix/client/hubs/chat"),
        ("https://gw/prefix/", "https://gw/Prefix/client/hubs/chat"),
        # The scheme says nothing; the default port is that of the scheme that was written.
        (ENDPOINT, "http://pubsub.example.com/client/hubs/chat"),
        (ENDPOINT, "wss://pubsub.example.com/client/hubs/chat"),
        (ENDPOINT, "WS://pubsub.example.com/client/hubs/chat"),
        (ENDPOINT, "ws://pubsub.example.com:80/client/hubs/chat"),
        ("http://localhost:8080", "wss://localhost:8080/client/hubs/chat"),
        ("http://pubsub.example.com:80", "https://pubsub.example.com:443/client/hubs/chat"),
        # As browsers write hosts.
        ("https://xn--bcher-kva.example", "https://Bücher.example/client/hubs/chat"),
        ("https://bücher.example", "https://xn--bcher-kva.example/client/hubs/chat"),
        ("http://[::1]:8080", "ws://[0:0:0:0:0:0:0:1]:8080/client/hubs/chat"),
        (ENDPOINT, "https://pubsub.example.com/client/hubs/%63hat"),
    ],
)
def test_the_same_address(endpoint: str, audience: str) -> None:
    assert _verify(_token(_claims(aud=audience)), endpoint=endpoint)


@pytest.mark.parametrize(
    "audience",
    [
        "https://pubsub.example.com/client/hubs/chat2",
        "https://pubsub.example.com/client/hubs/cha",
        "https://pubsub.example.com/client/hubs/chat/x",
        "https://pubsub.example.com/client/hubs/chat//",
        "https://pubsub.example.com/client/hubs/",
        "https://pubsub.example.com/client/?hub=chat",
        "https://pubsub.example.com/client/hubs/chat?x=1",
        "https://pubsub.example.com/client/hubs/chat#x",
        "https://pubsub.example.com/api/hubs/chat",
        "https://pubsub.example.com/prefix/client/hubs/chat",
        "https://pubsub.example.com/clients/mqtt/hubs/chat",
        "https://pubsub.example.com:444/client/hubs/chat",
        "https://pubsub.example.com:80/client/hubs/chat",
        "https://example.com/client/hubs/chat",
        "https://pubsub.example.com.evil.com/client/hubs/chat",
        "http://pubsub.example.com:443/client/hubs/chat",
        "wss://elsewhere.example.com/client/hubs/chat",
        "ftp://pubsub.example.com/client/hubs/chat",
        "https:pubsub.example.com/client/hubs/chat",
        "https://ann@pubsub.example.com/client/hubs/chat",
        "https://pubsub.example.com\\/client/hubs/chat",
        "https://pubsub.example.com/client/hubs/%2563hat",
        "https://pubsub.example.com/client/hubs/x/../chat",
        "pubsub.example.com/client/hubs/chat",
        "//pubsub.example.com/client/hubs/chat",
        "/client/hubs/chat",
        "chat",
        "",
        "https://",
        "https://[",
        "https://pubsub.example.com:99999/client/hubs/chat",
        "https://pubsub.example.com:port/client/hubs/chat",
        [],
        None,
        5,
        True,
        {"a": AUDIENCE},
        [5, None, [AUDIENCE]],
    ],
)
def test_another_address(audience: Any) -> None:
    with pytest.raises(InvalidToken, match="another address"):
        _verify(_token(_claims(aud=audience)))


def test_one_audience_of_an_array_is_enough() -> None:
    assert _verify(_token(_claims(aud=["https://elsewhere", 5, AUDIENCE.upper()])))
    with pytest.raises(InvalidToken, match="another address"):
        _verify(_token(_claims(aud=["https://elsewhere"])))


def test_hub_names_raw_and_escaped() -> None:
    for name in ("a`b,[c].d_", "a%60b%2C%5Bc%5D.d_"):
        assert _verify(_token(_claims(aud=f"{ENDPOINT}/client/hubs/{name}")), hub="a`b,[c].d_")


def test_any_of_several_endpoints() -> None:
    audiences = tokens.client_audiences(["https://a", "http://b:8080"], "chat")
    for endpoint in ("https://a", "http://b:8080"):
        token = _token(_claims(aud=f"{endpoint}/client/hubs/chat"))
        assert tokens.verify(token, [PRIMARY], audiences, now=NOW, skew=0)


def test_one_hub_cannot_be_dressed_up_as_another() -> None:
    """Whatever stands where an endpoint is expected, a token for one hub opens no other."""
    token = _token(_claims(aud=f"{ENDPOINT}/client/hubs/other"))
    for ending in ("", "#", "?", "/", "#/", "?#", ";", "\\", "/.", "/..", "\t", " ", "%23", "@", ":", "\r\n"):
        for endpoint in (ENDPOINT + ending, f"{ENDPOINT}/client/hubs/other{ending}"):
            with pytest.raises(InvalidToken, match="another address"):
                _verify(token, endpoint=endpoint)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_can_be_an_audience(text: str) -> None:
    for audience in (text, f"https://{text}", f"{ENDPOINT}{text}"):
        with suppress(InvalidToken):
            _verify(_token(_claims(aud=audience)))


# Claims


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("a", ("a",)),
        ("", ("",)),
        (["a", "b"], ("a", "b")),
        (["a", 1, None, ["b"]], ("a",)),
        ([], ()),
        (None, ()),
        (5, ()),
        ({"a": 1}, ()),
    ],
)
def test_claims_as_string_or_array(value: Any, texts: tuple[str, ...]) -> None:
    assert tokens.strings(value) == texts


def test_claims_that_we_write() -> None:
    assert tokens.client_claims(ENDPOINT, "chat", now=NOW + 0.9) == {
        "aud": AUDIENCE,
        "iat": NOW,
        "exp": NOW + 3600,
    }
    assert tokens.client_claims(
        ENDPOINT + "/", "chat", now=NOW, minutes=1, user_id="u", roles=("r",), groups=("g", "h")
    ) == {"aud": AUDIENCE, "iat": NOW, "exp": NOW + 60, "sub": "u", "role": ["r"], "webpubsub.group": ["g", "h"]}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://localhost:8080", "ws://localhost:8080/client/hubs/chat"),
        (ENDPOINT, "wss://pubsub.example.com/client/hubs/chat"),
        ("https://gw/http/", "wss://gw/http/client/hubs/chat"),
    ],
)
def test_websocket_addresses(endpoint: str, url: str) -> None:
    assert tokens.client_base_url(endpoint, "chat") == url


def test_connection_strings() -> None:
    assert tokens.connection_string(ENDPOINT, SECONDARY) == f"Endpoint={ENDPOINT};AccessKey={SECONDARY};Version=1.0;"


# Tokens of REST calls


def _verify_request(audience: Any, path: str = "/api/hubs/chat/groups/g/:send") -> tokens.Claims:
    return tokens.verify_for_request(
        _token(_claims(aud=audience)), [PRIMARY], [ENDPOINT, "http://localhost:8080"], path, now=NOW, skew=0
    )


@pytest.mark.parametrize(
    "audience",
    [
        f"{ENDPOINT}/api/hubs/chat/groups/g/:send?a=1&b=x%20y",
        f"{ENDPOINT}/api/hubs/chat/groups/g/:send?a=2",
        f"{ENDPOINT}/api/hubs/chat/groups/g/:send#fragment",
        f"{ENDPOINT}/api/hubs/chat/groups/g/:send?a#b?c",
        "wss://PUBSUB.example.com/api/hubs/chat/groups/g/:send",
        f"{ENDPOINT}/api/hubs/chat/groups/g/:send",
        f"{ENDPOINT}:443/API/hubs/CHAT/groups/g/:send",
        f"{ENDPOINT}/api/hubs/chat/groups/g/%3Asend",
        "http://localhost:8080/api/hubs/chat/groups/g/:send",
        ["https://elsewhere", f"{ENDPOINT}/api/hubs/chat/groups/g/:send"],
    ],
)
def test_the_request_signed_for(audience: Any) -> None:
    assert _verify_request(audience)


@pytest.mark.parametrize(
    "audience",
    [
        f"{ENDPOINT}/api/hubs/chat/groups/h/:send",
        f"{ENDPOINT}/api/hubs/other/groups/g/:send",
        f"{ENDPOINT}/api/hubs/chat/groups/g",
        f"{ENDPOINT}/api/hubs/chat/groups/g?/:send",
        f"{ENDPOINT}/api/hubs/chat/groups/g%3F/:send",
        f"{ENDPOINT}",
        AUDIENCE,
        "http://localhost:8081/api/hubs/chat/groups/g/:send",
        "/api/hubs/chat/groups/g/:send",
        "",
        None,
    ],
)
def test_a_request_not_signed_for(audience: Any) -> None:
    with pytest.raises(InvalidToken, match="another address"):
        _verify_request(audience)


def test_what_decodes_to_a_question_mark_belongs_to_the_name() -> None:
    signed = f"{ENDPOINT}/api/hubs/chat/groups/a%3Fb/:send"
    assert _verify_request(signed, path="/api/hubs/chat/groups/a%3Fb/:send")
    with pytest.raises(InvalidToken):
        _verify_request(signed, path="/api/hubs/chat/groups/a")
