"""A look from another machine, at a name that no setting has, is told which setting that is."""

from __future__ import annotations

import pytest
from django.test import Client


@pytest.mark.parametrize("path", ["/", "/api/negotiate/chat", "/nowhere"])
def test_a_name_that_is_not_ours(client: Client, caplog: pytest.LogCaptureFixture, path: str) -> None:
    answer = client.get(path, headers={"host": "192.168.1.5:8080"})
    assert answer.status_code == 400
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert "PUBLIC_ENDPOINT=http://192.168.1.5:8080" in answer.content.decode()
    assert "ALLOWED_HOSTS" in answer.content.decode()
    [said] = [record.getMessage() for record in caplog.records if record.name != "django.security.DisallowedHost"]
    assert "the host 192.168.1.5:8080, " in said
    assert "set PUBLIC_ENDPOINT=http://192.168.1.5:8080, or add that address to EXTRA_ENDPOINTS." in said


@pytest.mark.parametrize("host", ['a"b<script>', "a b", "a/b", "x" * 300])
def test_what_cannot_be_a_name_is_not_repeated(client: Client, host: str) -> None:
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 400
    assert host not in answer.content.decode()
