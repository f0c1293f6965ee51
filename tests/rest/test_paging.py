"""Pages of a group's members."""

from __future__ import annotations

from urllib.parse import parse_qs, parse_qsl, quote, urlsplit

import pytest

from .conftest import ENDPOINT, bearer

PATH = "/api/hubs/Chat/groups/a%20group/connections"

pytestmark = pytest.mark.django_db


@pytest.fixture
def members(recorder):
    recorder.members = [(f"{n:032x}", f"user {n}" if n % 2 else None) for n in range(450)]
    return recorder.members


def pages(call, path: str) -> list[list[dict]]:
    """Follow the links to the end."""
    found = []
    while path:
        response = call("GET", path)
        assert response.status_code == 200
        assert response["Content-Type"] == "application/json; charset=utf-8"
        body = response.json()
        found.append(body["value"])
        link = body.get("nextLink")
        assert link is None or link.startswith(f"{ENDPOINT}/api/hubs/chat/groups/a%20group/connections?")
        path = link.removeprefix(ENDPOINT) if link else ""
    return found


def ids(page: list[dict]) -> list[str]:
    return [item["connectionId"] for item in page]


@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        ("", [200, 200, 50]),
        ("?maxpagesize=200", [200, 200, 50]),
        ("?maxpagesize=150", [150, 150, 150]),
        ("?maxpagesize=199&top=398", [199, 199]),
        ("?top=5", [5]),
        ("?top=200", [200]),
        ("?top=201", [200, 1]),
        ("?maxpagesize=2&top=5", [2, 2, 1]),
        ("?maxpagesize=7&top=7", [7]),
        ("?top=450", [200, 200, 50]),
        ("?top=2147483647", [200, 200, 50]),
        ("?MaxPageSize=200&TOP=1&continuationtokens=x", [1]),
    ],
)
def test_pages(call, members, query, sizes):
    found = pages(call, f"{PATH}{query}")
    assert [len(page) for page in found] == sizes
    assert [name for page in found for name in ids(page)] == [member[0] for member in members[: sum(sizes)]]


def test_items_have_a_user_id_or_none(call, members):
    assert pages(call, f"{PATH}?top=2") == [
        [{"connectionId": f"{0:032x}"}, {"connectionId": f"{1:032x}", "userId": "user 1"}]
    ]


def test_a_group_without_members(call, recorder):
    assert call("GET", PATH).json() == {"value": []}
    assert recorder.only == ("list_group", {"hub": "chat", "group": "a group", "after": None, "limit": 201})


def test_who_comes_and_goes_between_pages(call, recorder):
    recorder.members = [(name, None) for name in "bdfh"]
    first = call("GET", f"{PATH}?maxpagesize=2").json()
    assert ids(first["value"]) == ["b", "d"]
    # The last one shown goes, one comes before and one after it.
    recorder.members = [(name, None) for name in "abefh"]
    rest = pages(call, first["nextLink"].removeprefix(ENDPOINT))
    assert [name for page in rest for name in ids(page)] == ["e", "f", "h"]


def test_the_next_link(call, members):
    link = call("GET", f"{PATH}?maxpagesize=3&top=10&api-version=2021-10-01").json()["nextLink"]
    query = parse_qs(urlsplit(link).query)
    token = query.pop("continuationToken")[0]
    assert query == {"api-version": ["2024-12-01"], "maxpagesize": ["3"], "top": ["7"]}
    assert quote(token, safe="") == token
    assert not set(token) & set("+/=%")
    assert len(token) <= 2048


@pytest.fixture
def token(call, members) -> str:
    link = call("GET", f"{PATH}?maxpagesize=3").json()["nextLink"]
    return dict(parse_qsl(urlsplit(link).query))["continuationToken"]


def refused(response) -> None:
    assert response.status_code == 400
    assert response.json()["target"] == "continuationToken"


def test_a_cursor_belongs_to_one_group_of_one_hub(call, token):
    assert call("GET", f"{PATH}?continuationToken={token}").status_code == 200
    # The hub is the same in any letter case, the group is not.
    assert call("GET", f"{PATH.replace('Chat', 'CHAT')}?continuationToken={token}").status_code == 200
    refused(call("GET", f"{PATH.replace('group/', 'Group/')}?continuationToken={token}"))
    refused(call("GET", f"{PATH.replace('Chat', 'other')}?continuationToken={token}"))


def test_a_changed_cursor(call, token):
    for changed in (token[:-1], token + "A", "A" + token, token.replace(".", ""), token[::-1], "."):
        refused(call("GET", f"{PATH}?continuationToken={changed}"))
    refused(call("GET", f"{PATH}?continuationToken={token}&continuationToken={token}"))


def test_links_lead_where_the_caller_came_from(client, keys, members, configure):
    configure(PUBLIC_ENDPOINTS=["https://pubsub.example.com/hubs", ENDPOINT])
    headers = bearer(keys[0], f"{ENDPOINT}{PATH}")
    link = client.get(PATH, headers=headers).json()["nextLink"]
    assert link.startswith(f"{ENDPOINT}/api/hubs/chat/")


def test_links_behind_a_gateway_lead_to_the_public_endpoint(client, keys, members, configure):
    """The gateway sends its own inner host name on; the token names the endpoint that its caller knows."""
    configure(PUBLIC_ENDPOINTS=["https://pubsub.example.com"])
    headers = bearer(keys[0], f"https://pubsub.example.com{PATH}") | {"host": "localhost:1234"}
    link = client.get(PATH, headers=headers).json()["nextLink"]
    assert link.startswith("https://pubsub.example.com/api/hubs/chat/")
