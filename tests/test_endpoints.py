"""Under which addresses a request found this service."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubs import endpoints
from hubs.rules.tokens import InvalidToken, client_audiences, sign, verify


@pytest.fixture(autouse=True)
def configured(settings: Any) -> None:
    settings.WEBPUBSUB = {"PUBLIC_ENDPOINTS": ["https://pubsub.example.com", "http://localhost:8080"]}


@pytest.fixture
def behind_a_proxy(settings: Any) -> None:
    settings.WEBPUBSUB = settings.WEBPUBSUB | {"TRUST_FORWARDED_HEADERS": True}


@pytest.mark.parametrize(
    ("scheme", "host", "endpoint"),
    [
        ("ws", "h", "http://h"),
        ("wss", "h", "https://h"),
        ("http", "h:8080", "http://h:8080"),
        ("HTTPS", "my_service.internal:443", "https://my_service.internal:443"),
        ("ws", "127.0.0.1:1", "http://127.0.0.1:1"),
        ("ws", "[::1]:8080", "http://[::1]:8080"),
        ("ws", "[fe80::1]", "http://[fe80::1]"),
        ("ws", "", None),
        ("ws", " h", None),
        ("ws", "h:", None),
        ("ws", "h:port", None),
        ("ws", "h:123456", None),
        ("ws", "h/path", None),
        ("ws", "user@h", None),
        ("ws", "h?", None),
        ("ws", "h#", None),
        ("ws", "h\\x", None),
        ("ws", "h\t", None),
        ("ws", "h\n", None),
        ("ws", "h,g", None),
        ("ws", "é", None),
        ("ws", "[::1", None),
        ("ws", "[h]", None),
        ("ws", "::1", None),
    ],
)
def test_where_a_request_was_sent(scheme: str, host: str, endpoint: str | None) -> None:
    assert endpoints.requested(scheme, {"host": host}) == endpoint


def test_without_host_header() -> None:
    assert endpoints.requested("ws", {}) is None
    assert endpoints.configured_and(None) == ("https://pubsub.example.com", "http://localhost:8080")


def test_configured_endpoints_and_the_requests_own_are_accepted() -> None:
    assert endpoints.configured_and("http://h") == (
        "https://pubsub.example.com",
        "http://localhost:8080",
        "http://h",
    )
    assert endpoints.configured_and("http://localhost:8080") == (
        "https://pubsub.example.com",
        "http://localhost:8080",
    )


FORWARDED = {"host": "inner:8080", "x-forwarded-host": "outer.example.com", "x-forwarded-proto": "https"}


def test_forwarded_headers_are_not_believed() -> None:
    assert endpoints.requested("ws", FORWARDED) == "http://inner:8080"


@pytest.mark.usefixtures("behind_a_proxy")
@pytest.mark.parametrize(
    ("headers", "endpoint"),
    [
        (FORWARDED, "https://outer.example.com"),
        (FORWARDED | {"x-forwarded-host": "first.example.com , second"}, "https://first.example.com"),
        (FORWARDED | {"x-forwarded-proto": "http, https"}, "http://outer.example.com"),
        (FORWARDED | {"x-forwarded-proto": "WSS"}, "https://outer.example.com"),
        (FORWARDED | {"x-forwarded-host": ""}, "https://inner:8080"),
        (FORWARDED | {"x-forwarded-proto": ""}, "http://outer.example.com"),
        (FORWARDED | {"x-forwarded-host": "outer/x#"}, None),
        ({"host": "inner:8080"}, "http://inner:8080"),
    ],
)
def test_behind_a_proxy_they_are(headers: dict[str, str], endpoint: str | None) -> None:
    assert endpoints.requested("ws", headers) == endpoint


KEY = "k" * 40


@given(st.text(max_size=30), st.sampled_from(["", "h/client/hubs/other", "localhost:8080/client/hubs/other"]))
def test_no_host_turns_one_hub_into_another(text: str, front: str) -> None:
    """The Host header is the client's own text; whatever it is, a token for one hub opens no other."""
    for host in (front + text, text + front):
        accepted = client_audiences(endpoints.configured_and(endpoints.requested("ws", {"host": host})), "chat")
        for endpoint in (f"http://{host}", "http://h", "http://localhost:8080"):
            token = sign({"aud": f"{endpoint}/client/hubs/other", "exp": 2**40}, KEY)
            with pytest.raises(InvalidToken):
                verify(token, [KEY], accepted, now=0, skew=0)


# The endpoint a client came by


@pytest.mark.parametrize(
    ("own", "endpoint", "host"),
    [
        ("http://localhost:8080", "http://localhost:8080", "localhost"),
        ("https://LOCALHOST:8080", "http://localhost:8080", "localhost"),
        ("https://pubsub.example.com", "https://pubsub.example.com", "pubsub.example.com"),
        # TLS ends at a proxy that was not told about.
        ("http://pubsub.example.com", "https://pubsub.example.com", "pubsub.example.com"),
        ("http://pubsub.example.com:8443", None, "pubsub.example.com"),
        ("http://127.0.0.1:8080", None, "pubsub.example.com"),
        # Events name no port, so it is not compared for them.
        ("http://localhost:8081", None, "localhost"),
        (None, None, "pubsub.example.com"),
    ],
)
def test_which_of_the_configured_endpoints(own: str | None, endpoint: str | None, host: str) -> None:
    assert endpoints.configured(own) == endpoint
    assert endpoints.origin(own) == host


def test_the_names_that_a_handler_may_allow(settings: Any) -> None:
    assert endpoints.origins() == {"pubsub.example.com", "pubsub.example.com:443", "localhost", "localhost:8080"}
    settings.WEBPUBSUB = {"PUBLIC_ENDPOINTS": ["HTTP://[::1]", "https://Bücher.example:444/rt"]}
    assert endpoints.origins() == {"[::1]", "[::1]:80", "xn--bcher-kva.example", "xn--bcher-kva.example:444"}
