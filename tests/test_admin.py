"""The admin's pages: keys that stay masked, hubs, role grants, people and their API tokens."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.core.cache import caches
from django.test import Client, override_settings
from django.utils import timezone
from rest_framework.authtoken.models import Token

from hubs import hub_settings, sign_in
from hubs.models import AccessKey, EventHandler, EventListener, HandlerCall, Hub, RoleGrant
from tests.running import free_port

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("fresh_settings")]

KEYS = "/admin/hubs/accesskey/"
HUBS = "/admin/hubs/hub/"
GRANTS = "/admin/hubs/rolegrant/"
CALLS = "/admin/hubs/handlercall/"
TOKENS = "/admin/authtoken/tokenproxy/"


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def staff(client: Client) -> Callable[..., Client]:
    """`staff("view_accesskey", …)`: signed in as somebody with these permissions only."""

    def sign_in(*codenames: str) -> Client:
        user = User.objects.create_user("pat", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
        client.force_login(user)
        return client

    return sign_in


def messages_of(client: Client, response: Any) -> str:
    page = client.get(response.headers["Location"]) if response.status_code == 302 else response
    return " ".join(str(message) for message in page.context["messages"])


def secret(client: Client, key: AccessKey, **data: str) -> Any:
    return client.post(f"{KEYS}{key.pk}/secret/", {"what": "key", "act": "reveal", **data})


def logged() -> list[str]:
    return [entry.change_message for entry in LogEntry.objects.order_by("pk")]


# Every page, and who may see it

PAGES = [
    "/admin/",
    KEYS,
    f"{KEYS}add/",
    "/admin/client-url/",
    HUBS,
    f"{HUBS}add/",
    GRANTS,
    f"{GRANTS}add/",
    CALLS,
    "/admin/auth/user/",
    "/admin/auth/user/add/",
    "/admin/auth/group/",
    "/admin/auth/group/add/",
    TOKENS,
    f"{TOKENS}add/",
    "/admin/password_change/",
]


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_in_the_same_clothes(root: Client, keys: list[AccessKey], page: str) -> None:
    response = root.get(page)
    assert response.status_code == 200
    content = response.content.decode()
    assert "hubs/admin/staff.css" in content
    assert all(link in content for link in (KEYS, "/admin/client-url/", HUBS, GRANTS, TOKENS))


@pytest.mark.parametrize("page", PAGES)
def test_no_page_opens_without_signing_in(client: Client, page: str) -> None:
    assert client.get(page).headers["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("/admin/", "/admin/password_change/")])
def test_staff_without_permissions_sees_nothing(staff: Callable[..., Client], page: str) -> None:
    assert staff().get(page).status_code == 403


def test_the_menu_shows_what_may_be_opened(staff: Callable[..., Client]) -> None:
    content = staff("view_hub").get("/admin/").content.decode()
    assert HUBS in content
    assert all(link not in content for link in (KEYS, "/admin/client-url/", GRANTS, TOKENS, "/admin/auth/user/"))


# Keys


def test_keys_are_masked(root: Client, keys: list[AccessKey]) -> None:
    own = AccessKey.objects.ensure_pair(Hub.objects.create(name="partner"))
    content = root.get(KEYS).content.decode()
    for key in [*keys, *own]:
        assert key.masked in content
        assert key.text not in content
        assert key.text[:8] not in content
        assert key.text[-8:] not in content
    assert f"Endpoint=http://localhost:8080;AccessKey={keys[0].masked};Version=1.0;" in content
    assert "Hub partner" in content


def test_reveal_and_copy(root: Client, keys: list[AccessKey]) -> None:
    response = secret(root, keys[0])
    assert response.json() == {"secret": keys[0].text}
    assert "no-store" in response.headers["Cache-Control"]
    assert secret(root, keys[1], act="copy").json() == {"secret": keys[1].text}
    connection_string = f"Endpoint=http://localhost:8080;AccessKey={keys[1].text};Version=1.0;"
    assert secret(root, keys[1], what="connection-string", act="copy").json() == {"secret": connection_string}
    assert logged() == ["Revealed the key.", "Copied the key.", "Copied the connection string."]
    entries = LogEntry.objects.order_by("pk")
    assert [entry.object_repr for entry in entries] == [
        "primary key of the service",
        *2 * ["secondary key of the service"],
    ]
    assert {(entry.action_flag, str(entry.user)) for entry in entries} == {(CHANGE, "root")}
    kept = " ".join(str(value) for entry in entries for value in vars(entry).values())
    assert not any(key.text in kept for key in keys)


def test_the_connection_string_has_the_public_endpoint(root: Client, keys: list[AccessKey]) -> None:
    with override_settings(WEBPUBSUB={"PUBLIC_ENDPOINTS": ["https://pubsub.example.com/", "http://other"]}):
        answer = secret(root, keys[0], what="connection-string").json()
    assert answer == {"secret": f"Endpoint=https://pubsub.example.com;AccessKey={keys[0].text};Version=1.0;"}


def test_nothing_is_revealed_by_get(root: Client, keys: list[AccessKey]) -> None:
    response = root.get(f"{KEYS}{keys[0].pk}/secret/", {"what": "key", "act": "reveal"})
    assert response.status_code == 405
    assert keys[0].text not in response.content.decode()
    assert logged() == []


@pytest.mark.parametrize("act", ["secret/", "regenerate/", "delete/"])
def test_posts_need_the_csrf_token(keys: list[AccessKey], act: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("root"))
    before = keys[0].text
    assert client.post(f"{KEYS}{keys[0].pk}/{act}", {"what": "key", "act": "reveal"}).status_code == 403
    assert AccessKey.objects.get(pk=keys[0].pk).text == before


@pytest.mark.parametrize("data", [{"what": ""}, {"what": "encrypted"}, {"act": ""}, {"act": "steal"}])
def test_asking_for_something_else(root: Client, keys: list[AccessKey], data: dict[str, str]) -> None:
    response = secret(root, keys[0], **data)
    assert response.status_code == 400
    assert "key, connection-string" in response.json()["error"]
    assert logged() == []


@pytest.mark.parametrize("pk", ["0", "999999", "x", "9" * 30, "..%2F1"])
def test_a_key_that_is_not_there(root: Client, pk: str) -> None:
    response = root.post(f"{KEYS}{pk}/secret/", {"what": "key", "act": "reveal"})
    assert response.status_code == 404
    assert root.get(f"{KEYS}{pk}/regenerate/").status_code == 404
    assert root.get(f"{KEYS}{pk}/delete/").status_code == 404


def test_who_may_view_sees_masks_and_no_buttons(staff: Callable[..., Client], keys: list[AccessKey]) -> None:
    client = staff("view_accesskey")
    content = client.get(KEYS).content.decode()
    assert keys[0].masked in content
    assert "data-reveal" not in content
    assert "data-copy=" not in content
    assert "Regenerate…" not in content
    assert "Add keys" not in content
    before = keys[0].text
    assert secret(client, keys[0]).status_code == 403
    assert client.get(f"{KEYS}{keys[0].pk}/regenerate/").status_code == 403
    assert client.post(f"{KEYS}{keys[0].pk}/regenerate/").status_code == 403
    assert client.post(f"{KEYS}{keys[0].pk}/delete/").status_code == 403
    assert client.post(f"{KEYS}service/").status_code == 403
    assert AccessKey.objects.get(pk=keys[0].pk).text == before
    assert logged() == []


def test_regenerating_asks_first(root: Client, keys: list[AccessKey]) -> None:
    AccessKey.objects.update(regenerated_at=timezone.now() - timedelta(days=400))
    primary, secondary = (key.text for key in keys)
    page = root.get(f"{KEYS}{keys[0].pk}/regenerate/").content.decode()
    for words in ("stop opening new connections", "Connections that are open now stay open", "The other key goes on"):
        assert words in page
    assert AccessKey.objects.get(pk=keys[0].pk).text == primary

    response = root.post(f"{KEYS}{keys[0].pk}/regenerate/")
    assert response.headers["Location"] == KEYS
    assert "There is a new primary key of the service." in messages_of(root, response)
    fresh = AccessKey.objects.get(pk=keys[0].pk)
    assert fresh.text != primary
    assert AccessKey.objects.get(pk=keys[1].pk).text == secondary
    assert timezone.now() - fresh.regenerated_at < timedelta(minutes=1)
    assert logged() == ["Regenerated the key."]
    history = root.get(f"{KEYS}{keys[0].pk}/history/").content.decode()
    assert "Regenerated the key." in history


def test_a_regenerated_key_is_in_force(
    root: Client, keys: list[AccessKey], django_capture_on_commit_callbacks: Any
) -> None:
    assert hub_settings.current().service_keys == (keys[0].text, keys[1].text)
    with django_capture_on_commit_callbacks(execute=True):
        root.post(f"{KEYS}{keys[0].pk}/regenerate/")
    assert hub_settings.current().service_keys == (AccessKey.objects.get(pk=keys[0].pk).text, keys[1].text)


def test_there_is_no_form_for_a_key(root: Client, keys: list[AccessKey]) -> None:
    address = f"{KEYS}{keys[0].pk}/change/"
    assert root.get(address).headers["Location"] == KEYS
    assert root.post(address, {"slot": "secondary"}).headers["Location"] == KEYS
    assert AccessKey.objects.get(pk=keys[0].pk).slot == "primary"


def test_a_key_that_cannot_be_read_says_why(root: Client, keys: list[AccessKey]) -> None:
    with override_settings(SECRET_KEY="another one", SECRET_KEY_FALLBACKS=[]):
        root.force_login(User.objects.get(username="root"))
        response = root.get(KEYS)
        assert response.status_code == 200
        content = html.unescape(response.content.decode())
        assert content.count("cannot be read with this SECRET_KEY") == 2
        assert "data-reveal" not in content
        assert content.count("Regenerate…") == 2

        answer = secret(root, keys[0])
        assert answer.status_code == 409
        assert "SECRET_KEY_FALLBACKS" in answer.json()["error"]
        assert logged() == []

        assert root.get(f"{KEYS}{keys[0].pk}/regenerate/").status_code == 200
        assert root.post(f"{KEYS}{keys[0].pk}/regenerate/").status_code == 302
        content = root.get(KEYS).content.decode()
        assert AccessKey.objects.get(pk=keys[0].pk).masked in content
        assert content.count("cannot be read with this SECRET_KEY") == 1


def test_missing_service_keys_can_be_made(root: Client) -> None:
    assert "no program can reach it" in root.get(KEYS).content.decode()
    assert root.get(f"{KEYS}service/").status_code == 405
    response = root.post(f"{KEYS}service/")
    assert "primary and a secondary key" in messages_of(root, response)
    made = list(AccessKey.objects.of_service().values_list("slot", flat=True))
    assert made == ["primary", "secondary"]
    kept = {key.text for key in AccessKey.objects.all()}
    root.post(f"{KEYS}service/")
    assert {key.text for key in AccessKey.objects.all()} == kept
    assert logged() == ["Made the key.", "Made the key."]


def test_keys_limited_to_a_hub(root: Client, keys: list[AccessKey]) -> None:
    response = root.post(f"{KEYS}add/", {"hub": "Partner"})
    assert "Hub partner has two keys of its own now" in messages_of(root, response)
    hub = Hub.objects.get(name="partner")
    assert [key.slot for key in hub.access_keys.all()] == ["primary", "secondary"]
    assert "has keys of its own already" in root.post(f"{KEYS}add/", {"hub": "PARTNER"}).content.decode()
    assert AccessKey.objects.count() == 4


@pytest.mark.parametrize("name", ["", "7up", "a/b", "h" * 129, "ä", "a\x00"])
def test_no_keys_for_a_hub_that_cannot_be(root: Client, name: str) -> None:
    response = root.post(f"{KEYS}add/", {"hub": name})
    assert response.status_code == 200
    assert response.context["form"].errors["hub"]
    assert not Hub.objects.exists()
    assert not AccessKey.objects.exists()


def test_adding_keys_does_not_add_hubs_for_everybody(staff: Callable[..., Client]) -> None:
    client = staff("view_accesskey", "add_accesskey")
    page = client.post(f"{KEYS}add/", {"hub": "fresh"}).content.decode()
    assert "your account may not add hubs" in page
    Hub.objects.create(name="there")
    assert client.post(f"{KEYS}add/", {"hub": "there"}).status_code == 302
    assert AccessKey.objects.count() == 2


def test_the_services_keys_cannot_be_deleted(root: Client, keys: list[AccessKey]) -> None:
    for ask in (root.get, root.post):
        answer = ask(f"{KEYS}{keys[0].pk}/delete/")
        assert "cannot be deleted: without them nobody could reach it" in messages_of(root, answer)
    # Nor by the action that other lists have.
    root.post(KEYS, {"action": "delete_selected", "_selected_action": [key.pk for key in keys], "post": "yes"})
    assert AccessKey.objects.count() == 2


def test_a_hubs_keys_are_deleted_together(root: Client, keys: list[AccessKey]) -> None:
    primary, _ = AccessKey.objects.ensure_pair(Hub.objects.create(name="partner"))
    page = root.get(f"{KEYS}{primary.pk}/delete/").content.decode()
    assert "Both keys that are limited to hub partner" in page
    assert AccessKey.objects.count() == 4
    response = root.post(f"{KEYS}{primary.pk}/delete/")
    assert "Hub partner has no keys of its own any more" in messages_of(root, response)
    assert set(AccessKey.objects.all()) == set(keys)
    assert Hub.objects.filter(name="partner").exists()
    assert LogEntry.objects.count() == 2


def test_many_hubs_with_keys_come_in_pages_and_can_be_searched(root: Client, keys: list[AccessKey]) -> None:
    for number in range(23):
        AccessKey.objects.ensure_pair(Hub.objects.create(name=f"hub{number:02}"))
    first, second = (root.get(KEYS, {"p": page}).content.decode() for page in (1, 2))
    assert ("Hub hub00" in first, "Hub hub22" in first) == (True, False)
    assert ("Hub hub00" in second, "Hub hub22" in second) == (False, True)
    found = root.get(KEYS, {"q": "HUB22"}).content.decode()
    assert ("Hub hub00" in found, "Hub hub22" in found) == (False, True)
    assert "No hub with “&lt;b&gt;”" in root.get(KEYS, {"q": "<b>"}).content.decode()
    assert root.get(KEYS, {"p": "x", "q": "y" * 5000}).status_code == 200


# Hubs


def inline_grants(*grants: dict[str, str]) -> dict[str, str]:
    data = {"role_grants-TOTAL_FORMS": str(len(grants)), "role_grants-INITIAL_FORMS": "0"}
    for others in ("event_handlers", "event_listeners"):
        data |= {f"{others}-TOTAL_FORMS": "0", f"{others}-INITIAL_FORMS": "0"}
    for number, grant in enumerate(grants):
        data |= {f"role_grants-{number}-{name}": value for name, value in grant.items()}
    return data


def test_hubs_are_listed_with_their_counts(root: Client) -> None:
    hub = Hub.objects.create(name="chat", anonymous_connect=True)
    Hub.objects.create(name="quiet")
    AccessKey.objects.ensure_pair(hub)
    for role in RoleGrant.Role.values:
        RoleGrant.objects.create(hub=hub, who="anonymous", role=role)
    RoleGrant.objects.create(hub=hub, who="authenticated", role="sendToGroup")
    response = root.get(HUBS)
    rows = {row.name: row for row in response.context["cl"].result_list}
    assert (rows["chat"].keys, rows["chat"].grants) == (2, 3)
    assert (rows["quiet"].keys, rows["quiet"].grants) == (0, 0)
    page = response.content.decode()
    assert "A hub need not be created first" in page
    assert ("allowed" in page, "denied" in page) == (True, True)
    with override_settings(WEBPUBSUB={"REQUIRE_KNOWN_HUBS": True}):
        assert "serves only the hubs listed here" in root.get(HUBS).content.decode()


def test_handlers_in_code_are_shown(root: Client) -> None:
    """The moderator of the demos is a function in code, with settings of its hub and without."""
    assert re.search(
        r"have event handlers in code:.*<code>moderated</code>", root.get(HUBS).content.decode(), re.DOTALL
    )
    hub = Hub.objects.create(name="moderated")
    other = Hub.objects.create(name="chat")
    page = root.get(HUBS).content.decode()
    assert "2 in code" in page
    assert "with event handlers in code" not in page
    page = root.get(f"{HUBS}{hub.pk}/change/").content.decode()
    rows = re.findall(r'<th scope="row"><code>(.*?)</code></th>\s*<td>(.*?)</td>\s*<td>(.*?)</td>', page)
    assert rows == [
        ("hubs.demos.moderation.come_in", "connect", "none"),
        ("hubs.demos.moderation.say", "none", "<code>say</code>"),
    ]
    assert "Functions in code" not in root.get(f"{HUBS}{other.pk}/change/").content.decode()


def test_a_hub_with_role_grants(root: Client) -> None:
    grants = inline_grants(
        {"who": "authenticated", "role": "joinLeaveGroup", "group_pattern": "room.*"},
        {"who": "user", "user": str(User.objects.get(username="root").pk), "role": "sendToGroup"},
    )
    response = root.post(f"{HUBS}add/", {"name": "Chat", "anonymous_connect": "on", **grants})
    assert response.status_code == 302
    hub = Hub.objects.get()
    assert (hub.name, hub.anonymous_connect) == ("chat", True)
    assert {grant.role_string for grant in hub.role_grants.all()} == {
        "webpubsub.joinLeaveGroups.room.*",
        "webpubsub.sendToGroup",
    }
    assert root.get(f"{HUBS}{hub.pk}/change/").status_code == 200


@pytest.mark.parametrize(
    ("name", "grant", "words"),
    [
        ("7up", {}, "Start with a letter"),
        ("CHAT", {}, "There is a hub chat already"),
        ("ok", {"who": "user", "role": "sendToGroup"}, "Choose the user"),
        ("ok", {"who": "anonymous", "role": "sendToGroup", "group_pattern": "bad\\"}, "Not a pattern"),
    ],
)
def test_a_hub_that_cannot_be(root: Client, name: str, grant: dict[str, str], words: str) -> None:
    Hub.objects.create(name="chat")
    response = root.post(f"{HUBS}add/", {"name": name, **inline_grants(*([grant] if grant else []))})
    assert response.status_code == 200
    assert words in html.unescape(response.content.decode())
    assert Hub.objects.count() == 1


def test_a_hub_is_deleted_with_its_keys(root: Client, keys: list[AccessKey]) -> None:
    hub = Hub.objects.create(name="partner")
    AccessKey.objects.ensure_pair(hub)
    page = root.get(f"{HUBS}{hub.pk}/delete/").content.decode()
    assert "primary key of hub partner" in page
    assert root.post(f"{HUBS}{hub.pk}/delete/", {"post": "yes"}).status_code == 302
    assert set(AccessKey.objects.all()) == set(keys)


# Event handlers and listeners, on their hub's page


def hub_form(hub: Hub | None, lists: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """What the hub's form sends: each list with the rows that are there, changed as said, and new ones behind them."""
    data = {"name": hub.name if hub else "chat", "role_grants-TOTAL_FORMS": "0", "role_grants-INITIAL_FORMS": "0"}
    for prefix in ("event_handlers", "event_listeners"):
        rows = lists.get(prefix, [])
        data |= {
            f"{prefix}-TOTAL_FORMS": str(len(rows)),
            f"{prefix}-INITIAL_FORMS": str(sum("id" in row for row in rows)),
        }
        for number, row in enumerate(rows):
            data |= {f"{prefix}-{number}-{name}": str(value) for name, value in row.items()}
            if hub:
                data[f"{prefix}-{number}-hub"] = str(hub.pk)
    return data


def save_hub(client: Client, hub: Hub | None = None, **lists: list[dict[str, Any]]) -> Any:
    return client.post(f"{HUBS}{hub.pk}/change/" if hub else f"{HUBS}add/", hub_form(hub, lists))


def words_of(response: Any) -> str:
    return html.unescape(response.content.decode())


def a_handler(hub: Hub, token: str = "", **fields: Any) -> EventHandler:
    handler = EventHandler(hub=hub, **{"url_template": "https://a.example/{event}", **fields})
    handler.token = token
    handler.save()
    return handler


def test_a_hub_is_made_with_handlers_and_listeners(root: Client) -> None:
    response = save_hub(
        root,
        event_handlers=[
            {"url_template": "https://a.example/{event}", "on_connect": "on", "auth_type": "none", "enabled": "on"},
            {
                "url_template": "https://b.example/",
                "user_event_pattern": "*",
                "auth_type": "bearer",
                "new_token": "s3cret-t0ken",
            },
        ],
        event_listeners=[
            {
                "kind": "redis_stream",
                "url": "redis://a.example",
                "stream": "s",
                "auth_type": "password",
                "new_token": "p w",
                "enabled": "on",
            }
        ],
    )
    assert response.status_code == 302, words_of(response)
    first, second = EventHandler.objects.all()
    assert (first.url_template, first.system_events, first.enabled) == ("https://a.example/{event}", ["connect"], True)
    assert (second.user_event_pattern, second.authorization, second.enabled) == ("*", "Bearer s3cret-t0ken", False)
    assert EventListener.objects.get().authorization == "p w"
    page = root.get(f"{HUBS}{first.hub_id}/change/").content.decode()
    assert "https://b.example/" in page
    assert "It is not shown again; to keep it, leave this empty." in page
    for response in (page, root.get(f"{HUBS}{first.hub_id}/history/").content.decode()):
        assert "s3cret" not in response
        assert first.hub.event_listeners.get().encrypted_token not in response


def test_a_token_is_kept_replaced_and_forgotten(root: Client) -> None:
    hub = Hub.objects.create(name="chat")
    row = a_handler(hub, "old", auth_type="bearer")
    same = {"id": row.pk, "url_template": "https://a.example/other/{event}", "auth_type": "bearer", "enabled": "on"}
    assert save_hub(root, hub, event_handlers=[same]).status_code == 302
    assert EventHandler.objects.get().authorization == "Bearer old"
    assert save_hub(root, hub, event_handlers=[{**same, "new_token": "new"}]).status_code == 302
    assert EventHandler.objects.get().authorization == "Bearer new"
    assert all("new" not in line.replace("new_token", "") for line in logged())
    assert save_hub(root, hub, event_handlers=[{**same, "auth_type": "none"}]).status_code == 302
    assert EventHandler.objects.get().encrypted_token == ""


def test_a_token_does_not_go_along_to_another_host(root: Client) -> None:
    """Whoever may change the address could have it sent to themselves."""
    hub = Hub.objects.create(name="chat")
    row = a_handler(hub, "old", auth_type="bearer")
    moved = {"id": row.pk, "url_template": "https://b.example/{event}", "auth_type": "bearer", "enabled": "on"}
    refused = save_hub(root, hub, event_handlers=[moved])
    assert "enter what that host is to get" in words_of(refused)
    assert EventHandler.objects.get().url_template == "https://a.example/{event}"
    assert save_hub(root, hub, event_handlers=[{**moved, "new_token": "for b"}]).status_code == 200, "no spaces"
    assert save_hub(root, hub, event_handlers=[{**moved, "new_token": "for-b"}]).status_code == 302
    assert EventHandler.objects.get().authorization == "Bearer for-b"


def test_handlers_are_put_in_order_and_new_ones_come_last(root: Client) -> None:
    hub = Hub.objects.create(name="chat")
    rows = [a_handler(hub, url_template=f"https://{name}.example/", position=n) for n, name in enumerate("ab")]
    dragged = [
        {"id": row.pk, "url_template": row.url_template, "auth_type": "none", "position": place}
        for row, place in zip(rows, (1, 0), strict=True)
    ]
    new = [{"url_template": f"https://{name}.example/", "auth_type": "none", "position": ""} for name in "cd"]
    assert save_hub(root, hub, event_handlers=[*dragged, *new]).status_code == 302
    assert "".join(row.url_template[8] for row in EventHandler.objects.all()) == "bacd"
    a_handler(hub, url_template="https://e.example/", position=-0)
    assert {row.url_template[8] for row in EventHandler.objects.all()} == set("abcde")


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"event_handlers": [{"url_template": "ftp://a", "auth_type": "none"}]}, "Start with http:// or https://."),
        ({"event_handlers": [{"url_template": "", "auth_type": "none", "on_connect": "on"}]}, "This field is required"),
        ({"event_handlers": [{"url_template": "https://a", "auth_type": "bearer"}]}, "Give the token too."),
        (
            {"event_handlers": [{"url_template": "https://a", "auth_type": "none", "user_event_pattern": "a b"}]},
            "Put commas between names.",
        ),
        (
            {"event_listeners": [{"kind": "redis_stream", "url": "redis://a", "auth_type": "none"}]},
            "A stream's name has 1 to 256",
        ),
        (
            {"event_listeners": [{"kind": "webhook", "url": "https://a", "auth_type": "password", "new_token": "x"}]},
            "A webhook takes a bearer token",
        ),
        (
            {"event_listeners": [{"kind": "webhook", "url": "https://a", "auth_type": "none"}] * 8},
            "at most 10 event listeners, and other hubs have 3",
        ),
    ],
)
def test_what_cannot_be_is_said_beside_the_field(root: Client, lists: dict[str, Any], words: str) -> None:
    other = Hub.objects.create(name="other")
    for _ in range(3):
        EventListener.objects.create(hub=other, kind="webhook", url="https://l.example/")
    response = save_hub(root, **lists)
    assert response.status_code == 200
    assert words in words_of(response)
    assert [hub.name for hub in Hub.objects.all()] == ["other"]


def test_an_eleventh_listener_may_take_the_place_of_another(root: Client) -> None:
    hub = Hub.objects.create(name="chat")
    rows = [EventListener.objects.create(hub=hub, kind="webhook", url=f"https://l{n}.example/") for n in range(10)]
    there = [{"id": row.pk, "kind": "webhook", "url": row.url, "auth_type": "none"} for row in rows]
    new = {"kind": "webhook", "url": "https://new.example/", "auth_type": "none"}
    assert "at most 10" in words_of(save_hub(root, hub, event_listeners=[*there, new]))
    gone = {**there[0], "DELETE": "on"}
    assert save_hub(root, hub, event_listeners=[gone, *there[1:], new]).status_code == 302
    assert EventListener.objects.count() == 10
    assert EventListener.objects.filter(url="https://new.example/").exists()


def test_who_may_look_at_the_hub_may_look_at_them(staff: Callable[..., Client]) -> None:
    hub = Hub.objects.create(name="chat")
    a_handler(hub, "s3cret", auth_type="bearer")
    client = staff("view_hub")
    page = client.get(f"{HUBS}{hub.pk}/change/").content.decode()
    assert "https://a.example/{event}" in page
    assert "s3cret" not in page
    assert "new_token" not in page
    assert save_hub(client, hub, event_handlers=[]).status_code == 403


def test_who_may_change_the_hub_may_change_them(staff: Callable[..., Client]) -> None:
    hub = Hub.objects.create(name="chat")
    row = a_handler(hub)
    client = staff("change_hub")
    new = {"url_template": "https://b.example/", "auth_type": "none"}
    gone = {"id": row.pk, "url_template": row.url_template, "auth_type": "none", "DELETE": "on"}
    assert save_hub(client, hub, event_handlers=[gone, new]).status_code == 302
    assert EventHandler.objects.get().url_template == "https://b.example/"


def test_a_hub_is_found_by_the_addresses_of_its_handlers(root: Client) -> None:
    a_handler(Hub.objects.create(name="chat"))
    a_handler(Hub.objects.get(name="chat"), url_template="https://a.example/2")
    Hub.objects.create(name="other")
    rows = root.get(f"{HUBS}?q=a.example").context["cl"].result_list
    assert [(row.name, row.handlers) for row in rows] == [("chat", 2)]


def a_call(**fields: Any) -> HandlerCall:
    return HandlerCall.objects.create(
        **{
            "hub": "chat",
            "event": "connect",
            "handler": "https://a.example/{event}",
            "connection_id": "c1",
            "outcome": "succeeded",
            "duration_ms": 12,
            **fields,
        }
    )


def test_calls_are_listed_newest_first_filtered_and_found(root: Client) -> None:
    old = a_call(when=timezone.now() - timedelta(minutes=1), status=204)
    failed = a_call(event="user.message", outcome="failed", status=500, problem="It answered <500>.", attempts=4)
    a_call(hub="other", outcome="refused", status=401, connection_id="c2")
    page = root.get(CALLS)
    assert [row.pk for row in page.context["cl"].result_list][-1] == old.pk
    assert "It answered &lt;500&gt;." in page.content.decode()
    for query, count in (
        ("hub=chat", 2),
        ("outcome__exact=failed", 1),
        ("event=connect", 2),
        ("q=c2", 1),
        ("hub=chat&outcome__exact=refused", 0),
    ):
        assert len(root.get(f"{CALLS}?{query}").context["cl"].result_list) == count, query
    detail = root.get(f"{CALLS}{failed.pk}/change/").content.decode()
    assert "It answered &lt;500&gt;." in detail


def test_calls_are_for_reading(root: Client) -> None:
    call = a_call()
    assert root.get(f"{CALLS}add/").status_code == 403
    assert root.post(f"{CALLS}{call.pk}/change/", {"outcome": "failed"}).status_code == 403
    assert root.post(f"{CALLS}{call.pk}/delete/", {"post": "yes"}).status_code == 403
    assert HandlerCall.objects.get().outcome == "succeeded"


def test_a_hubs_page_leads_to_its_calls(root: Client, staff: Callable[..., Client]) -> None:
    hub = Hub.objects.create(name="chat,[1]")
    link = f"{HUBS}{hub.pk}/handler-calls/"
    assert link in root.get(f"{HUBS}{hub.pk}/change/").content.decode()
    assert root.get(link).headers["Location"] == f"{CALLS}?hub=chat%2C%5B1%5D"
    assert root.get(f"{HUBS}999/handler-calls/").status_code == 404
    client = staff("view_hub")
    assert link not in client.get(f"{HUBS}{hub.pk}/change/").content.decode()
    assert client.get(link).status_code == 403
    assert client.get(CALLS).status_code == 403


# Role grants


def grant_by_form(client: Client, **fields: Any) -> Any:
    return client.post(f"{GRANTS}add/", {name: str(value) for name, value in fields.items()})


def test_grants_are_listed_filtered_and_found(root: Client) -> None:
    ann, group = User.objects.create_user("ann"), Group.objects.create(name="editors")
    hub = Hub.objects.create(name="news")
    RoleGrant.objects.create(who="user", user=ann, role="sendToGroup", group_pattern="room.*")
    RoleGrant.objects.create(who="group", group=group, role="joinLeaveGroup", hub=hub)
    RoleGrant.objects.create(who="anonymous", role="joinLeaveGroup", group_pattern="lobby", join_at_connect=True)

    def found(**query: str) -> set[str]:
        return {str(row) for row in root.get(GRANTS, query).context["cl"].result_list}

    page = root.get(GRANTS).content.decode()
    for words in ("User ann", "Group editors", "Visitors who are not signed in", "every hub", "news", "every group"):
        assert words in page
    of_ann, of_editors = "user ann may send to groups: room.*", "group editors may join and leave groups: all"
    assert found(q="ann") == {of_ann}
    assert found(q="editors") == {of_editors}
    assert found(q="room.") == {of_ann}
    assert found(q="news") == {of_editors}
    assert found(who__exact="user") == {of_ann}
    assert found(hub__id__exact=str(hub.pk)) == {of_editors}


def test_grants_by_form(root: Client) -> None:
    ann, group = User.objects.create_user("ann"), Group.objects.create(name="editors")
    assert grant_by_form(root, who="user", user=ann.pk, role="sendToGroup", group_pattern="a.**").status_code == 302
    assert grant_by_form(root, who="group", group=group.pk, role="joinLeaveGroup").status_code == 302
    response = grant_by_form(root, who="anonymous", role="joinLeaveGroup", group_pattern="lobby", join_at_connect="on")
    assert response.status_code == 302
    assert {grant.role_string for grant in RoleGrant.objects.all()} == {
        "webpubsub.sendToGroups.a.**",
        "webpubsub.joinLeaveGroup",
        "webpubsub.joinLeaveGroup.lobby",
    }


BAD_GRANTS: list[tuple[str, dict[str, Any]]] = [
    ("who", {"who": "everybody"}),
    ("who", {"who": ""}),
    ("role", {"role": "admin"}),
    ("user", {"who": "user"}),
    ("group", {"who": "group"}),
    ("user", {"user": "root"}),
    ("user", {"who": "user", "user": "999999"}),
    ("group_pattern", {"group_pattern": "a*b*c*d*e*f*"}),
    ("group_pattern", {"group_pattern": "\\x"}),
    ("group_pattern", {"group_pattern": "g" * 1025}),
    ("join_at_connect", {"join_at_connect": "on"}),
    ("join_at_connect", {"join_at_connect": "on", "group_pattern": "room.*"}),
    ("join_at_connect", {"join_at_connect": "on", "group_pattern": "lobby", "role": "sendToGroup"}),
]


@pytest.mark.parametrize(("field", "fields"), BAD_GRANTS)
def test_a_grant_that_makes_no_sense(root: Client, field: str, fields: dict[str, Any]) -> None:
    data = {"who": "authenticated", "role": "joinLeaveGroup", **fields}
    if data.get("user") == "root":
        data["user"] = User.objects.get(username="root").pk
    response = grant_by_form(root, **data)
    assert response.status_code == 200
    assert field in response.context["adminform"].form.errors
    assert not RoleGrant.objects.exists()


@pytest.mark.parametrize(("field", "text"), [("user", "root"), ("group", "editors"), ("hub", "news")])
def test_people_and_hubs_are_found_while_typing(root: Client, field: str, text: str) -> None:
    Group.objects.create(name="editors")
    Hub.objects.create(name="news")
    query = {"app_label": "hubs", "model_name": "rolegrant", "field_name": field, "term": text[:3]}
    results = root.get("/admin/autocomplete/", query).json()["results"]
    assert [result["text"] for result in results] == [text]


# API tokens


def test_api_tokens_are_masked(root: Client) -> None:
    token = Token.objects.create(user=User.objects.create_user("ann"))
    for page in (TOKENS, f"{TOKENS}{token.user_id}/change/", f"{TOKENS}{token.user_id}/delete/", f"{TOKENS}?q=ann"):
        content = root.get(page).content.decode()
        assert "ann" in content
        assert token.key not in content
    response = root.post(f"{TOKENS}{token.user_id}/secret/", {"what": "token", "act": "reveal"})
    assert response.json() == {"secret": token.key}
    assert logged() == ["Revealed the API token."]
    assert "data-reveal" in root.get(TOKENS).content.decode()


def test_an_api_token_is_nowhere_written_when_it_is_made_or_goes(root: Client) -> None:
    ann = User.objects.create_user("ann")
    response = root.post(f"{TOKENS}add/", {"user": str(ann.pk)})
    key = Token.objects.get(user=ann).key
    assert key not in messages_of(root, response)
    assert key not in root.get(f"/admin/auth/user/{ann.pk}/delete/").content.decode()
    response = root.post(f"{TOKENS}{ann.pk}/delete/", {"post": "yes"})
    assert key not in messages_of(root, response)
    assert LogEntry.objects.count() == 2
    assert {entry.object_repr for entry in LogEntry.objects.all()} == {"API token of ann"}


def test_who_may_view_api_tokens_sees_masks_only(staff: Callable[..., Client]) -> None:
    token = Token.objects.create(user=User.objects.create_user("ann"))
    client = staff("view_tokenproxy")
    content = client.get(TOKENS).content.decode()
    assert re.search(rf"{token.key[:4]}•+{token.key[-4:]}", content)
    assert "data-reveal" not in content
    response = client.post(f"{TOKENS}{token.user_id}/secret/", {"what": "token", "act": "reveal"})
    assert response.status_code == 403
    assert token.key not in response.content.decode()


@pytest.fixture
def others() -> dict[str, User]:
    """Accounts with one permission more than nothing: of their own, by a group, or as superusers."""
    permission = Permission.objects.get(codename="change_accesskey")
    by_itself, by_group = User.objects.create_user("by itself"), User.objects.create_user("by group", is_active=False)
    by_itself.user_permissions.add(permission)
    group = Group.objects.create(name="keepers")
    group.permissions.add(permission)
    by_group.groups.add(group)
    superuser = User.objects.create_superuser("chief", "chief@example.com", "kept")
    plain = User.objects.create_user("plain")
    return {user.username: user for user in (by_itself, by_group, superuser, plain)}


def test_nobody_gets_the_api_token_of_somebody_who_may_do_more(
    staff: Callable[..., Client], others: dict[str, User]
) -> None:
    client = staff("view_tokenproxy", "add_tokenproxy", "change_tokenproxy", "delete_tokenproxy", "view_user")
    pat = User.objects.get(username="pat")
    more = [others[name] for name in ("by itself", "by group", "chief")]
    for user in more:
        response = client.post(f"{TOKENS}add/", {"user": str(user.pk)})
        assert response.status_code == 200
        assert not Token.objects.filter(user=user).exists()
        token = Token.objects.create(user=user)
        assert client.post(f"{TOKENS}{user.pk}/secret/", {"what": "token", "act": "reveal"}).status_code == 404
        assert client.get(f"{TOKENS}{user.pk}/change/").status_code == 302
        assert client.post(f"{TOKENS}{user.pk}/delete/", {"post": "yes"}).status_code == 302
        assert token.key[:4] not in client.get(TOKENS).content.decode()
    assert Token.objects.count() == 3
    for user in (others["plain"], pat):
        assert client.post(f"{TOKENS}add/", {"user": str(user.pk)}).status_code == 302
        key = client.post(f"{TOKENS}{user.pk}/secret/", {"what": "token", "act": "reveal"}).json()["secret"]
        assert key == Token.objects.get(user=user).key
    # Nor by giving one's own token to them.
    assert client.post(f"{TOKENS}{pat.pk}/change/", {"user": str(others["chief"].pk)}).status_code == 200
    assert Token.objects.get(user=others["chief"]).key != Token.objects.get(user=pat).key


def test_who_holds_the_same_may_see_the_token(staff: Callable[..., Client], others: dict[str, User]) -> None:
    client = staff("view_tokenproxy", "change_tokenproxy", "change_accesskey")
    for name, status in (("by itself", 200), ("by group", 200), ("chief", 404)):
        Token.objects.create(user=others[name])
        response = client.post(f"{TOKENS}{others[name].pk}/secret/", {"what": "token", "act": "reveal"})
        assert response.status_code == status


# People


def test_a_user_is_made_and_gets_a_password(root: Client) -> None:
    password = "correct horse battery"
    fields = {"username": "ann", "usable_password": "true", "password1": password, "password2": password}
    assert root.post("/admin/auth/user/add/", fields).status_code == 302
    ann = User.objects.get(username="ann")
    assert ann.check_password(password)
    for page in (f"/admin/auth/user/{ann.pk}/change/", f"/admin/auth/user/{ann.pk}/password/"):
        assert root.get(page).status_code == 200


def test_a_password_is_not_set_by_somebody_who_may_do_less(
    staff: Callable[..., Client], others: dict[str, User]
) -> None:
    client = staff("view_user", "add_user", "change_user", "delete_user")
    fields = {"usable_password": "true", "password1": "correct horse battery", "password2": "correct horse battery"}
    for name, user in others.items():
        may = name == "plain"
        assert client.post(f"/admin/auth/user/{user.pk}/password/", fields).status_code == (302 if may else 403)
        user.refresh_from_db()
        assert user.check_password("correct horse battery") is may
        email = {"username": user.username, "email": "mine@example.com", "date_joined_0": "2026-01-01"}
        response = client.post(f"/admin/auth/user/{user.pk}/change/", email | {"date_joined_1": "00:00"})
        assert response.status_code == (302 if may else 403)
        user.refresh_from_db()
        assert (user.email == "mine@example.com") is may
    every = {"action": "delete_selected", "_selected_action": [user.pk for user in others.values()], "post": "yes"}
    assert client.post("/admin/auth/user/", every).status_code == 403
    response = client.post(f"/admin/auth/user/{others['plain'].pk}/delete/", {"post": "yes"})
    assert set(User.objects.values_list("username", flat=True)) == {"pat", "by itself", "by group", "chief"}


def test_flags_and_permissions_are_given_by_superusers(staff: Callable[..., Client], others: dict[str, User]) -> None:
    client = staff("view_user", "add_user", "change_user")
    pat = User.objects.get(username="pat")
    wished = {
        "is_active": "on",
        "is_staff": "on",
        "is_superuser": "on",
        "groups": [str(group.pk) for group in Group.objects.all()],
        "user_permissions": [str(Permission.objects.get(codename="change_accesskey").pk)],
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00",
    }
    for user in (pat, others["plain"]):
        page = client.get(f"/admin/auth/user/{user.pk}/change/").content.decode()
        for name in ("is_staff", "is_superuser", "groups", "user_permissions"):
            assert f'name="{name}"' not in page
        response = client.post(f"/admin/auth/user/{user.pk}/change/", {"username": user.username} | wished)
        assert response.status_code == 302
        user = User.objects.get(pk=user.pk)
        assert (user.is_staff, user.is_superuser) == (user == pat, False)
        assert not user.groups.exists()
        assert not user.has_perm("hubs.change_accesskey")
    client.force_login(others["chief"])
    assert 'name="user_permissions"' in client.get(f"/admin/auth/user/{pat.pk}/change/").content.decode()
    client.post(f"/admin/auth/user/{pat.pk}/change/", {"username": "pat"} | wished)
    assert User.objects.get(username="pat").is_superuser


def test_a_group_gets_only_what_one_holds(staff: Callable[..., Client], others: dict[str, User]) -> None:
    client = staff("view_group", "add_group", "change_group", "delete_group")
    mine, other = (Permission.objects.get(codename=name) for name in ("view_group", "change_accesskey"))
    assert client.post("/admin/auth/group/add/", {"name": "g", "permissions": [str(other.pk)]}).status_code == 200
    assert client.post("/admin/auth/group/add/", {"name": "g", "permissions": [str(mine.pk)]}).status_code == 302
    assert list(Group.objects.get(name="g").permissions.all()) == [mine]
    keepers = Group.objects.get(name="keepers")
    assert client.post(f"/admin/auth/group/{keepers.pk}/change/", {"name": "mine"}).status_code == 403
    assert client.post(f"/admin/auth/group/{keepers.pk}/delete/", {"post": "yes"}).status_code == 403
    client.force_login(others["chief"])
    assert client.post("/admin/auth/group/add/", {"name": "h", "permissions": [str(other.pk)]}).status_code == 302


def test_failed_sign_ins_that_redis_counts_are_not_said_to_be_forgotten_while_it_is_away(
    staff: Callable[..., Client], others: dict[str, User], settings: Any
) -> None:
    client = staff("view_user", "change_user")
    away = {"BACKEND": "hubs.redis_cache.RedisCache", "LOCATION": f"redis://127.0.0.1:{free_port()}/0"}
    settings.CACHES = {"default": away}
    chosen = {"action": "forget_failed_sign_ins", "_selected_action": [others["plain"].pk]}
    text = messages_of(client, client.post("/admin/auth/user/", chosen))
    assert "Redis cannot be used" in text
    assert "forgotten for" not in text


def test_failed_sign_ins_are_forgotten(staff: Callable[..., Client], others: dict[str, User]) -> None:
    def waits(name: str) -> bool:
        try:
            sign_in.Attempt(name, "192.0.2.1").begin()
        except sign_in.TooManyFailures:
            return True
        return False

    for store in caches.all():
        store.clear()
    assert [waits(name) for name in ("plain", "chief") for _ in range(6)].count(True) == 2
    client = staff("view_user", "change_user")
    chosen = [others[name].pk for name in ("plain", "chief")]
    response = client.post("/admin/auth/user/", {"action": "forget_failed_sign_ins", "_selected_action": chosen})
    text = messages_of(client, response)
    assert "forgotten for: plain." in text
    assert "You may not change some of these accounts." in text
    assert [waits("plain"), waits("chief")] == [False, True]
    for store in caches.all():
        store.clear()
