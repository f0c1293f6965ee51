from __future__ import annotations

import pytest
from django.test import RequestFactory

from hubs.rest import endpoints


def request(host: str | None, **extra: str):
    made = RequestFactory().get("/api/negotiate/chat", **extra)
    if host is None:
        made.META.pop("HTTP_HOST", None)
    else:
        made.META["HTTP_HOST"] = host
    return made


@pytest.mark.parametrize(
    ("configured", "host", "expected"),
    [
        (["http://localhost:8080"], "localhost:8080", "http://localhost:8080"),
        (["http://localhost:8080"], "127.0.0.1:8080", "http://127.0.0.1:8080"),
        (["http://localhost:8080"], "127.0.0.2:8080", "http://127.0.0.2:8080"),
        (["http://localhost:8080"], "[::1]:8080", "http://[::1]:8080"),
        (["http://127.0.0.1:8080"], "LocalHost:8080", "http://localhost:8080"),
        (["http://localhost"], "127.0.0.1", "http://127.0.0.1"),
        (["http://localhost:80"], "127.0.0.1", "http://127.0.0.1"),
        (["http://localhost"], "127.0.0.1:80", "http://127.0.0.1"),
        (["http://localhost/rt"], "[::1]", "http://[::1]/rt"),
        (["http://localhost:8080"], "127.0.0.1:9090", "http://localhost:8080"),
        (["http://localhost:8080"], "pubsub.example.com:8080", "http://localhost:8080"),
        (["https://pubsub.example.com"], "127.0.0.1:8080", "https://pubsub.example.com"),
        # TLS ends at a proxy: the host is the same, the scheme is the configured one.
        (
            ["https://a.example.com:8443", "https://b.example.com:8080/gw/"],
            "b.example.com:8080",
            "https://b.example.com:8080/gw",
        ),
        (["https://a.example.com", "https://b.example.com"], "B.example.com", "https://b.example.com"),
        (["http://a.example.com", "http://b.example.com"], "b.example.com", "http://b.example.com"),
        (["http://a.example.com/gw"], None, "http://a.example.com/gw"),
        (["http://a.example.com"], "not a host", "http://a.example.com"),
    ],
)
def test_clients_are_sent_to_an_address_they_can_reach(settings, configure, configured, host, expected):
    settings.ALLOWED_HOSTS = ["*"]
    configure(PUBLIC_ENDPOINTS=configured)
    assert endpoints.for_clients(request(host)) == expected


def test_a_host_that_is_not_allowed_is_nobodys_endpoint(settings, configure):
    settings.ALLOWED_HOSTS = ["good.example.com"]
    configure(PUBLIC_ENDPOINTS=["https://good.example.com"])
    assert endpoints.of_request(request("evil.example.com")) is None
    assert endpoints.accepted(request("evil.example.com")) == ("https://good.example.com",)


def test_the_endpoint_of_the_request_is_accepted_beside_those_configured(settings, configure):
    settings.ALLOWED_HOSTS = ["*"]
    configure(PUBLIC_ENDPOINTS=["https://pubsub.example.com", "https://custom.example.org"])
    assert endpoints.accepted(request("10.0.0.7:8080")) == (
        "https://pubsub.example.com",
        "https://custom.example.org",
        "http://10.0.0.7:8080",
    )


FORWARDED = {"HTTP_X_FORWARDED_HOST": "Public.example.com, inner", "HTTP_X_FORWARDED_PROTO": "HTTPS"}


def test_forwarded_headers_count_only_when_they_are_trusted(settings, configure):
    settings.ALLOWED_HOSTS = ["*"]
    assert endpoints.of_request(request("inner:8080", **FORWARDED)) == "http://inner:8080"
    configure(TRUST_FORWARDED_HEADERS=True)
    assert endpoints.of_request(request("inner:8080", **FORWARDED)) == "https://public.example.com"
    assert endpoints.of_request(request("inner:8080")) == "http://inner:8080"


def test_a_forwarded_host_has_to_be_allowed_too(settings, configure):
    settings.ALLOWED_HOSTS = ["inner"]
    configure(TRUST_FORWARDED_HEADERS=True)
    assert endpoints.of_request(request("inner:8080", **FORWARDED)) is None


def test_a_forwarded_scheme_that_is_none_is_not_passed_on(settings, configure):
    settings.ALLOWED_HOSTS = ["*"]
    configure(TRUST_FORWARDED_HEADERS=True)
    assert endpoints.of_request(request("inner", HTTP_X_FORWARDED_PROTO="javascript")) == "http://inner"


def test_the_prefix_a_project_mounts_the_service_under_belongs_to_the_address():
    mounted = request("localhost:8080")
    mounted.META["SCRIPT_NAME"] = "/messaging"
    assert endpoints.of_request(mounted) == "http://localhost:8080/messaging"
