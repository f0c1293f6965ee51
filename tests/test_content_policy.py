"""The Content-Security-Policy of the admin's pages. tests/browser/test_admin_pages.py has them keep to it."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client

from pubsub_site.content_policy import content_security_policy

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("path", ["/admin/", "/admin/login/", "/admin/client-url/", "/admin/nowhere/"])
def test_the_admins_pages_have_a_content_policy_and_no_scripts_in_them(client: Client, path: str) -> None:
    for _ in range(2):
        response = client.get(path)
        policy = response["Content-Security-Policy"]
        assert "script-src 'self' 'unsafe-eval';" in policy
        assert "frame-ancestors 'none'" in policy
        assert not re.search(r"<script(?![^>]*\ssrc=)|\son[a-z]+=", response.content.decode())
        client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])


def test_the_policy_knows_a_static_host() -> None:
    policy = content_security_policy("https://cdn.example/static/")
    assert "script-src 'self' https://cdn.example 'unsafe-eval';" in policy
    assert "Content-Security-Policy" not in Client().get("/api/health").headers
