"""Who may call the data plane. Numbers are lines of the access tokens checklist."""

from __future__ import annotations

import time

import jwt
import pytest
from azure.core.credentials import AzureKeyCredential
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.messaging.webpubsubservice import WebPubSubServiceClient
from azure.messaging.webpubsubservice._patch import JwtCredentialPolicy

from .conftest import ENDPOINT, bearer

PATH = "/api/hubs/chat/connections/nobody"
URL = f"{ENDPOINT}{PATH}"
QUERY = "api-version=2024-12-01&reason=so%20long%2C%20J%C3%BCrgen"
OTHER_KEY = "k" * 64


def refused(response) -> str:
    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert response["x-ms-error-code"] == "Error.Unauthorized"
    assert "api-supported-versions" in response
    return response.json()["message"]


# Line 25: the audience is the URL


@pytest.mark.parametrize("audience", [f"{URL}?{QUERY}", URL, [f"{ENDPOINT}/elsewhere", URL]])
def test_line_25_the_audience_is_the_url_with_its_query_or_without(client, keys, audience):
    """25. REST bearer token with `aud` = exact request URL incl. query, or without → accepted; another path → 401."""
    assert client.delete(f"{PATH}?{QUERY}", headers=bearer(keys[0], audience)).status_code == 204
    for other in (f"{ENDPOINT}/api/hubs/chat/connections/other", f"{URL}/child", f"{URL}Suffix", ENDPOINT):
        assert refused(client.delete(f"{PATH}?{QUERY}", headers=bearer(keys[0], other)))


@pytest.mark.parametrize(
    "audience",
    [
        URL.upper(),
        f"{URL}/",
        URL.replace("http:", "https:"),
        URL.replace("http:", "ws:"),
        URL.replace("http:", "WSS:"),
        URL.replace("nobody", "%6eobod%79"),
        f"{URL}?api-version=2024-12-01&reason=so+long%2C+J%C3%BCrgen",
        f"{URL}?api-version=2024-12-01&reason=so long, Jürgen",
        f"{URL}?api-version=2024-12-01&reason=other",
        f"{URL}#fragment",
    ],
)
def test_spellings_of_the_audience_that_are_the_same(client, keys, audience):
    assert client.delete(f"{PATH}?{QUERY}", headers=bearer(keys[0], audience)).status_code == 204


@pytest.mark.parametrize(
    "audience",
    [
        f"{URL}%3Freason",
        f"{URL}%23fragment",
        f"{URL}%253Fquery",
        f"{URL}%2523",
        URL.replace("http:", "ftp:"),
        URL.removeprefix("http:"),
        PATH,
        "http://elsewhere.example.com" + PATH,
        URL.replace("8080", "8081"),
        URL.replace("localhost", "localhost@evil.example"),
        URL.replace("/connections/", "//connections/"),
        URL.replace("nobody", "x/../nobody"),
        "",
        None,
        7,
        [],
        {"aud": URL},
    ],
)
def test_audiences_of_something_else(client, keys, audience):
    assert "another address" in refused(client.delete(f"{PATH}?{QUERY}", headers=bearer(keys[0], audience)))


def test_an_escaped_name_is_compared_after_decoding_once(client, keys):
    path = "/api/hubs/chat/connections/room%252Fpart"
    for text in ("room%252Fpart", "room%2Fpart", "room%2fpart"):
        assert (
            client.delete(path, headers=bearer(keys[0], f"{ENDPOINT}/api/hubs/chat/connections/{text}")).status_code
            == 204
        )
    for text in ("room/part", "room%25252Fpart"):
        refused(client.delete(path, headers=bearer(keys[0], f"{ENDPOINT}/api/hubs/chat/connections/{text}")))


def test_tokens_for_every_configured_endpoint_and_the_requests_own(client, keys, configure, settings):
    settings.ALLOWED_HOSTS = ["*"]
    configure(PUBLIC_ENDPOINTS=["https://pubsub.example.com", "https://gateway.example.org/messaging/"])
    for endpoint in (
        "https://pubsub.example.com",
        "https://pubsub.example.com:443",
        "https://gateway.example.org/messaging",
        ENDPOINT,
    ):
        assert client.delete(PATH, headers=bearer(keys[0], f"{endpoint}{PATH}")).status_code == 204
    for endpoint in ("https://gateway.example.org", "https://pubsub.example.com:8443"):
        refused(client.delete(PATH, headers=bearer(keys[0], f"{endpoint}{PATH}")))


def test_a_host_header_that_is_not_allowed_adds_no_audience(keys, client):
    headers = bearer(keys[0], f"http://evil.example.com{PATH}") | {"host": "evil.example.com"}
    assert client.delete(PATH, headers=headers).status_code == 400


# Line 26: no token, wrong tokens


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Basic dTpw"},
        {"authorization": "Token abc"},
        {"authorization": "Bearer a.b.c"},
        {"authorization": "Bearer é"},
        {"authorization": "Bearer " + "x" * 70_000},
    ],
)
def test_line_26_no_token_or_no_jwt(client, keys, headers):
    """26. REST call with no or an invalid token → 401."""
    assert refused(client.delete(PATH, headers=headers))


def test_line_26_a_token_in_the_query_is_none(client, keys):
    """26. REST takes the token from the header alone."""
    token = bearer(keys[0], URL)["authorization"].removeprefix("Bearer ")
    refused(client.delete(f"{PATH}?access_token={token}"))


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"exp": None}, "no expiry"),
        ({"exp": time.time() - 301}, "expired"),
        ({"exp": "soon"}, "not a number"),
        ({"nbf": time.time() + 86400}, "not valid yet"),
    ],
)
def test_line_26_times(client, keys, claims, why):
    """26. A token out of its time is invalid, five minutes of clock difference aside."""
    assert why in refused(client.delete(PATH, headers=bearer(keys[0], URL, **claims)))


def test_clocks_may_differ_by_five_minutes(client, keys):
    now = time.time()
    for claims in ({"exp": now - 290}, {"nbf": now + 290}, {"iat": now + 9999, "iss": "anybody", "sub": "anybody"}):
        assert client.delete(PATH, headers=bearer(keys[0], URL, **claims)).status_code == 204


def test_line_26_signatures(client, keys):
    """26. Only HS256 over a key of this service is a signature."""
    refused(client.delete(PATH, headers=bearer(OTHER_KEY, URL)))
    claims = {"aud": URL, "exp": int(time.time()) + 60}
    for algorithm, key in (("HS384", keys[0]), ("HS512", keys[0]), ("none", None)):
        token = jwt.encode(claims, key, algorithm)
        refused(client.delete(PATH, headers={"authorization": f"Bearer {token}"}))


def test_both_keys_open_and_a_regenerated_one_no_longer(client, keys):
    from hubs import hub_settings
    from hubs.models import AccessKey

    for key in keys:
        assert client.delete(PATH, headers=bearer(key, URL)).status_code == 204
    AccessKey.objects.of_service().get(slot="primary").regenerate()
    hub_settings.drop()
    refused(client.delete(PATH, headers=bearer(keys[0], URL)))
    assert client.delete(PATH, headers=bearer(keys[1], URL)).status_code == 204


def test_a_hubs_key_opens_that_hub_alone(client, keys, hub_keys):
    for key in hub_keys("limited"):
        for hub, opens in (("limited", True), ("LIMITED", True), ("chat", False), ("limited2", False)):
            path = f"/api/hubs/{hub}/connections/nobody"
            response = client.delete(path, headers=bearer(key, f"{ENDPOINT}{path}"))
            assert response.status_code == (204 if opens else 401)


def test_a_clients_token_does_not_open_rest(client, keys):
    sdk = WebPubSubServiceClient.from_connection_string(f"Endpoint={ENDPOINT};AccessKey={keys[0]};Version=1.0;", "chat")
    token = sdk.get_client_access_token(user_id="me", roles=["webpubsub.sendToGroup"])["token"]
    refused(client.delete(PATH, headers={"authorization": f"Bearer {token}"}))


def test_the_token_of_the_official_sdk_opens(client, keys):
    request = PipelineRequest(HttpRequest("DELETE", f"{URL}?{QUERY}"), PipelineContext(None))
    JwtCredentialPolicy(AzureKeyCredential(keys[1]), user="somebody").on_request(request)
    authorization = request.http_request.headers["Authorization"]
    assert client.delete(f"{PATH}?{QUERY}", headers={"authorization": authorization}).status_code == 204
    refused(client.delete(f"{PATH}x?{QUERY}", headers={"authorization": authorization}))


def test_a_reverse_proxy_of_the_sdk_signs_for_the_endpoint_behind_it(client, keys, settings):
    settings.ALLOWED_HOSTS = ["*"]
    request = PipelineRequest(HttpRequest("DELETE", f"https://apim.example.com{PATH}"), PipelineContext(None))
    policy = JwtCredentialPolicy(
        AzureKeyCredential(keys[0]), origin_endpoint=ENDPOINT, reverse_proxy_endpoint="https://apim.example.com"
    )
    policy.on_request(request)
    headers = {"authorization": request.http_request.headers["Authorization"], "host": "apim.example.com"}
    assert client.delete(PATH, headers=headers).status_code == 204


def test_a_session_does_not_open_the_data_plane(client, keys, admin_user):
    client.force_login(admin_user)
    refused(client.delete(PATH))


def test_the_database_is_asked_seldom(call, keys, django_assert_max_num_queries):
    with django_assert_max_num_queries(5):
        assert call("DELETE", PATH).status_code == 204
    with django_assert_max_num_queries(0):
        assert call("DELETE", PATH).status_code == 204
