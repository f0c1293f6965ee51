"""The demo pages as the server sends them."""

from __future__ import annotations

import html
import re

import pytest
from django.contrib.auth.models import User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import set_script_prefix

from hubs.demos.views import content_security_policy

PAGES = ["/", "/demos/chat/", "/demos/moderated/", "/demos/logstream/"]


def text_of(client: Client, path: str, **headers: str) -> str:
    response = client.get(path, headers=headers)
    assert response.status_code == 200
    return response.content.decode()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_nothing_that_its_policy_forbids(client: Client, path: str) -> None:
    page = text_of(client, path)
    policy = client.get(path).headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page), "inline handler or style"
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page)), "inline script"
    assert "<style" not in page


@pytest.mark.parametrize("path", PAGES)
def test_every_file_a_page_names_is_served_from_here(client: Client, path: str) -> None:
    files = re.findall(r'(?:src|<link[^>]* href)="([^"]+)"', text_of(client, path))
    assert len(files) >= 3
    for file in files:
        assert file.startswith("/static/")
        assert finders.find(file.removeprefix("/static/")), file


@pytest.mark.parametrize("path", ["/", "/demos/logstream/"])
def test_snippets_name_the_endpoint_the_visitor_used(client: Client, path: str) -> None:
    assert "Endpoint=http://127.0.0.1:9999;AccessKey=" in html.unescape(text_of(client, path, host="127.0.0.1:9999"))


def test_the_front_page_leads_everywhere(client: Client) -> None:
    links = set(re.findall(r'<a [^>]*href="([^"]+)"', text_of(client, "/")))
    assert {
        "/demos/chat/",
        "/demos/moderated/",
        "/demos/logstream/",
        "/admin/",
        "/admin/hubs/accesskey/",
        "/admin/client-url/",
    } <= links


def test_addresses_follow_a_service_below_a_prefix(client: Client) -> None:
    set_script_prefix("/pubsub/")
    try:
        chat, front = text_of(client, "/demos/chat/"), text_of(client, "/")
    finally:
        set_script_prefix("/")
    assert 'data-negotiate="/pubsub/api/negotiate/chat"' in chat
    assert "Endpoint=http://testserver/pubsub;" in front


def test_a_visitor_chooses_a_name(client: Client) -> None:
    page = text_of(client, "/demos/chat/")
    assert "Your name" in page
    assert "data-signed-in" not in page


@pytest.mark.django_db
def test_somebody_signed_in_keeps_the_account_s_name(client: Client) -> None:
    client.force_login(User.objects.create_user("o.brian@example.com"))
    page = text_of(client, "/demos/chat/")
    assert "You are signed in as" in page
    assert 'value="o.brian@example.com" readonly' in page
    assert "Change name" not in page


@pytest.mark.parametrize("path", PAGES)
def test_pages_are_for_reading(client: Client, path: str) -> None:
    assert client.post(path).status_code == 405
    assert client.head(path).status_code == 200


@pytest.mark.parametrize(
    ("static_url", "files"),
    [
        ("/static/", "'self'"),
        ("https://files.example.com/static/", "'self' https://files.example.com"),
        ("//files.example.com/", "'self' https://files.example.com"),
    ],
)
def test_the_policy_allows_files_where_they_are(static_url: str, files: str) -> None:
    assert f"script-src {files};" in content_security_policy(static_url)
