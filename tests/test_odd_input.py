"""What is deep, odd or unreadable is refused at every HTTP door, and never a fault of ours.

The database here is SQLite, which keeps a NUL. PostgreSQL fails on one, and so does every statement here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib import admin
from django.contrib.admin.exceptions import DisallowedModelAdminLookup
from django.contrib.auth import get_user_model
from django.db import DataError, connection
from django.test import Client, RequestFactory
from rest_framework.authtoken.models import Token
from unfold.dataclasses import SearchResult

from hubs import changelists
from hubs.manage_api.table import ROWS
from hubs.models import AccessKey, Hub
from pubsub_site.cache_values import JsonSerializer

pytestmark = pytest.mark.django_db

DEEP = "[" * 10_000 + "]" * 10_000
DEEP_OBJECT = '{"a":' * 10_000 + "1" + "}" * 10_000
BODIES = [
    DEEP,
    DEEP_OBJECT,
    f'{{"userId":{DEEP}}}',
    f'{{"properties":{DEEP_OBJECT}}}',
    f'{{"properties":{{"eventHandlers":{DEEP}}}}}',
    '{"userId":"\\ud800"}',
    '{"userId":"a\\u0000b"}',
    '{"hub":"\\ud800"}',
    '{"\\ud800":1}',
    '{"properties":{"user":"a\\u0000b","role":"webpubsub.sendToGroup.\\u0000"}}',
    '{"properties":{"who":"user","user":"\\ud800","permission":"sendToGroup","groupPattern":"\\u0000"}}',
    '{"properties":{"eventHandlers":[{"urlTemplate":"http://x/\\u0000","userEventPattern":"\\u0000"}]}}',
    '{"userId":' + "9" * 5000 + "}",
    '{"userId":1e999}',
    "\x00",
    '"\\ud800"',
]
VALUES = ["%00", "a%00b", "%FF%FE", "%ED%A0%80", "9" * 20, "-" + "9" * 25, "9" * 400, "NaN", "%EF%BF%BF", "%D9%A3"]
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(autouse=True)
def postgresqls_rule(settings: Any) -> Iterator[None]:
    """Fail a statement that PostgreSQL would fail on, and do not count calls."""
    rates = dict.fromkeys(("NEGOTIATE_RATE_ANONYMOUS", "NEGOTIATE_RATE_USER", "MANAGE_RATE"))
    settings.WEBPUBSUB = {**settings.WEBPUBSUB, **rates}

    def judged(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if r"\x00" in repr(params):
            raise DataError(f"{sql} with {params!r}")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(judged):
        yield


@pytest.fixture
def visitor(keys: list[AccessKey]) -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def staff(fresh_settings: None, keys: list[AccessKey]) -> Client:
    user = get_user_model().objects.create_superuser("root")
    Hub.objects.create(name="chat", anonymous_user_ids=True)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    client.defaults["HTTP_AUTHORIZATION"] = f"Token {Token.objects.create(user=user).key}"
    return client


def path_of(row: Any, hub: str = "chat", grant: str = "1") -> str:
    names = {"hub": hub, "grant": grant}
    path = re.sub(r"\{(\w+)\}", lambda found: names["hub" if "hub" in found[1].lower() else "grant"], row.path)
    return f"/{path.lstrip('/')}"


def check(client: Client, method: str, path: str, **more: Any) -> int:
    response = client.generic(method, path, **more)
    assert response.status_code < 500, (method, path[:100], str(more)[:100], response.content[:500])
    return response.status_code


@pytest.mark.parametrize("body", BODIES, ids=lambda body: ascii(body)[:40])
def test_bodies(staff: Client, visitor: Client, body: str) -> None:
    for path in ("/api/negotiate/chat", "/negotiate"):
        # What negotiate does not ask for is ignored, as everywhere.
        assert check(visitor, "POST", path, data=body, content_type=JSON) in (200, 400, 413)
    for row in ROWS:
        path = path_of(row)
        if row.method in ("PUT", "POST", "PATCH"):
            check(staff, row.method, path, data=body, content_type=JSON)


def test_deep_bodies_are_the_callers_fault(staff: Client, visitor: Client) -> None:
    for body in ("[" * 10_000, '{"userId":' + "[" * 10_000, '{"properties":' + "[" * 10_000):
        assert check(visitor, "POST", "/api/negotiate/chat", data=body, content_type=JSON) == 400
        assert check(staff, "PUT", "/manage/api/hubs/deep", data=body, content_type=JSON) == 400


@pytest.mark.parametrize("value", VALUES, ids=lambda value: value[:12])
def test_queries_and_paths(staff: Client, visitor: Client, value: str) -> None:
    for path in ("/api/negotiate/chat?userId=", "/api/negotiate?hub=", "/negotiate?", "/api/negotiate/", "/?"):
        check(visitor, "GET", path + value)
    for path in (
        "/admin/login/?next=",
        "/admin/client-url/?hub=",
        "/admin/jsi18n/?",
        "/admin/search/?s=",
        "/admin/r/1/",
    ):
        check(staff, "GET", path + value)
    for row in ROWS:
        if row.method == "GET":
            for name in ("maxpagesize", "top", "continuationToken"):
                check(staff, "GET", f"{path_of(row)}?{name}={value}")
            check(staff, "GET", path_of(row, value, value))
    check(visitor, "GET", f"/api/hubs/{value}/groups/{value}/connections?top={value}")
    check(visitor, "GET", f"/static/{value}")


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.model_name)
def test_admin(staff: Client, model: Any) -> None:
    base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    fields = [field.name for field in model._meta.fields]
    for value in ("%00", "9" * 20, "%FF"):
        names = ["q", "p", "id__in", "_to_field", *fields]
        for name in names:
            check(staff, "GET", f"{base}?{name}={value}")
        check(staff, "GET", f"{base}add/?{fields[-1]}={value}")
        check(staff, "GET", f"{base}{value}/change/")
        form = "&".join(f"{name}={value}" for name in [*fields, "action", "_selected_action", "index", "password1"])
        for path in (base, f"{base}add/"):
            check(staff, "POST", path, data=form, content_type=FORM)


@pytest.mark.parametrize("value", ["\x00", "a\x00b", "\xff", "é", "é.é.é", "a" * 10_000], ids=ascii)
def test_headers(visitor: Client, value: str) -> None:
    for scheme in ("Token", "Bearer", "Basic"):
        for path in ("/api/negotiate/chat", "/manage/api/hubs", "/api/hubs/chat/:send"):
            given = {"HTTP_AUTHORIZATION": f"{scheme} {value}"}
            assert check(visitor, "POST", path, data="{}", content_type=JSON, **given) in (200, 401)
    for name in ("COOKIE", "X_FORWARDED_FOR", "ACCEPT_LANGUAGE", "REFERER", "ORIGIN", "ACCEPT", "IF_MODIFIED_SINCE"):
        for path in ("/", "/admin/login/", "/negotiate"):
            check(visitor, "GET", path, **{f"HTTP_{name}": value})


@pytest.mark.parametrize("key", [r'"\000abcdefgh"', r'"abcdefgh\000"', "\xff" * 32, quote("\x00" * 9), "x" * 5000])
def test_session_cookies(visitor: Client, key: str) -> None:
    for path in ("/admin/", "/admin/login/", "/api/negotiate/chat", "/manage/api/hubs"):
        check(visitor, "GET", path, HTTP_COOKIE=f"sessionid={key}; csrftoken={key}")


def test_sign_in_forms(visitor: Client) -> None:
    for name in ("%00", "a%00b", "%FF", "%ED%A0%80", "x" * 10_000):
        form = f"username={name}&password={name}&next={name}"
        check(visitor, "POST", f"/admin/login/?next={name}", data=form, content_type=FORM)


# What the lists of the admin may be filtered by

SLOW = "^(((((((.?)*)*)*)*)*)*)*Z"


@pytest.mark.parametrize("model", admin.site._registry, ids=lambda model: model._meta.model_name)
def test_lists_take_only_lookups_of_their_own_pages(staff: Client, model: Any) -> None:
    if model is AccessKey:
        return  # has a page of its own, which reads q and p alone
    base = f"/admin/{model._meta.app_label}/{model._meta.model_name}/"
    for field in model._meta.get_fields():
        for lookup, value in (("regex", "("), ("regex", SLOW), ("range", "1"), ("startswith", "1")):
            response = staff.get(base, {f"{field.name}__{lookup}": value})
            # Redirected where Django finds no such field to filter by.
            assert response.status_code == 400 or response.headers["Location"].endswith("?e=1"), (field, lookup)
    for query in ("e=1", "o=1.-2", "p=1", "all=", "_popup=1", "_facets=True", "q=x"):
        if model._meta.model_name != "tokenproxy" or "popup" not in query:
            assert staff.get(f"{base}?{query}").status_code in (200, 302), query


@pytest.mark.parametrize(
    "query",
    [
        "auth/user/?username=root",
        "auth/user/?auth_token__key__regex=^[0-7]",
        "auth/user/?auth_token__key=x",
        "auth/user/?auth_token__pk__startswith=c",
        "auth/user/?auth_token=x",
        "auth/user/?password__startswith=pbkdf2",
        "auth/user/?logentry__pk__regex=1",
        "authtoken/tokenproxy/?key__startswith=c",
        "authtoken/tokenproxy/?key=c",
        "authtoken/tokenproxy/?pk__regex=c",
        "authtoken/tokenproxy/?user__auth_token__key__regex=c",
        "authtoken/tokenproxy/?_popup=1",
        "authtoken/tokenproxy/?_to_field=key",
        "hubs/hub/?event_handlers__encrypted_token__startswith=g",
        "hubs/hub/?access_keys__pk__regex=1",
        f"hubs/hub/?name__regex={SLOW}",
        "hubs/rolegrant/?user__password__startswith=p",
    ],
)
def test_secrets_cannot_be_asked_for(staff: Client, caplog: pytest.LogCaptureFixture, query: str) -> None:
    response = staff.get(f"/admin/{query}")
    assert response.status_code == 400, response.status_code
    assert [record.name.rpartition(".")[0] for record in caplog.records][:1] == ["django.security"]


@pytest.mark.parametrize(
    "query",
    [
        "auth/user/?is_staff__exact=1&is_superuser__exact=1",
        "auth/user/?groups__id__exact=1",
        "hubs/hub/?anonymous_connect__exact=0",
        "hubs/handlercall/?hub=chat&outcome__exact=failed&event=connect",
        "hubs/rolegrant/?hub__id__exact=1&role__exact=x",
        "hubs/rolegrant/?hub__isnull=True",
        "authtoken/tokenproxy/?created__gte=2026-01-01+00:00:00%2B00:00&created__lt=2026-02-01+00:00:00%2B00:00",
    ],
)
def test_filters_work(staff: Client, query: str) -> None:
    response = staff.get(f"/admin/{query}")
    assert response.status_code == 200, response.headers


def test_other_apps_lists_are_bounded_and_their_popups_work(staff: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    class DatedAdmin(admin.ModelAdmin):
        date_hierarchy = "created_at"

    site = admin.AdminSite()
    site.register(Hub, DatedAdmin)
    changelists.bound(site)
    site.get_urls()
    site.get_urls()
    model_admin = site._registry[Hub]
    monkeypatch.setattr(Hub._meta, "related_fkey_lookups", [{"anonymous_connect": True, "name__startswith": "c"}])

    def found(query: str) -> int:
        request = RequestFactory().get(f"/?{query}")
        request.user = get_user_model().objects.get()
        return int(model_admin.get_changelist_instance(request).result_count)

    assert found("created_at__year=2001") == 0
    assert found("name__startswith=c") == 1
    assert found("name__startswith=c&anonymous_connect=1") == 0
    for query in ("name__startswith=d", "name__startswith=c&name__startswith=d", "name__regex=c", "updated_at__day=1"):
        with pytest.raises(DisallowedModelAdminLookup):
            found(query)


@pytest.mark.parametrize("page", ["x", "", "0", "-1", "9" * 20, "1.5"])
def test_pages_of_the_search_that_are_none(staff: Client, caplog: pytest.LogCaptureFixture, page: str) -> None:
    for extended in ("", "&extended=1"):
        assert staff.get(f"/admin/search/?s=a&page={page}{extended}").status_code == 400
    assert not any(record.exc_info for record in caplog.records)


def test_what_the_search_found_can_be_kept_in_redis(staff: Client) -> None:
    results = [SearchResult(title="Hubs", description="Web PubSub", link="/admin/hubs/hub/", icon="tag")]
    serializer = JsonSerializer()
    assert serializer.loads(serializer.dumps(results))[0]["link"] == "/admin/hubs/hub/"
    with pytest.raises(TypeError):
        serializer.dumps([object()])
